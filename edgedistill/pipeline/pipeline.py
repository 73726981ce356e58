"""The stages in their order: each skipped when nothing that could change its result has changed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgedistill.config.schema import Config
from edgedistill.deploy.devices.address import parse_address
from edgedistill.errors import ConfigError
from edgedistill.kits.kits import FLOAT16_OPSET, Kit, find_kit, targets_folder
from edgedistill.pipeline.staleness import why_not_cached
from edgedistill.records.base import Record
from edgedistill.records.stages import (
    BenchRecord,
    CompileRecord,
    DataRecord,
    ExportRecord,
    QuantizedRecord,
    ReportRecord,
    SoftLabelsRecord,
    StudentRecord,
    TeacherRecord,
)
from edgedistill.runtime import processes
from edgedistill.runtime.files import hash_of, versions_of
from edgedistill.runtime.folder import Run, identity
from edgedistill.runtime.job import Job
from edgedistill.runtime.progress import Reporter
from edgedistill.runtime.user_code import is_function, module_file

TORCH: Final = ("edgedistill", "torch", "numpy")


@dataclass(frozen=True, slots=True)
class Stage:
    """One step: the record it makes, the stages it reads, the configuration and packages that could change its result."""

    name: str
    kind: type[Record]
    parents: tuple[str, ...]
    settings: Callable[[Job], dict[str, Any]]
    packages: tuple[str, ...]
    make: Callable[[Job], Record]


def _load_data(job: Job) -> Record:
    return job.dataset.record


def _make_teacher(job: Job) -> Record:
    from edgedistill.distill.teacher import make_teachers

    return make_teachers(job)


def _make_soft_labels(job: Job) -> Record:
    from edgedistill.distill.soft_labels import make_soft_labels

    return make_soft_labels(job)


def _make_student(job: Job) -> Record:
    from edgedistill.distill.student import make_student

    return make_student(job)


def _quantize(job: Job) -> Record:
    from edgedistill.quantize.stage import quantize_student

    return quantize_student(job)


def _export(job: Job) -> Record:
    from edgedistill.export.stage import export_models

    return export_models(job)


def _compile(job: Job) -> Record:
    from edgedistill.deploy.stage import compile_artifacts

    return compile_artifacts(job)


def _bench(job: Job) -> Record:
    from edgedistill.deploy.stage import bench_artifacts

    return bench_artifacts(job)


def _report(job: Job) -> Record:
    from edgedistill.report.report import write_report

    return ReportRecord(report=job.run.ref(write_report(job.run.folder, job.config.budgets)))


def _data_settings(job: Job) -> dict[str, Any]:
    return {"fingerprint": job.fingerprint}


def _view_settings(job: Job) -> dict[str, Any]:
    data = job.config.data
    mel = None if data.mel is None else data.mel.model_dump()
    return {"seed": job.config.seed, "augment": data.augment, "mel": mel, "mean": data.mean, "std": data.std}


def _teacher_settings(job: Job) -> dict[str, Any]:
    teachers = job.config.teachers
    named = [teacher.weights for teacher in teachers if teacher.weights]
    named += [teacher.model for teacher in teachers if Path(teacher.model).suffix in (".onnx", ".npy")]
    return _view_settings(job) | {
        "teachers": [teacher.model_dump(exclude={"engine", "weight"}) for teacher in teachers],
        "code": [_code_hash(job, teacher.model) for teacher in teachers],
        "files": [job.run.file_hash(job.config.path(name)) for name in named],
    }


def _soft_label_settings(job: Job) -> dict[str, Any]:
    from edgedistill.distill.cache import kept_logits

    settings = _view_settings(job) | {
        "views": job.config.distill.views,
        "teachers": [t.model_dump(include={"precision", "engine", "weight"}) for t in job.config.teachers],
        "code": [_code_hash(job, teacher.model) for teacher in job.config.teachers],
    }
    kept = kept_logits(job.config.distill, job.data)
    return settings | ({"top_k": kept} if kept else {})


def _student_settings(job: Job) -> dict[str, Any]:
    config = job.config
    return _view_settings(job) | {
        "student": config.student.model_dump(),
        "distill": config.distill.model_dump(exclude={"top_k"}),  # the soft labels are a parent
        "code": _code_hash(job, config.student.model or config.teacher.model),
        "loss": _code_hash(job, config.distill.loss),
    }


def _quantize_settings(job: Job) -> dict[str, Any]:
    """Return what decides the int8 model; the epochs and batches of a fine-tuning only where there may be one."""
    quantize, distill = job.config.quantize, job.config.distill
    settings = _view_settings(job) | {"int8": any("int8" in target.precisions for target in job.config.target)}
    if quantize.mode in ("none", "ptq"):
        return settings | {"quantize": quantize.model_dump(exclude={"max_drop", "epochs", "lr"})}
    finetuning = distill.model_dump(include={"batch_size", "temperature", "accumulate"})
    kit = next((target.kit for target in job.config.target if "int8" in target.precisions), None)
    return settings | {"quantize": quantize.model_dump(), "finetuning": finetuning, "kit": kit}


def _export_settings(job: Job) -> dict[str, Any]:
    kits = {target.kit: job.kits[target.kit] for target in job.config.target}
    return _view_settings(job) | {
        "export": job.config.export.model_dump(),
        "kits": {name: kit.model_dump(exclude={"folder"}) for name, kit in kits.items()},
        "precisions": sorted({p for target in job.config.target for p in target.precisions}),
    }


def _compile_settings(job: Job) -> dict[str, Any]:
    from edgedistill.deploy.stage import identify_device

    targets = [target.model_dump(exclude={"budget"}) for target in job.config.target]
    kits = {target.kit: job.kits[target.kit] for target in job.config.target}
    engines = versions_of(tuple(sorted(kit.package for kit in kits.values())))
    return {
        "targets": targets,
        "kits": {name: _folder_hash(kit.folder) for name, kit in kits.items()},
        "engines": engines,
        "devices": {t.name: identify_device(job.kits[t.kit], t.device) for t in job.config.target},
    }


def _bench_settings(job: Job) -> dict[str, Any]:
    harness = _folder_hash(targets_folder() / "harness")
    return _compile_settings(job) | {"bench": job.config.bench.model_dump(), "harness": harness}


def _report_settings(job: Job) -> dict[str, Any]:
    return {"budgets": [target.budget.model_dump() for target in job.config.target]}


def _code_hash(job: Job, spec: str) -> str | None:
    return job.run.file_hash(module_file(spec, job.config.folder)) if is_code(spec) else None


def is_code(spec: str) -> bool:
    """Tell a model given as package.module:function from one of the zoo or of timm."""
    return is_function(spec) and spec.partition(":")[0] not in ("zoo", "timm")


def _folder_hash(folder: Path) -> str:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in (".py", ".toml"))
    return hash_of([[p.relative_to(folder).as_posix(), hashlib.sha256(p.read_bytes()).hexdigest()] for p in files])


STAGES: Final[tuple[Stage, ...]] = (
    Stage("data", DataRecord, (), _data_settings, ("edgedistill", "numpy", "scikit-learn", "pillow"), _load_data),
    Stage("teacher", TeacherRecord, ("data",), _teacher_settings, (*TORCH, "accelerate", "onnxruntime"), _make_teacher),
    Stage("soft_labels", SoftLabelsRecord, ("data", "teacher"), _soft_label_settings, (*TORCH, "onnxruntime"), _make_soft_labels),
    Stage("student", StudentRecord, ("data", "soft_labels"), _student_settings, (*TORCH, "accelerate", "torch-pruning"), _make_student),
    Stage("quantize", QuantizedRecord, ("data", "student"), _quantize_settings, (*TORCH, "accelerate"), _quantize),
    Stage("export", ExportRecord, ("data", "teacher", "student", "quantize"), _export_settings,
          (*TORCH, "onnx", "onnxscript", "onnxslim", "onnx-ir", "onnxruntime"), _export),
    Stage("compile", CompileRecord, ("export",), _compile_settings, ("edgedistill",), _compile),
    Stage("bench", BenchRecord, ("compile",), _bench_settings, ("edgedistill",), _bench),
    Stage("report", ReportRecord, ("bench",), _report_settings, ("edgedistill", "matplotlib"), _report),
)  # fmt: skip
SHARED: Final = frozenset({"data", "teacher", "soft_labels", "student", "quantize"})
"""The stages in which all processes of a launch take part; the others are the first one's alone."""
STAGE_NAMES: Final = tuple(stage.name for stage in STAGES)


