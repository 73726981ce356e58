"""What a run's stages made, as its manifest records it; a stage that has not run is None."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError
from scipy.stats import t as student_t

from edgedistill.compare import figures
from edgedistill.compare.load import describe
from edgedistill.compare.statistics import accuracy_drop, wilson
from edgedistill.errors import ConfigError
from edgedistill.records.base import Record
from edgedistill.records.stages import (
    BenchRecord,
    CompileRecord,
    DataRecord,
    ExportRecord,
    QuantizedRecord,
    SoftLabelsRecord,
    StudentRecord,
    TeacherRecord,
    TrainedModel,
)
from edgedistill.runtime.folder import Run, identity
from edgedistill.tasks.tasks import TASKS

R = TypeVar("R", bound=Record)

STAGES = ("data", "teacher", "soft_labels", "student", "quantize", "export", "compile", "bench")
METHODS = {
    "ptq": "post-training",
    "mixed": "post-training, sensitive layers in float",
    "qat": "fine-tuned (QAT)",
    "mixed-qat": "fine-tuned (QAT), sensitive layers in float",
}
"""The names of the methods of quantization, for people."""


@dataclass(frozen=True)
class Stages:
    """The records of a run."""

    data: DataRecord | None
    teacher: TeacherRecord | None
    soft_labels: SoftLabelsRecord | None
    student: StudentRecord | None
    quantize: QuantizedRecord | None
    export: ExportRecord | None
    compile: CompileRecord | None
    bench: BenchRecord | None


def read_stages(run: Run) -> Stages:
    """Read the record of each finished stage; ConfigError names a stage and field that cannot be read."""
    return Stages(
        data=_record(run, "data", DataRecord),
        teacher=_record(run, "teacher", TeacherRecord),
        soft_labels=_record(run, "soft_labels", SoftLabelsRecord),
        student=_record(run, "student", StudentRecord),
        quantize=_record(run, "quantize", QuantizedRecord),
        export=_record(run, "export", ExportRecord),
        compile=_record(run, "compile", CompileRecord),
        bench=_record(run, "bench", BenchRecord),
    )


def _record(run: Run, stage: str, kind: type[R]) -> R | None:
    entry = run.stages.get(stage)
    if entry is None:
        return None
    try:
        return kind.model_validate(entry.get("record"))
    except ValidationError as error:
        raise ConfigError(describe(error, run.folder / "manifest.json" / stage)) from None


def outdated(run: Run, stages: Stages) -> tuple[str, ...]:
    """Return the stages that were made from what an earlier stage has made anew since, in their order."""
    found: list[str] = []
    for stage in STAGES:
        parents: dict[str, str] = run.stages.get(stage, {}).get("parents", {})
        made = {parent: getattr(stages, parent) for parent in parents}
        changed = (record is not None and identity(record) != parents[parent] for parent, record in made.items())
        if any(changed) or not set(found).isdisjoint(parents):
            found.append(stage)
    return tuple(found)


def control_gain(stages: Stages) -> str | None:
    """Say what distillation gained over the same student trained without the teacher; None without such a control."""
    if stages.student is None or stages.student.control is None:
        return None
    if stages.export is None or not stages.export.scores or stages.data is None:
        return "Whether distillation helped is not known yet: the test set is scored when the models are exported."
    pairs = [(score.student, score.control) for score in stages.export.scores if score.control is not None]
    metric = TASKS[stages.data.task]
    if len(pairs) > 1:
        return _gain_over_seeds([student - control for student, control in pairs], metric.shown)
    ((student, control),) = pairs
    points = figures.signed(100 * (student - control))
    if metric.metric != "top1":
        return f"Distillation changed {metric.shown} on the test set by {points} points (one seed, so no interval)."
    n = stages.data.test
    drop = accuracy_drop(wilson(student, n), wilson(control, n))
    low, high = drop.ci95_points
    basis = f"95\u00a0% interval {figures.signed(low)} to {figures.signed(high)} from {n} test samples, one seed each"
    return _verdict(drop.points, low, high, metric.shown, basis)


def _gain_over_seeds(gains: list[float], shown: str) -> str:
    """Say a gain with the Student-t interval over seeds: other seeds would fall in it, not other test sets."""
    points = [100 * gain for gain in gains]
    centre = statistics.fmean(points)
    half = float(student_t.ppf(0.975, len(points) - 1)) * statistics.stdev(points) / len(points) ** 0.5
    low, high = centre - half, centre + half
    basis = f"95\u00a0% interval {figures.signed(low)} to {figures.signed(high)} over {len(points)} seeds"
    return _verdict(centre, low, high, shown, basis)


def _verdict(points: float, low: float, high: float, shown: str, basis: str) -> str:
    against = f"points of {shown} on the test set over the same student without the teacher ({basis})."
    if low > 0:
        return f"Distillation gained {points:.1f} {against}"
    if high < 0:
        return f"Distillation did not help: {figures.signed(points)} {against}"
    return f"Distillation did not clearly help: {figures.signed(points)} {against}"


def outcome(stages: Stages, stage: str) -> str:
    """Say in a line what a finished stage made."""
    record = getattr(stages, stage)
    describer: Callable[[Any], str] = _OUTCOMES[stage]
    return "not run" if record is None else describer(record)


def _data(record: DataRecord) -> str:
    shape = "\u00d7".join(map(str, record.shape))
    split = f"{record.train} train, {record.val} validation, {record.test} test"
    outputs = "classes" if record.task == "classification" else f"value(s) for {record.task}"
    judge = "" if record.labelled else "; no labels, so models are held against the teacher's outputs"
    return f"{record.kind} {shape} {record.dtype}, {len(record.classes)} {outputs}; {split}{judge}"


def _model(record: TrainedModel) -> str:
    parts = [record.spec]
    if record.parameters is not None:
        parts.append(f"{record.parameters:,} parameters".replace(",", "\u202f"))
    accuracy = record.val_accuracy
    parts.append("not measured on validation" if accuracy is None else f"{figures.percent(accuracy)} % on validation")
    if record.history:
        parts.append(f"{len(record.history)} epochs")
    return ", ".join(parts)


def _teachers(record: TeacherRecord) -> str:
    return "; ".join(_model(teacher) for teacher in record.teachers)


def _soft_labels(record: SoftLabelsRecord) -> str:
    accuracy = record.val_accuracy
    several = "" if accuracy is None else f", teachers' mean {figures.percent(accuracy)} % on validation"
    if not record.views:
        return f"teacher run online, {record.classes} classes{several}"
    kept = f", the {record.top_k} largest logits of each" if record.top_k else ""
    return f"{record.views} augmented views of {record.samples} samples, {record.classes} classes{kept}{several}"


def _student(record: StudentRecord) -> str:
    control = "" if record.control is None else f"; control without the teacher: {_model(record.control)}"
    return _model(record.student) + control


def _quantize(record: QuantizedRecord) -> str:
    if record.mode == "none":
        return "not asked for"
    accuracy = record.val_accuracy
    shown = "validation metric not measured" if accuracy is None else f"{figures.percent(accuracy)} % on validation"
    tried = f", after {len(record.steps)} tries" if len(record.steps) > 1 else ""
    return f"{METHODS[record.mode]}{tried}, {record.calibration_samples} calibration samples, {shown}"


def _export(record: ExportRecord) -> str:
    return ", ".join(f"{m.name} {m.precision} (opset {m.opset})" for m in record.models) or "no models"


def _compile(record: CompileRecord) -> str:
    made = (f"{a.name} {a.precision} for {a.target} by {a.engine.name} {a.engine.version}" for a in record.artifacts)
    return "; ".join(made) or "no artifacts"


def _bench(record: BenchRecord) -> str:
    count = len(record.measurements)
    return f"{count} measurement{'s' if count != 1 else ''}"


_OUTCOMES: dict[str, Callable[[Any], str]] = {
    "data": _data,
    "teacher": _teachers,
    "soft_labels": _soft_labels,
    "student": _student,
    "quantize": _quantize,
    "export": _export,
    "compile": _compile,
    "bench": _bench,
}
