"""Describe in words what the stages of a run made, which of them are outdated, and what distillation gained."""

from __future__ import annotations

import statistics
from functools import singledispatch
from typing import NamedTuple

from scipy.stats import t as student_t

from edgedistill.compare import formatting
from edgedistill.records.base import Record
from edgedistill.records.stages import (
    STAGE_RECORDS,
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
from edgedistill.records.training import TrainedModel
from edgedistill.records.trial_score import Gain
from edgedistill.runtime.folder import Run, identity, read_record
from edgedistill.statistics import accuracy_drop, wilson
from edgedistill.tasks.table import find_task

SUMMARISED = tuple(kind for kind in STAGE_RECORDS if kind is not ReportRecord)
"""The records that a report describes: all except its own."""

METHODS = {
    "ptq": "post-training",
    "mixed": "post-training, sensitive layers in float",
    "qat": "fine-tuned (QAT)",
    "mixed-qat": "fine-tuned (QAT), sensitive layers in float",
    "static": "activations with static scales",
    "dynamic": "activations whose scale each inference finds",
    "weights": "weights alone",
}
"""The quantization methods in words."""


def outdated(run: Run) -> tuple[str, ...]:
    """Return the stages that used the result of a stage that has run again since, in order."""
    stale: list[str] = []
    made: dict[str, str] = {}
    for kind in SUMMARISED:
        record, entry = read_record(run, kind), run.entry(kind.stage)
        if record is not None and entry is not None:
            parents: dict[str, str] = entry.get("parents", {})
            if any(parent in stale or made.get(parent, used) != used for parent, used in parents.items()):
                stale.append(kind.stage)
            made[kind.stage] = identity(record)
    return tuple(stale)


class Control(NamedTuple):
    """What a control shows: the subject of a sentence, what the control is, and the metrics of students and controls, by seed.

    `gain` is the paired gain of a single seed, None where the run did not record it.
    """

    subject: str
    other: str
    pairs: tuple[tuple[float, float], ...]
    gain: Gain | None


def control_gain(student: StudentRecord | None, export: ExportRecord | None, data: DataRecord | None) -> str | None:
    """Describe the gain over the control, the same student trained without the teacher, and that of the weights of the start.

    None without a control.
    """
    if student is None or student.control is None:
        return None
    if export is None or data is None or all(one.control is None for one in export.scores):
        return "The gain from distillation is not known yet: the export stage scores the student and its control on the test set."
    with_labels = (
        f" The control had the {data.train} samples with labels only, for as many steps." if data.unlabelled else ""
    )
    gain = f"{_measured_gain(_teacher_control(export), data)}{with_labels}"
    start = _start_control(student, export)
    return gain if start is None else f"{gain} {_measured_gain(start, data)}"


def _teacher_control(export: ExportRecord) -> Control:
    scores = export.scores
    pairs = tuple((one.student, one.control) for one in scores if one.control is not None)
    return Control("Distillation", "without the teacher", pairs, scores[0].over_control if len(scores) == 1 else None)


def _start_control(student: StudentRecord, export: ExportRecord) -> Control | None:
    """Return the control of the weights that the student starts with; None without one, also where an earlier student had one."""
    if student.scratch is None:
        return None
    scores = export.scores
    pairs = tuple((one.student, one.scratch) for one in scores if one.scratch is not None)
    gain = scores[0].over_scratch if len(scores) == 1 else None
    return Control(f"The start from {student.start}", "from scratch, with the teacher", pairs, gain) if pairs else None


def _measured_gain(control: Control, data: DataRecord) -> str:
    task = find_task(data.task)
    if len(control.pairs) > 1:
        return _gain_over_seeds(control, task.metric_title)
    if control.gain is not None:
        gain = control.gain
        basis = f"{_interval(*gain.ci95_points)} from {gain.n} test samples, paired, one seed each"
        return _describe_gain(control, (gain.points, *gain.ci95_points), task.metric_title, basis)
    ((score, other),) = control.pairs
    points = formatting.signed(100 * (score - other))
    if not task.is_proportion:
        return f"{control.subject} changed {task.metric_title} on the test set by {points} points (one seed, so no interval)."
    n = data.test
    drop = accuracy_drop(wilson(score, n), wilson(other, n))
    basis = f"{_interval(*drop.ci95_points)} from {n} test samples, one seed each"
    return _describe_gain(control, (drop.points, *drop.ci95_points), task.metric_title, basis)


def _gain_over_seeds(control: Control, shown: str) -> str:
    """Describe the mean gain with its Student-t interval, which covers other seeds but not other test sets."""
    points = [100 * (score - other) for score, other in control.pairs]
    centre = statistics.fmean(points)
    half = float(student_t.ppf(0.975, len(points) - 1)) * statistics.stdev(points) / len(points) ** 0.5
    basis = f"{_interval(centre - half, centre + half)} over {len(points)} seeds"
    return _describe_gain(control, (centre, centre - half, centre + half), shown, basis)


def _interval(low: float, high: float) -> str:
    return f"95\u00a0% interval {formatting.signed(low)} to {formatting.signed(high)}"


def _describe_gain(control: Control, gain: tuple[float, float, float], shown: str, basis: str) -> str:
    """Describe a gain in points, with its interval."""
    points, low, high = gain
    against = f"points of {shown} on the test set over the same student {control.other} ({basis})."
    if low > 0:
        return f"{control.subject} gained {points:.1f} {against}"
    if high < 0:
        return f"{control.subject} did not help: {formatting.signed(points)} {against}"
    return f"{control.subject} did not clearly help: {formatting.signed(points)} {against}"


@singledispatch
def summary(record: Record | None) -> str:
    """Describe in one line what a stage made; `record` is None for a stage that has not run."""
    assert record is None, f"no summary of {type(record).__name__} is written yet"
    return "not run"


@summary.register
def _data(record: DataRecord) -> str:
    without = f"{record.unlabelled} without labels, " if record.unlabelled else ""
    split = f"{record.train} train, {without}{record.val} validation, {record.test} test"
    outputs = find_task(record.task).describe_outputs(len(record.classes))
    reference = "" if record.labelled else "; no labels, so models are compared with the teacher's outputs"
    return f"{record.summary}, {outputs}; {split}{reference}"


def _model(record: TrainedModel) -> str:
    parts = [record.spec]
    if record.parameters is not None:
        parts.append(f"{record.parameters:,} parameters".replace(",", "\u202f"))
    accuracy = record.val_accuracy
    parts.append(
        "not measured on validation" if accuracy is None else f"{formatting.percent(accuracy)} % on validation"
    )
    if record.history:
        parts.append(f"{len(record.history)} epochs")
    return ", ".join(parts)


@summary.register
def _teachers(record: TeacherRecord) -> str:
    return "; ".join(_model(teacher) for teacher in record.teachers)


@summary.register
def _soft_labels(record: SoftLabelsRecord) -> str:
    accuracy = record.val_accuracy
    several = "" if accuracy is None else f", mean of the teachers {formatting.percent(accuracy)} % on validation"
    if not record.views:
        return f"teacher runs during training, {record.classes} classes{several}"
    kept = f", the {record.top_k} largest logits of each" if record.top_k else ""
    views = "1 view" if record.views == 1 else f"{record.views} augmented views"
    return f"{views} of {record.samples} samples, {record.classes} classes{kept}{several}"


@summary.register
def _student(record: StudentRecord) -> str:
    start = "" if record.start is None else f", started from {record.start}"
    control = "" if record.control is None else f"; control without the teacher: {_model(record.control)}"
    scratch = "" if record.scratch is None else f"; from scratch: {_model(record.scratch)}"
    return f"{_model(record.student)}{start}{control}{scratch}"


@summary.register
def _quantize(record: QuantizedRecord) -> str:
    if record.mode == "none":
        return "not requested"
    accuracy = record.val_accuracy
    shown = "not measured on validation" if accuracy is None else f"{formatting.percent(accuracy)} % on validation"
    tried = f", after {len(record.steps)} tries" if len(record.steps) > 1 else ""
    unpaid = "; int8 does not pay" if record.outcome == "does not pay" else ""
    forms = "".join(f", {kit}: {METHODS[method]}" for kit, method in record.forms.items())
    return f"{METHODS[record.mode]}{forms}{tried}, {record.calibration_samples} calibration samples, {shown}{unpaid}"


@summary.register
def _export(record: ExportRecord) -> str:
    return ", ".join(f"{m.name} {m.precision} (opset {m.opset})" for m in record.models) or "no models"


@summary.register
def _compile(record: CompileRecord) -> str:
    made = (f"{a.name} {a.precision} for {a.target} by {a.engine.name} {a.engine.version}" for a in record.artifacts)
    return "; ".join(made) or "no artifacts"


@summary.register
def _bench(record: BenchRecord) -> str:
    count = len(record.measurements)
    return f"{count} measurement{'s' if count != 1 else ''}"