@dataclass(frozen=True, slots=True)
class Plan:
    """Which stages to run: up to `until`, and afresh from `start` on."""

    until: str = STAGE_NAMES[-1]
    start: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What a dry run says of a stage: `seconds` is what it took last time, `why` the reason that it has to run."""

    stage: str
    cached: bool
    seconds: float | None
    why: str | None = None


def run_pipeline(config: Config, run: Run, kits: dict[str, Kit], report: Reporter, plan: Plan) -> Job:
    """Run the stages that are not done; returns the job with all records. Nothing is written before all checks pass."""
    check_targets(config, kits)
    job = Job(config, run, _kits_for(config, kits), report)
    stages = _wanted(plan)
    done = _take_finished(job, stages, plan)
    if done < len(stages):
        first = _step(job, stages, done, done, plan)
        job.report.aside(f"{first.stage}: runs, {first.why}")
        _preflight(job, stages[done:])
        processes.wait_for_all()  # before the first of them writes
        with run.locked() if processes.is_first() else nullcontext():
            for stage in stages[done:]:
                if processes.is_first() or stage.name in SHARED:
                    _run_stage(job, stage, fresh=_is_fresh(stage, plan))
    return job


def dry_run(config: Config, run: Run, kits: dict[str, Kit], report: Reporter, plan: Plan) -> list[Step]:
    """Say which stages would be taken from the run folder and which would run."""
    check_targets(config, kits)
    job = Job(config, run, _kits_for(config, kits), report)
    stages = _wanted(plan)
    done = _take_finished(job, stages, plan)
    return [_step(job, stages, place, done, plan) for place in range(len(stages))]


def _step(job: Job, stages: tuple[Stage, ...], place: int, done: int, plan: Plan) -> Step:
    """Describe a stage of which `done` are finished; those after the first to run depend on what that will make."""
    stage, why = stages[place], None
    entry = job.run.stages.get(stage.name)
    if place == done and _is_fresh(stage, plan):
        why = "asked for by --from"
    elif place == done:
        parents = {parent: identity(job.results[parent]) for parent in stage.parents}
        why = why_not_cached(entry, stage.settings(job), parents, versions_of(stage.packages))
    elif place > done:
        why = f"after {stages[done].name}"
    return Step(stage.name, place < done, None if entry is None else entry.get("seconds"), why)


def _wanted(plan: Plan) -> tuple[Stage, ...]:
    return STAGES[: STAGE_NAMES.index(plan.until) + 1]


def _is_fresh(stage: Stage, plan: Plan) -> bool:
    return plan.start is not None and STAGE_NAMES.index(stage.name) >= STAGE_NAMES.index(plan.start)


def _take_finished(job: Job, stages: tuple[Stage, ...], plan: Plan) -> int:
    """Take over the records of finished stages; returns the place of the first that is not."""
    for place, stage in enumerate(stages):
        job.keys[stage.name] = _key(job, stage)
        found = None if _is_fresh(stage, plan) else job.run.finished(stage.name, job.keys[stage.name], stage.kind)
        if found is None:
            return place
        job.results[stage.name] = found
    return len(stages)


def _run_stage(job: Job, stage: Stage, *, fresh: bool) -> None:
    settings = stage.settings(job)
    job.keys[stage.name] = _key(job, stage)
    found = None if fresh else job.run.finished(stage.name, job.keys[stage.name], stage.kind)
    if found is not None:
        job.results[stage.name] = found
        return
    start = time.monotonic()
    record = stage.make(job)
    seconds = time.monotonic() - start
    job.results[stage.name] = record
    if not processes.is_first():
        return
    job.run.finish(stage.name, {
        "key": job.keys[stage.name],
        "parents": {parent: identity(job.results[parent]) for parent in stage.parents},
        "record": record.model_dump(mode="json", by_alias=True),
        "config": settings,
        "versions": versions_of(stage.packages),
        "seconds": round(seconds, 3),
    })  # fmt: skip
    job.report.line(f"{stage.name}: done in {seconds:.1f} s")


def _key(job: Job, stage: Stage) -> str:
    parents = {parent: identity(job.results[parent]) for parent in stage.parents}
    return hash_of([stage.name, stage.settings(job), parents, versions_of(stage.packages)])


def check_targets(config: Config, kits: dict[str, Kit]) -> None:
    """Raise ConfigError for a target whose kit, precision or device is not there."""
    for target in config.target:
        kit = find_kit(target.kit, kits)
        for precision in target.precisions:
            if precision not in kit.precisions:
                raise ConfigError(
                    f"target '{target.name}': kit '{kit.name}' has no precision '{precision}'; "
                    f"it has {', '.join(kit.precisions)}"
                )
        if config.export.opset is not None and config.export.opset > kit.opset:
            raise ConfigError(
                f"export.opset: opset {config.export.opset} is asked for, but kit '{kit.name}' takes at most {kit.opset}"
            )
        halves = [form for form in kit.form if form.encoding == "s8-f16" and "int8" in target.precisions]
        if config.export.opset is not None and halves and config.export.opset < FLOAT16_OPSET:
            raise ConfigError(
                f"export.opset: opset {config.export.opset} is asked for, but kit '{kit.name}' takes int8 from version "
                f"{halves[0].since} on with float16 scales, which begin with opset {FLOAT16_OPSET}; remove the key"
            )
        try:
            parse_address(target.device)
        except ConfigError as error:
            raise ConfigError(f"target '{target.name}': {error}") from None
        if "int8" in target.precisions and config.quantize.mode == "none":
            raise ConfigError(f"target '{target.name}' asks for int8, but quantize.mode is 'none'; set it to 'auto'")


def _kits_for(config: Config, kits: dict[str, Kit]) -> dict[str, Kit]:
    """Return the kits, those that int8 is wanted for with the encodings that hold its activations."""
    quantized = {target.kit for target in config.target if "int8" in target.precisions}
    return kits | {name: kits[name].taking(config.quantize.activations) for name in quantized}


def _preflight(job: Job, stages: tuple[Stage, ...]) -> None:
    """Check everything that can be checked before the first write."""
    if not {"data", "teacher", "soft_labels", "student"} & {stage.name for stage in stages}:
        return
    import numpy as np

    from edgedistill.data.views import plain_views, training_views
    from edgedistill.distill.student import check_student
    from edgedistill.distill.teacher import check_teachers
    from edgedistill.distill.tracking import check_trackers
    from edgedistill.export.onnx_export import OPSETS

    if job.config.export.opset is not None and job.config.export.opset not in OPSETS:
        raise ConfigError(
            f"export.opset: opset {job.config.export.opset} cannot be exported; {OPSETS[0]} to {OPSETS[-1]} can"
        )
    check_trackers(job.config.tracking.trackers)
    dataset = job.dataset
    training_views(dataset.train, dataset.record, job.config)
    check_teachers(job.config, dataset.record, len(dataset.train.inputs))
    first = np.arange(min(2, len(dataset.train)))
    check_student(
        job.config, dataset.record, plain_views(dataset.train, dataset.record, job.config).batch(first, first * 0)
    )
