"""Answer picture files with the compiled models of a run, each by the harness on its device."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgedistill.check.reference import MODES, Pass, rules_of
from edgedistill.data.images import open_image
from edgedistill.data.sources import Array
from edgedistill.deploy.devices.transport import HarnessCall
from edgedistill.deploy.harness import call_harness
from edgedistill.kits.kits import Kit, targets_folder
from edgedistill.records.base import Record
from edgedistill.records.contract import Contract
from edgedistill.records.stages import Artifact
from edgedistill.runtime.folder import Run
from edgedistill.runtime.scratch import scratch_folder

TIMEOUT_S = 600.0


class Compiled(Record):
    """A compiled model with its kit, its threads and its contract."""

    artifact: Artifact
    kit: Kit
    threads: int
    contract: Contract


class Timing(Record):
    """The median milliseconds of a picture: preprocessing, the network, postprocessing, and all of it."""

    preprocess_ms: float
    network_ms: float
    postprocess_ms: float
    total_ms: float


def answer_pictures(run: Run, compiled: Compiled, files: Sequence[Path]) -> tuple[list[Pass], Timing]:
    """Answer picture files with a compiled model on its device; raises DeviceError if the engine or the device fails."""
    rules, artifact = rules_of(compiled.contract), compiled.artifact
    with scratch_folder() as folder:
        pictures = {f"{i:06}": np.asarray(open_image(file, MODES[rules.colour])) for i, file in enumerate(files)}
        np.savez(folder / "pictures.npz", allow_pickle=False, **pictures)
        answered = call_harness(artifact.device, _call(run, compiled, folder))
        with np.load(folder / "answers" / "answers.npz", allow_pickle=False) as arrays:
            passes = [_pass(arrays, number) for number in range(len(files))]
    return passes, _timing(np.array(answered["nanoseconds"], np.float64))


def _call(run: Run, compiled: Compiled, folder: Path) -> HarnessCall:
    artifact, kit = compiled.artifact, compiled.kit
    entry = run.folder / artifact.entry
    models = {f"model/{(run.folder / one.path).relative_to(entry.parent).as_posix()}": one for one in artifact.files}
    spec = {
        "kit": kit.name, "kit_dir": f"kits/{kit.name}", "entry": f"model/{entry.name}", "precision": artifact.precision,
        "threads": compiled.threads, "contract": compiled.contract.model_dump(mode="json", by_alias=True),
        "pictures": "pictures.npz", "out": "answers/answers.npz",
    }  # fmt: skip
    sends = {
        "harness": targets_folder() / "harness",
        f"kits/{kit.name}": kit.folder,
        "pictures.npz": folder / "pictures.npz",
    }
    return HarnessCall(
        ("answer", "spec.json"), sends | {name: run.path(one) for name, one in models.items()}, {"spec.json": json.dumps(spec)},
        returns={"answers": folder / "answers"}, timeout_s=TIMEOUT_S,
    )  # fmt: skip


def _pass(arrays: Mapping[str, Array], number: int) -> Pass:
    prefix = f"{number}.output."
    outputs = {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}
    return Pass(arrays[f"{number}.request"], outputs, arrays[f"{number}.answer"])


def _timing(nanoseconds: Array) -> Timing:
    """Return the medians of the times (pictures, 3) in milliseconds, without the first picture, which warms up, if there are others."""
    steady = nanoseconds[1:] if len(nanoseconds) > 1 else nanoseconds
    before, network, after = np.median(steady, axis=0) / 1e6
    return Timing(
        preprocess_ms=before, network_ms=network, postprocess_ms=after, total_ms=float(np.median(steady.sum(1)) / 1e6)
    )
