"""Measure models again that were measured before: find their files, compile them, and let them take turns in one job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgedistill.deploy.devices.transport import Progress
from edgedistill.deploy.harness import Compilation, compile_models, run_bench
from edgedistill.deploy.onnx_file import FIXED_SHAPES
from edgedistill.errors import ConfigError, DeviceError
from edgedistill.kits.kits import Kit, find_kit
from edgedistill.records.base import Record
from edgedistill.records.bench_job import Arm, BenchJob
from edgedistill.records.measurement import Measurement
from edgedistill.records.stages import ExportRecord, OnnxModel
from edgedistill.runtime.files import sha256_of
from edgedistill.runtime.folder import Run, read_record, require_unchanged

IO = "io.npz"


class AgainOptions(Record):
    """How to measure again: fresh processes, seconds of inference in each, and the passes besides latency, or None for all."""

    processes: int
    seconds: float
    passes: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """A measurement, and what is needed to repeat it: the kit, the device, the ONNX file, and its recorded inputs and outputs."""

    measured: Measurement
    kit: Kit
    address: str
    model: Path
    io: Path
    expected: str | None
    metric: str | None
    output: str | None = None
    threshold: float | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    """Why values are not measured, by field."""


def measure_again(
    models: Sequence[MeasuredModel], options: AgainOptions, folder: Path, progress: Progress
) -> list[tuple[Path, Measurement]]:
    """Compile models on their devices and measure them in one job; return each measurement and its file in `folder`.

    A model that is listed twice is compiled once and measured as two. The CPU's caches are as for the first model. Raises DeviceError when an engine fails.
    """
    works = _works(models, folder.resolve())
    made = dict(zip(works, compile_models(list(works.values()), progress), strict=True))
    arms = []
    for number, one in enumerate(models):
        compiled = made[_key(one)]
        if isinstance(compiled, DeviceError):
            raise compiled
        name = f"{number}-{one.measured.model.name}-{one.kit.name}-{one.measured.precision.requested}"
        arms.append(_arm(name, one, works[_key(one)], compiled))
    job = BenchJob(
        arms=tuple(arms), processes=options.processes, seconds=options.seconds, passes=options.passes,
        caches=caches_of(models[0].measured),
    )  # fmt: skip
    results = []
    for name, result in run_bench(job, folder, progress):
        if not isinstance(result, Measurement):
            raise DeviceError(f"{name}: {result}")
        results.append((folder / job.out / f"{name}.json", result))
    return results


def caches_of(measured: Measurement) -> Literal["warm", "cold"]:
    """Return the state of the CPU's caches before each inference of a measurement."""
    return "warm" if measured.duet is None else measured.duet.caches


def seconds_of(measured: Measurement) -> float:
    """Return for how long a process of a measurement ran inferences, by their number and median latency."""
    return max(process.n * process.p50_ns for process in measured.processes) / 1e9


def find_model(measured: Measurement, file: Path, kits: Mapping[str, Kit]) -> MeasuredModel:
    """Return the model of a measurement file in a run folder, or in the folder of `bench MODEL.onnx`.

    Raises ConfigError that names the file which is missing or was changed.
    """
    folder = file.resolve().parent.parent
    kit, address = find_kit(measured.kit, dict(kits)), measured.device.address
    metric = None if measured.accuracy is None else measured.accuracy.metric
    exported = exported_model(folder, measured)
    if exported is not None:
        run = Run(folder)
        files = require_unchanged(run, exported.file), require_unchanged(run, exported.io)
        return MeasuredModel(
            measured, kit, address, *files, exported.expected, metric, exported.judged_output, exported.threshold
        )
    if (folder / "manifest.json").is_file():
        raise ConfigError(
            f"{file}: its model was exported again after it was measured; run 'edgedistill bench CONFIG' first"
        )
    model = prepared_copy(folder, measured)
    if model is None:
        copy = folder / "onnx" / f"{measured.model.name}.onnx"
        raise ConfigError(
            f"{copy}: missing or changed: the model of {file} (SHA-256 {measured.model.sha256[:12]}…) is not at hand; give the "
            "run folder that made the measurement, or measure the models with 'edgedistill bench A.onnx B.onnx'"
        )
    io = model.with_name(IO)
    if not io.is_file():
        raise ConfigError(f"{io}: missing; measure the model again with 'edgedistill bench {model.name}'")
    reasons = {name: why for name, why in measured.reasons.items() if name in ("accuracy", "parity")}
    expected = _recorded_outputs(io, model.stem)
    return MeasuredModel(measured, kit, address, model, io, expected, metric, reasons=reasons)


def is_at_hand(measured: Measurement, file: Path) -> bool:
    """Tell whether the model of a measurement file is where `find_model` looks; only copies of ONNX files are hashed."""
    folder = file.resolve().parent.parent
    exported = exported_model(folder, measured)
    found = prepared_copy(folder, measured) if exported is None else folder / exported.file.path
    return found is not None and found.is_file()


def exported_model(folder: Path, measured: Measurement) -> OnnxModel | None:
    """Return the exported model of a run folder that was measured, or None."""
    record = read_record(Run(folder), ExportRecord) if (folder / "manifest.json").is_file() else None
    models = () if record is None else record.models
    return next((model for model in models if model.file.sha256 == measured.model.sha256), None)


def prepared_copy(folder: Path, measured: Measurement) -> Path | None:
    """Return the copy with fixed shapes of an ONNX file that was measured, or None where it is missing or was changed."""
    sha256 = measured.model.lineage.get(FIXED_SHAPES)
    copies = sorted((folder / "onnx").rglob("*.onnx")) if sha256 else []
    return next((path for path in copies if sha256_of(path) == sha256), None)


def _recorded_outputs(io: Path, key: str) -> str | None:
    """Return the key of the recorded outputs, or None where the reference refused the model."""
    import numpy as np

    with np.load(io, allow_pickle=False) as arrays:
        return key if any(name.startswith(f"expected.{key}.") for name in arrays.files) else None


def _key(one: MeasuredModel) -> tuple[object, ...]:
    return one.address, one.kit.name, one.model, one.measured.precision.requested, one.measured.threads


def _works(models: Sequence[MeasuredModel], folder: Path) -> dict[tuple[object, ...], Compilation]:
    works: dict[tuple[object, ...], Compilation] = {}
    for one in models:
        out = folder / "artifacts" / str(len(works))
        works.setdefault(_key(one), Compilation(
            kit=one.kit, model=one.model, precision=one.measured.precision.requested, threads=one.measured.threads,
            out=out, address=one.address,
        ))  # fmt: skip
    for work in works.values():
        work.out.mkdir(parents=True)
    return works


def _arm(name: str, one: MeasuredModel, work: Compilation, made: Mapping[str, Any]) -> Arm:
    files, m = [work.out / file for file in made["files"]], one.measured
    return Arm(
        name=name, target=m.target, address=one.address, kit=one.kit.name, kit_dir=str(one.kit.folder),
        precision=m.precision.requested, threads=m.threads, entry=str(work.out / made["entry"]),
        files=tuple(str(file) for file in files), size_bytes=sum(file.stat().st_size for file in files), model=m.model,
        io=str(one.io.resolve()), expected=one.expected, metric=one.metric, output=one.output, threshold=one.threshold,
        reasons=one.reasons,
    )  # fmt: skip
