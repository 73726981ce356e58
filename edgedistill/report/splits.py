"""The metric of each model on the validation samples beside that on the test samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from edgedistill.compare.rows import Group
from edgedistill.records.measurement import Accuracy
from edgedistill.records.stages import ExportRecord, QuantizedRecord, StudentRecord, TeacherRecord
from edgedistill.records.training import TrainedModel


class SplitRow(NamedTuple):
    """A model: its metric on validation and on the test set as fractions, and the interval of the latter; None where not measured."""

    model: str
    validation: float | None
    test: float | None
    ci95: tuple[float, float] | None


class SplitTable(NamedTuple):
    """The models, and whether the teacher was made outside of this run."""

    rows: tuple[SplitRow, ...]
    is_teacher_foreign: bool


def split_table(
    teacher: TeacherRecord | None,
    student: StudentRecord | None,
    quantized: QuantizedRecord | None,
    export: ExportRecord | None,
    groups: Sequence[Group],
) -> SplitTable | None:
    """Return the metric of each model on both splits; None without a student."""
    if student is None:
        return None
    rows = [] if teacher is None else [_row("teacher", teacher.val_accuracy, _measured(groups, "teacher", "fp32"))]
    rows.append(_row("student", student.student.val_accuracy, _measured(groups, "student", "fp32")))
    if student.control is not None:
        score = _control_score(student, student.control, export)
        rows.append(SplitRow("control, without the teacher", student.control.val_accuracy, score, None))
    if quantized is not None and quantized.mode != "none":
        rows.append(_row("student in int8", quantized.val_accuracy, _measured(groups, "student", "int8")))
    return SplitTable(tuple(rows), teacher is not None and not teacher.history)


def _row(model: str, validation: float | None, test: Accuracy | None) -> SplitRow:
    return SplitRow(model, validation, None if test is None else test.value, None if test is None else test.ci95)


def _measured(groups: Sequence[Group], name: str, precision: str) -> Accuracy | None:
    """Return the accuracy of a model on the first target that measured it; other targets differ in the last digit."""
    measured = (row.measurement for group in groups for row in group.rows)
    found = (m.accuracy for m in measured if (m.model.name, m.precision.requested) == (name, precision))
    return next((accuracy for accuracy in found if accuracy is not None), None)


def _control_score(student: StudentRecord, control: TrainedModel, export: ExportRecord | None) -> float | None:
    seeds = [trial.seed for trial in student.trials if trial.control == control]
    scores = () if export is None else export.scores
    return next((score.control for score in scores if score.seed in seeds), None)
