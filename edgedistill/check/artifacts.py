"""Answer picture files and texts with the compiled models of a run, each by the harness on its device."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgedistill.check.reference import MODES, Pass, rules_of
from edgedistill.data.images import open_image
from edgedistill.data.sources import Array
from edgedistill.deploy.devices.transport import HarnessCall
from edgedistill.deploy.harness import call_harness
from edgedistill.kits.kits import Kit, targets_folder
from edgedistill.records.base import Record
from edgedistill.records.contract import Contract
from edgedistill.records.stages import Artifact, CompileRecord
from edgedistill.runtime.arrays import write_arrays
from edgedistill.runtime.folder import Run, require_unchanged
from edgedistill.runtime.scratch import scratch_folder

TIMEOUT_S = 600.0


class Compiled(Record):
    """A compiled model with its kit, its threads and its contract."""

    artifact: Artifact
    kit: Kit
    threads: int
    contract: Contract


class Timing(Record):
    """The median milliseconds of a picture or text: preprocessing, the network, postprocessing, and all of it."""

    preprocess_ms: float
    network_ms: float
    postprocess_ms: float
    total_ms: float


class Texts(NamedTuple):
    """Texts, one or two for each sample, and their requests (inputs, tokens), for devices that cannot tokenize."""

    texts: Sequence[tuple[str, ...]]
    tokens: Sequence[Array]


class Answered(NamedTuple):
    """The passes of an artifact, what a sample took, and whether the device tokenized the texts."""

    passes: list[Pass]
    timing: Timing
    tokenized: bool


def answer_pictures(run: Run, compiled: Compiled, files: Sequence[Path]) -> Answered:
    """Answer picture files with a compiled model on its device; raises DeviceError if the engine or the device fails."""
    rules = rules_of(compiled.contract)
    with scratch_folder() as folder:
        pictures = {f"{i:06}": np.asarray(open_image(file, MODES[rules.colour])) for i, file in enumerate(files)}
        write_arrays(folder / "pictures.npz", pictures)
        sends = {"pictures.npz": folder / "pictures.npz"}
        return _answered(run, compiled, folder, {"pictures": "pictures.npz"}, sends)


def answer_texts(run: Run, compiled: Compiled, texts: Texts, tokenizer: Path) -> Answered:
    """Answer texts with a compiled model on its device, which tokenizes them if it has the package `tokenizers`.

    Raises DeviceError if the engine or the device fails.
    """
    with scratch_folder() as folder:
        tokens = {f"{i:06}": one for i, one in enumerate(texts.tokens)}
        write_arrays(folder / "tokens.npz", tokens)
        name = f"tokenizer/{tokenizer.name}"
        asked = {"texts": texts.texts, "tokens": "tokens.npz", "tokenizer": name}
        return _answered(run, compiled, folder, asked, {"tokens.npz": folder / "tokens.npz", name: tokenizer})


def _answered(
    run: Run, compiled: Compiled, folder: Path, asked: Mapping[str, Any], sends: Mapping[str, Path]
) -> Answered:
    """Return the answers of the harness for what is `asked`, a part of its specification; `folder` is for the answers."""
    found = call_harness(compiled.artifact.device, _call(run, compiled, folder, asked, sends))
    with np.load(folder / "answers" / "answers.npz", allow_pickle=False) as arrays:
        passes = [_pass(arrays, number) for number in range(len(found["nanoseconds"]))]
    return Answered(passes, _timing(np.array(found["nanoseconds"], np.float64)), found["tokenized"])


def _call(
    run: Run, compiled: Compiled, folder: Path, asked: Mapping[str, Any], sends: Mapping[str, Path]
) -> HarnessCall:
    artifact, kit = compiled.artifact, compiled.kit
    entry = run.folder / artifact.entry
    models = {f"model/{(run.folder / one.path).relative_to(entry.parent).as_posix()}": one for one in artifact.files}
    spec = {
        "kit": kit.name, "kit_dir": f"kits/{kit.name}", "entry": f"model/{entry.name}", "precision": artifact.precision,
        "threads": compiled.threads, "contract": compiled.contract.model_dump(mode="json", by_alias=True),
        "out": "answers/answers.npz", **asked,
    }  # fmt: skip
    program = {"harness": targets_folder() / "harness", f"kits/{kit.name}": kit.folder}
    files = {name: require_unchanged(run, one, CompileRecord.stage) for name, one in models.items()}
    return HarnessCall(
        ("answer", "spec.json"), program | dict(sends) | files, {"spec.json": json.dumps(spec)},
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
