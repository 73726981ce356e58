"""The compile and bench stages: every model of a run, for every target, in fresh processes of the device half."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from edgedistill.config.schema import TargetConfig
from edgedistill.deploy.devices.address import artifact_folder, parse_address
from edgedistill.deploy.harness import Compilation, compile_models, probe, run_bench
from edgedistill.errors import DeviceError, ParityError
from edgedistill.kits.kits import Form, Kit, read_kit
from edgedistill.records.bench_job import Arm, BenchJob
from edgedistill.records.lineage import lineage_of
from edgedistill.records.measurement import Measurement, ModelIdentity
from edgedistill.records.stages import (
    Artifact,
    BenchRecord,
    CompileRecord,
    Engine,
    ExportRecord,
    OnnxModel,
    QuantizedRecord,
    StudentRecord,
    TeacherRecord,
)
from edgedistill.runtime.job import Job
from edgedistill.runtime.progress import Advance, Reporter
from edgedistill.tasks.tasks import TASKS

OF_PAGES = "browser-"
"""How the names of measurements begin that 'edgedistill serve' took in; no bench makes them again, so it keeps them."""

# Below these an engine does not run the model that was exported; int8 kernels may round the odd tie another way.
MIN_AGREEMENT = {"fp32": 0.995, "fp16": 0.99, "int8": 0.90}


@cache
def _local_device() -> dict[str, str]:
    """Return what tells this machine from another, without asking an engine."""
    try:
        machine = Path("/etc/machine-id").read_text(encoding="utf-8")
        cpu = next(
            (line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if "model name" in line),
            "",
        )
    except OSError:
        machine, cpu = platform.node(), platform.processor()
    identity = hashlib.sha256(f"edgedistill{machine}{cpu}".encode()).hexdigest()
    return {"id": identity, "arch": platform.machine(), "python": platform.python_version()}


def identify_device(kit: Kit, address: str) -> dict[str, str]:
    """Return what decides an artifact beside its model: device, architecture, Python and, where it is asked, the engine.

    Another device is asked once in a process, and so is this one where a kit's form depends on the engine's version. Raises
    DeviceError when it cannot be reached or lacks the engine.
    """
    known = address == "local" and not kit.form
    return _local_device() if known else _ask_device(kit.name, kit.folder, address)


def form_on(kit: Kit, address: str) -> Form:
    """Return the form of models that a device takes, by its architecture and its engine's version."""
    device = identify_device(kit, address)
    return kit.form_for(device["arch"], device.get("engine", "").rpartition(" ")[2])


@cache
def _ask_device(name: str, folder: Path, address: str) -> dict[str, str]:
    facts = probe(read_kit(folder).model_copy(update={"name": name}), address).device(address)
    engine = f"{facts.engine.name} {facts.engine.version}"
    return {"id": facts.id, "cpu": facts.cpu, "arch": facts.arch, "python": facts.python or "", "engine": engine}


def compile_artifacts(job: Job) -> CompileRecord:
    """Compile the teacher in float and the student in each precision, for each target; several devices at once."""
    pairs = [(target, model) for target in job.config.target for model in _models_for(job, target)]
    works = [_compilation(job, target, model) for target, model in pairs]
    artifacts = []
    for (target, model), work, made in zip(pairs, works, compile_models(works, job.report.line), strict=True):
        if isinstance(made, DeviceError):
            raise made
        artifacts.append(_artifact(job, target, model, work.out, made))
    return CompileRecord(artifacts=tuple(artifacts))


def _models_for(job: Job, target: TargetConfig) -> Iterator[OnnxModel]:
    form = form_on(job.kits[target.kit], target.device)
    for model in job.result(ExportRecord.stage, ExportRecord).models:
        if model.encoding not in (None, form.encoding):
            continue
        if model.precision in target.precisions or (model.name, model.precision) == ("teacher", "fp32"):
            yield model


def _compilation(job: Job, target: TargetConfig, model: OnnxModel) -> Compilation:
    variant = model.precision if model.name == "student" else f"{model.name}-{model.precision}"
    folder = job.folder("artifacts") / artifact_folder(target.kit, target.device) / variant
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return Compilation(
        kit=job.kits[target.kit], model=job.run.path(model.file), precision=model.precision, threads=target.threads,
        out=folder, address=target.device,
    )  # fmt: skip


