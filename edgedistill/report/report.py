"""Render a run as one HTML file, which needs no network and supports phones, dark mode and print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any, Final

from jinja2 import DictLoader, Environment, StrictUndefined, select_autoescape
from markupsafe import Markup

from edgedistill.compare import formatting
from edgedistill.compare.comparison import Comparison, summarise_run
from edgedistill.compare.footnotes import describe_precision, describe_soak
from edgedistill.compare.load import MeasurementSet, load_run
from edgedistill.compare.provenance import METHODS, SUMMARISED, control_gain, outdated, summary
from edgedistill.config.schema import Budget
from edgedistill.records.stages import (
    DataRecord,
    ExportRecord,
    QuantizedRecord,
    StageRecord,
    StudentRecord,
    TeacherRecord,
)
from edgedistill.records.training import TrainedModel
from edgedistill.report.answers import answers_views, recorded_inputs
from edgedistill.report.groups import group_view, markup
from edgedistill.report.plots import training_curves
from edgedistill.report.reproduce import reproduction
from edgedistill.report.scatter import accuracy_across, target_names
from edgedistill.report.splits import split_table
from edgedistill.report.words import words_of
from edgedistill.runtime.files import write_atomic
from edgedistill.runtime.folder import Run, read_record
from edgedistill.tasks.table import find_task

TEMPLATE: Final = "report.html.j2"


@dataclass(frozen=True)
class StageView:
    """One row of the provenance table; `entry` is the stage's entry in the manifest."""

    name: str
    summary: str
    entry: dict[str, Any] | None


def write_report(run_folder: Path, budgets: dict[str, Budget] | None = None) -> Path:
    """Write `report.html` into a run folder and return its path; `budgets` by target name replace those of the last report."""
    path = run_folder / "report.html"
    write_atomic(path, render_report(run_folder, budgets))
    return path


def render_report(run_folder: Path, budgets: dict[str, Budget] | None = None) -> str:
    """Render a run, finished or not, as one self-contained HTML page."""
    result = load_run(run_folder)
    run = Run(run_folder)
    data, teacher, student = (
        read_record(run, DataRecord),
        read_record(run, TeacherRecord),
        read_record(run, StudentRecord),
    )
    quantized, export = read_record(run, QuantizedRecord), read_record(run, ExportRecord)
    comparison = summarise_run(result, budgets)
    metric = formatting.metric_heading([find_task(data.task).metric] if data else [])[1]
    return _environment().get_template(TEMPLATE).render(
        _measured(comparison, [result], run),
        answers=answers_views(comparison.groups, _loaded([result]), recorded_inputs(run, data, export)),
        across=markup(accuracy_across(comparison.groups, "across")),
        name=result.name,
        student=student,
        quantized=quantized,
        exported=export,
        outdated=outdated(run),
        missing=[kind.stage for kind in SUMMARISED if kind.stage not in run.stages],
        training_plot=markup(training_curves(_trained(teacher, student), metric, "training")),
        splits=split_table(teacher, student, quantized, export, comparison.groups),
        metric=metric,
        gain=control_gain(student, export, data),
        provenance=[_stage_view(run, kind) for kind in SUMMARISED],
        again=reproduction(run, comparison.groups),
    )  # fmt: skip


def render_comparison(comparison: Comparison, sets: Sequence[MeasurementSet]) -> str:
    """Render a comparison of runs or measurement files as the same page, without the sections about the stages of a run."""
    return _environment().get_template(TEMPLATE).render(
        _measured(comparison, sets, None), answers=answers_views(comparison.groups, _loaded(sets), None),
        name=" → ".join(one.name for one in sets), across=None, student=None, quantized=None, exported=None,
        outdated=(), missing=(), training_plot=None, splits=None, metric="", gain=None, provenance=(), again=None,
    )  # fmt: skip


def _loaded(sets: Sequence[MeasurementSet]) -> dict[int, Any]:
    return {id(one.measurement): one for result in sets for one in result.results}


def _measured(comparison: Comparison, sets: Sequence[MeasurementSet], run: Run | None) -> dict[str, Any]:
    files = {key: one.file for key, one in _loaded(sets).items()}
    names = target_names(comparison.groups)
    return {
        "created": max((m.created for result in sets for m in result.measurements), default=None),
        "comparison": comparison,
        "groups": [
            group_view(group, names[i], files, None if run is None else run, i)
            for i, group in enumerate(comparison.groups)
        ],
        "data": Markup(_embedded(comparison)),  # noqa: S704 - escaped for a script element just there
    }


def _environment() -> Environment:
    sources = resources.files("edgedistill.report").joinpath("templates").iterdir()
    environment = Environment(
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=DictLoader({source.name: source.read_text(encoding="utf-8") for source in sources}),
    )
    environment.globals.update(
        formatting=formatting,
        describe_precision=describe_precision,
        describe_soak=describe_soak,
        methods=METHODS,
        words_of=words_of,
    )
    environment.filters["day"] = describe_time
    return environment


def describe_time(created: str) -> str:
    """Write a time of a record for readers: "29 November 2026, 08:40 UTC"; other text stays as it is."""
    try:
        time = datetime.fromisoformat(created.replace("Z", "+00:00"))
    except ValueError:
        return created
    return f"{time.day} {time:%B %Y, %H:%M} UTC"


def _embedded(comparison: Comparison) -> str:
    return comparison.model_dump_json().replace("<", "\\u003c")


def _stage_view(run: Run, kind: type[StageRecord]) -> StageView:
    return StageView(kind.stage, summary(read_record(run, kind)), run.stages.get(kind.stage))


def _trained(teacher: TeacherRecord | None, student: StudentRecord | None) -> dict[str, TrainedModel]:
    teachers = () if teacher is None else teacher.teachers
    models: dict[str, TrainedModel | None] = {_teacher_name(number): model for number, model in enumerate(teachers)}
    if student is not None:
        models |= {"student": student.student, "control": student.control, "from scratch": student.scratch}
    return {label: model for label, model in models.items() if model is not None}


def _teacher_name(number: int) -> str:
    return f"teacher {number + 1}" if number else "teacher"
