"""Measure models again that were measured before: find their files, compile them, and let them take turns in one job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edgedistill.deploy.devices.transport import Progress
from edgedistill.deploy.harness import Compilation, compile_models, run_bench
from edgedistill.deploy.identity import ask_device
from edgedistill.deploy.onnx_file import FIXED_SHAPES
from edgedistill.errors import ConfigError, DeviceError
from edgedistill.kits.kits import Kit, find_kit
from edgedistill.records.base import Record
from edgedistill.records.bench_job import Arm, BenchJob
from edgedistill.records.measurement import Measurement
from edgedistill.records.stages import CompileRecord, Engine, ExportRecord, OnnxModel
from edgedistill.runtime.files import sha256_of
from edgedistill.runtime.folder import Run, read_record, require_unchanged

IO = "io.npz"


class AgainOptions(Record):
    """How to measure again: fresh processes, seconds of inference in each, and the passes besides latency, or None for all."""

    processes: int
    seconds: float
    passes: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled model, `entry` is one of its `files`; `engine` is None for one that was compiled a moment ago."""

    entry: Path
    files: tuple[Path, ...]
    engine: Engine | None = None


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
    compiled: Compiled | None = None
    """The artifact that was measured, where the run folder still has it."""


def measure_again(
    models: Sequence[MeasuredModel], options: AgainOptions, folder: Path, progress: Progress
) -> list[tuple[Path, Measurement]]:
    """Measure models in one job; return each measurement and its file in `folder`.

    A run's artifact is measured if its device still has the same engine; other models are compiled. A model that is listed twice
    is compiled once and measured as two. The CPU's caches are as for the first model. Raises DeviceError when an engine fails.
    """
    compiled = _compiled(models, folder.resolve(), progress)
    arms = []
    for number, one in enumerate(models):
        name = f"{number}-{one.measured.model.name}-{one.kit.name}-{one.measured.precision.requested}"
        arms.append(_arm(name, one, compiled[_key(one)]))
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
            measured, kit, address, *files, exported.expected, metric, exported.judged_output, exported.threshold,
            compiled=_artifact(run, measured),
        )  # fmt: skip
    if (folder / "manifest.json").is_file():
        raise ConfigError(
            f"{file}: its model was exported again after it was measured; run 'edgedistill bench CONFIG' first"
        )
    model = prepared_copy(folder, measured)
    if model is None:
        copy = folder / "onnx" / f"{measured.model.name}.onnx"
        raise ConfigError(
            f"{copy}: missing or changed: the model of {file} (SHA-256 {measured.model.sha256[:12]}…) cannot be measured; give the "
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


def _artifact(run: Run, measured: Measurement) -> Compiled | None:
    """Return the artifact of a run that was measured; None where it is missing or was changed."""
    record = read_record(run, CompileRecord)
    wanted = measured.model.sha256, measured.kit, measured.device.address, measured.target
    for one in () if record is None else record.artifacts:
        if (one.parent, one.kit, one.device, one.target) == wanted and all(map(run.is_intact, one.files)):
            return Compiled(run.folder / one.entry, tuple(map(run.path, one.files)), one.engine)
    return None


def _is_current(one: MeasuredModel) -> bool:
    """Tell whether the device is the one that was measured, and has the engine that compiled the artifact."""
    if one.compiled is None:
        return False
    now = ask_device(one.kit.name, one.kit.folder, one.address).device(one.address)
    return (now.id, now.engine) == (one.measured.device.id, one.compiled.engine)


def _compiled(models: Sequence[MeasuredModel], folder: Path, progress: Progress) -> dict[tuple[object, ...], Compiled]:
    """Return the artifact of each model by its key; those that are no longer current are compiled in `folder`."""
    found = {_key(one): one.compiled for one in models if one.compiled is not None and _is_current(one)}
    works = _works([one for one in models if _key(one) not in found], folder)
    for (key, work), made in zip(works.items(), compile_models(list(works.values()), progress), strict=True):
        if isinstance(made, DeviceError):
            raise made
        found[key] = Compiled(work.out / made["entry"], tuple(work.out / file for file in made["files"]))
    return found


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


def _arm(name: str, one: MeasuredModel, compiled: Compiled) -> Arm:
    m = one.measured
    return Arm(
        name=name, target=m.target, address=one.address, kit=one.kit.name, kit_dir=str(one.kit.folder),
        precision=m.precision.requested, threads=m.threads, entry=str(compiled.entry),
        files=tuple(map(str, compiled.files)), size_bytes=sum(file.stat().st_size for file in compiled.files), model=m.model,
        io=str(one.io.resolve()), expected=one.expected, metric=one.metric, output=one.output, threshold=one.threshold,
        reasons=one.reasons,
    )  # fmt: skip