def _artifact(job: Job, target: TargetConfig, model: OnnxModel, folder: Path, made: dict[str, Any]) -> Artifact:
    files = tuple(job.run.ref(folder / name) for name in made["files"])
    job.report.line(f"compile: {target.name}, {model.name} {model.precision}, {sum(f.bytes for f in files):,} bytes")
    return Artifact(
        name=model.name, target=target.name, kit=target.kit, device=target.device, precision=model.precision,
        entry=(folder / made["entry"]).relative_to(job.run.folder).as_posix(), files=files,
        extras=tuple(job.run.ref(folder / name) for name in made["extras"]),
        size_bytes=sum(file.bytes for file in files), engine=Engine.model_validate(made["engine"]),
        parent=model.file.sha256,
    )  # fmt: skip


def bench_artifacts(job: Job) -> BenchRecord:
    """Check and measure every artifact, interleaved.

    Raises DeviceError when an engine fails, and ParityError when an artifact does not answer as the model that was
    exported; what was measured is in the run folder either way.
    """
    artifacts = job.result(CompileRecord.stage, CompileRecord).artifacts
    names = [_measurement_name(artifact) for artifact in artifacts]
    bench = job.config.bench
    bench_job = BenchJob(
        processes=bench.processes, seconds=bench.seconds, seed=job.config.seed, soak_seconds=60 * bench.soak_minutes,
        meter=None if bench.meter is None else str(job.config.path(bench.meter)),
        arms=tuple(_arm(job, name, artifact) for name, artifact in zip(names, artifacts, strict=True)),
    )  # fmt: skip
    lines = bench.processes + 2 + (bench.soak_minutes > 0)  # check, processes, throughput, the sustained run
    with job.report.track("bench", len(artifacts) * lines) as advance:
        results = dict(run_bench(bench_job, job.run.folder.resolve(), partial(_tell, job.report, advance)))
    failed = {name: result for name, result in results.items() if not isinstance(result, Measurement)}
    if failed:
        raise DeviceError("\n".join(f"{name}: {reason}" for name, reason in failed.items()))
    _require_parity(results)
    folder = job.run.folder / "measurements"
    exported = {model.file.sha256 for model in job.result(ExportRecord.stage, ExportRecord).models}
    for path in [path for path in folder.iterdir() if path.is_file() and path.stem not in names]:
        if not path.name.startswith(OF_PAGES) or _model_of(path.with_suffix(".json")) not in exported:
            path.unlink()  # of a target that the configuration no longer has, or a model that is no more
    return BenchRecord(measurements=tuple(job.run.ref(folder / f"{name}.json") for name in names))


def _model_of(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["model"]["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _tell(report: Reporter, advance: Advance, line: str) -> None:
    report.detail(line)
    advance(int(line.startswith("bench ")), line.removeprefix("bench "))


def _measurement_name(artifact: Artifact) -> str:
    role = "" if artifact.name == "student" else f"{artifact.name}-"
    return f"{parse_address(artifact.device).label}-{artifact.kit}-{role}{artifact.precision}"


def _arm(job: Job, name: str, artifact: Artifact) -> Arm:
    model = next(m for m in job.result(ExportRecord.stage, ExportRecord).models if m.file.sha256 == artifact.parent)
    target = next(t for t in job.config.target if t.name == artifact.target)
    lineage = lineage_of(
        model, job.data, job.result(TeacherRecord.stage, TeacherRecord),
        job.result(StudentRecord.stage, StudentRecord), job.result(QuantizedRecord.stage, QuantizedRecord),
    )  # fmt: skip
    return Arm(
        name=name, target=artifact.target, address=artifact.device, kit=artifact.kit,
        kit_dir=str(job.kits[artifact.kit].folder), precision=artifact.precision, threads=target.threads,
        entry=artifact.entry, files=tuple(file.path for file in artifact.files), size_bytes=artifact.size_bytes,
        model=ModelIdentity(name=model.name, sha256=model.file.sha256, lineage=lineage), io=model.io.path,
        expected=model.expected, metric=TASKS[job.data.task].metric,
        watts=job.config.bench.watts if target.watts is None else target.watts,
    )  # fmt: skip


def _require_parity(results: dict[str, Any]) -> None:
    for name, measured in results.items():
        least = MIN_AGREEMENT[measured.precision.requested]
        if measured.parity is not None and measured.parity.agreement < least:
            raise ParityError(
                f"{name}: agrees with the exported model on {measured.parity.agreement:.2%} of the test inputs, at least "
                f"{least:.1%} is required; the measurement is kept in the run folder, but do not ship this artifact"
            )
