"""The compile and bench stages: every model of a run, for every target, in fresh processes of the device half."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from edgedistill.config.schema import TargetConfig
from edgedistill.deploy.devices.address import artifact_folder, parse_address
from edgedistill.deploy.harness import Compilation, compile_models, run_bench
from edgedistill.deploy.progress_words import Voice
from edgedistill.deploy.settings import BenchSettings, CompileSettings, TargetSettings
from edgedistill.errors import DeviceError, ParityError
from edgedistill.records.bench_job import Arm, BenchJob
from edgedistill.records.lineage import lineage_of
from edgedistill.records.measurement import Measurement, ModelIdentity
from edgedistill.records.stages import Artifact, BenchRecord, CompileRecord, Engine, OnnxModel
from edgedistill.stages.stage import Workspace
from edgedistill.tasks.table import find_task

OF_PAGES = "browser-"
"""How the names of measurements begin that 'edgedistill serve' took in; no bench makes them again, so it keeps them."""

# Below these an engine does not run the model that was exported; int8 kernels may round the odd tie another way.
MIN_AGREEMENT = {"fp32": 0.995, "fp16": 0.99, "int8": 0.90}


def compile_artifacts(settings: CompileSettings, workspace: Workspace) -> CompileRecord:
    """Compile the teacher in float and the student in each precision, for each target; several devices at once."""
    pairs = [(one, model) for one in settings.targets for model in settings.export.models if one.takes(model)]
    works = [_compilation(workspace, one, model) for one, model in pairs]
    artifacts = []
    for (one, model), work, made in zip(pairs, works, compile_models(works, workspace.report.info), strict=True):
        if isinstance(made, DeviceError):
            raise made
        artifacts.append(_artifact(workspace, one.target, model, work.out, made))
    return CompileRecord(artifacts=tuple(artifacts))


def _compilation(workspace: Workspace, one: TargetSettings, model: OnnxModel) -> Compilation:
    target = one.target
    variant = model.precision if model.name == "student" else f"{model.name}-{model.precision}"
    folder = workspace.folder("artifacts") / artifact_folder(target.kit, target.device) / variant
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return Compilation(
        kit=one.kit, model=workspace.path(model.file), precision=model.precision, threads=target.threads,
        out=folder, address=target.device,
    )  # fmt: skip


def _artifact(
    workspace: Workspace, target: TargetConfig, model: OnnxModel, folder: Path, made: dict[str, Any]
) -> Artifact:
    files = tuple(workspace.describe(folder / name) for name in made["files"])
    workspace.report.info(
        f"compile: {target.name}, {model.name} {model.precision}, {sum(f.bytes for f in files):,} bytes"
    )
    return Artifact(
        name=model.name, target=target.name, kit=target.kit, device=target.device, precision=model.precision,
        entry=(folder / made["entry"]).relative_to(workspace.root).as_posix(), files=files,
        extras=tuple(workspace.describe(folder / name) for name in made["extras"]),
        size_bytes=sum(file.bytes for file in files), engine=Engine.model_validate(made["engine"]),
        parent=model.file.sha256,
    )  # fmt: skip


def bench_artifacts(settings: BenchSettings, workspace: Workspace) -> BenchRecord:
    """Check and measure every artifact, interleaved.

    Raises DeviceError when an engine fails, and ParityError when an artifact does not answer as the model that was
    exported; what was measured is in the run folder either way.
    """
    artifacts = settings.compiled.artifacts
    names = [_measurement_name(artifact) for artifact in artifacts]
    bench = settings.bench
    job = BenchJob(
        out="measurements", processes=bench.processes, seconds=bench.seconds, caches=bench.caches,
        seed=settings.seed,
        soak_seconds=60 * bench.soak_minutes, meter=None if settings.meter is None else str(settings.meter),
        arms=tuple(_arm(settings, name, artifact) for name, artifact in zip(names, artifacts, strict=True)),
    )  # fmt: skip
    lines = bench.processes + 2 + (bench.soak_minutes > 0)  # check, processes, throughput, the sustained run
    with workspace.report.track("bench", len(artifacts) * lines) as advance:
        named = {name: f"{one.target}, {one.name} {one.precision}" for name, one in zip(names, artifacts, strict=True)}
        metric = find_task(settings.data.task).metric_title
        voice = Voice(workspace.report.log_step, named, metric, lambda text: advance(1, text))
        results = dict(run_bench(job, workspace.root.resolve(), voice))
    failed = {name: result for name, result in results.items() if not isinstance(result, Measurement)}
    if failed:
        raise DeviceError("\n".join(f"{named[name]}: {reason}" for name, reason in failed.items()))
    _require_parity({named[name]: measured for name, measured in results.items()})
    folder = workspace.root / "measurements"
    exported = {model.file.sha256 for model in settings.export.models}
    for path in [path for path in folder.iterdir() if path.is_file() and path.stem not in names]:
        if not path.name.startswith(OF_PAGES) or _model_of(path.with_suffix(".json")) not in exported:
            path.unlink()  # of a target that the configuration no longer has, or a model that is no more
    return BenchRecord(measurements=tuple(workspace.describe(folder / f"{name}.json") for name in names))


def _model_of(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["model"]["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _measurement_name(artifact: Artifact) -> str:
    role = "" if artifact.name == "student" else f"{artifact.name}-"
    return f"{parse_address(artifact.device).label}-{artifact.kit}-{role}{artifact.precision}"


def _arm(settings: BenchSettings, name: str, artifact: Artifact) -> Arm:
    model = next(m for m in settings.export.models if m.file.sha256 == artifact.parent)
    one = next(one for one in settings.targets if one.target.name == artifact.target)
    lineage = lineage_of(model, settings.data, settings.teacher, settings.student, settings.quantized)
    return Arm(
        name=name, target=artifact.target, address=artifact.device, kit=artifact.kit, kit_dir=str(one.kit.folder),
        precision=artifact.precision, threads=one.target.threads, entry=artifact.entry,
        files=tuple(file.path for file in artifact.files), size_bytes=artifact.size_bytes,
        model=ModelIdentity(name=model.name, sha256=model.file.sha256, lineage=lineage), io=model.io.path,
        expected=model.expected, metric=find_task(settings.data.task).metric,
        output=model.judged_output, threshold=model.threshold,
        contract=model.contract, pictures=None if settings.export.pictures is None else settings.export.pictures.path,
        watts=settings.bench.watts if one.target.watts is None else one.target.watts,
    )  # fmt: skip


def _require_parity(results: dict[str, Any]) -> None:
    for name, measured in results.items():
        least = MIN_AGREEMENT[measured.precision.requested]
        if measured.parity is not None and not measured.parity.holds(least):
            raise ParityError(
                f"{name}: agrees with the exported model on {measured.parity.agreement:.2%} of the test inputs, at least "
                f"{least:.1%} is required; the measurement is kept in the run folder, but do not ship this artifact"
            )
