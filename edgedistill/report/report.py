"""Render a run as one HTML file, which needs no network and supports phones, dark mode and print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import DictLoader, Environment, StrictUndefined, select_autoescape
from markupsafe import Markup

from edgedistill.compare import formatting
from edgedistill.compare.comparison import Comparison, summarise_run
from edgedistill.compare.detail_table import DetailTable, picture_table
from edgedistill.compare.footnotes import Footnotes, describe_precision, describe_soak, footnotes_of
from edgedistill.compare.load import MeasurementSet, load_run, read_samples
from edgedistill.compare.provenance import METHODS, SUMMARISED, control_gain, outdated, summary
from edgedistill.compare.rows import Group, metric_of
from edgedistill.config.schema import Budget
from edgedistill.records.measurement import Measurement
from edgedistill.records.stages import (
    DataRecord,
    ExportRecord,
    QuantizedRecord,
    StageRecord,
    StudentRecord,
    TeacherRecord,
    TrainedModel,
)
from edgedistill.report.answers import AnswersView, answers_view, recorded_inputs
from edgedistill.report.images import Inputs
from edgedistill.report.plots import ENERGY, LATENCY, accuracy_against, latency_distribution, training_curves
from edgedistill.runtime.files import write_atomic
from edgedistill.runtime.folder import Run, read_record
from edgedistill.tasks.table import find_task

TEMPLATE = "report.html.j2"


@dataclass(frozen=True)
class GroupView:
    """The results of a target as the template shows them."""

    group: Group
    footnotes: Footnotes
    accuracy_plot: Markup | None
    energy_plot: Markup | None
    latency_plot: Markup | None
    missing_samples: tuple[str, ...]
    is_paired: bool
    metric: str
    pictures: DetailTable | None


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
    data, student, export = (
        read_record(run, DataRecord),
        read_record(run, StudentRecord),
        read_record(run, ExportRecord),
    )
    comparison = summarise_run(result, budgets)
    metric = formatting.metric_heading([find_task(data.task).metric] if data else [])[1]
    return _environment().get_template(TEMPLATE).render(
        _measured(comparison, [result]),
        answers=_answers_of_run(comparison, result, recorded_inputs(run, data, export)),
        name=result.name,
        student=student,
        quantized=read_record(run, QuantizedRecord),
        exported=export,
        outdated=outdated(run),
        missing=[kind.stage for kind in SUMMARISED if kind.stage not in run.stages],
        training_plot=_markup(training_curves(_trained(read_record(run, TeacherRecord), student), metric, "training")),
        metric=metric,
        gain=control_gain(student, export, data),
        provenance=[_stage_view(run, kind) for kind in SUMMARISED],
        install=_install_line(run),
    )  # fmt: skip


def render_comparison(comparison: Comparison, sets: Sequence[MeasurementSet]) -> str:
    """Render a comparison of runs or measurement files as the same page, without the sections about the stages of a run."""
    return _environment().get_template(TEMPLATE).render(
        _measured(comparison, sets), answers=_answers(comparison, sets), name=" → ".join(one.name for one in sets), student=None, quantized=None, exported=None,
        outdated=(), missing=(), training_plot=None, metric="", gain=None, provenance=(), install=None,
    )  # fmt: skip


def _measured(comparison: Comparison, sets: Sequence[MeasurementSet]) -> dict[str, Any]:
    files = {id(one.measurement): one.file for result in sets for one in result.results}
    return {
        "created": max((m.created for result in sets for m in result.measurements), default=None),
        "comparison": comparison,
        "groups": [_group_view(group, files, i) for i, group in enumerate(comparison.groups)],
        "data": Markup(_embedded(comparison)),  # noqa: S704 - escaped for a script element just there
    }


def _answers_of_run(comparison: Comparison, result: MeasurementSet, inputs: Inputs | None) -> list[AnswersView]:
    """Return the answers on the first target that has any: other targets answer almost the same."""
    loaded = {id(one.measurement): one for one in result.results}
    views = (answers_view(group, loaded, inputs, f"answers-{i}") for i, group in enumerate(comparison.groups))
    return list(islice((view for view in views if view is not None), 1))


def _answers(comparison: Comparison, sets: Sequence[MeasurementSet]) -> list[AnswersView]:
    """Return the answers of every group; the pictures are in the run folders only."""
    loaded = {id(one.measurement): one for result in sets for one in result.results}
    views = [answers_view(group, loaded, None, f"answers-{i}") for i, group in enumerate(comparison.groups)]
    return [view for view in views if view is not None]


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
        formatting=formatting, describe_precision=describe_precision, describe_soak=describe_soak, methods=METHODS
    )
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    return environment


def _embedded(comparison: Comparison) -> str:
    return comparison.model_dump_json().replace("<", "\\u003c")


def _markup(svg: str | None) -> Markup | None:
    return None if svg is None else Markup(svg)  # noqa: S704 - drawn here; svg.py escapes the text in it


def _group_view(group: Group, files: dict[int, Path | None], index: int) -> GroupView:
    samples, missing = _samples(group, files)
    labels = [row.label for row in group.rows]
    return GroupView(
        group=group,
        footnotes=footnotes_of(group),
        accuracy_plot=_markup(accuracy_against(LATENCY, group.rows, f"accuracy-{index}")),
        energy_plot=_markup(accuracy_against(ENERGY, group.rows, f"energy-{index}")),
        latency_plot=_markup(latency_distribution(samples, labels, f"latency-{index}")),
        missing_samples=missing,
        is_paired=any(row.accuracy_drop.paired for row in group.rows if row.accuracy_drop is not None),
        metric=metric_of(group.rows)[1],
        pictures=picture_table(group),
    )


def _samples(group: Group, files: dict[int, Path | None]) -> tuple[dict[str, Sequence[np.ndarray]], tuple[str, ...]]:
    drawn: dict[str, Sequence[np.ndarray]] = {}
    missing = []
    for row in group.rows:
        file = files[id(row.measurement)]
        clean = [] if file is None else clean_samples_ms(file, row.measurement)
        if clean:
            drawn[row.label] = clean
        else:
            missing.append(row.label)
    return drawn, tuple(missing)


def clean_samples_ms(file: Path, measurement: Measurement) -> list[np.ndarray]:
    """Return the latencies that were not preempted, in milliseconds, one array (samples,) per process; empty without samples."""
    arrays = read_samples(file, measurement, ("latency_ns", "preempted", "process"))
    if arrays is None:
        return []
    latency, process = arrays["latency_ns"], arrays["process"]
    clean = ~arrays["preempted"].astype(bool) & (latency > 0)
    groups = (latency[clean & (process == i)] / 1e6 for i in np.unique(process))
    return [group for group in groups if len(group)]


def _stage_view(run: Run, kind: type[StageRecord]) -> StageView:
    return StageView(kind.stage, summary(read_record(run, kind)), run.stages.get(kind.stage))


def _trained(teacher: TeacherRecord | None, student: StudentRecord | None) -> dict[str, TrainedModel]:
    teachers = () if teacher is None else teacher.teachers
    models: dict[str, TrainedModel | None] = {_teacher_name(number): model for number, model in enumerate(teachers)}
    if student is not None:
        models |= {"student": student.student, "control": student.control}
    return {label: model for label, model in models.items() if model is not None}


def _teacher_name(number: int) -> str:
    return f"teacher {number + 1}" if number else "teacher"


def _install_line(run: Run) -> str | None:
    """Return a pip command that pins the packages of all stages, without build tags (+cpu), which the index does not accept."""
    pins: dict[str, set[str]] = {}
    for entry in run.stages.values():
        for package, version in (entry.get("versions") or {}).items():
            if "." in str(version):
                pins.setdefault(package, set()).add(str(version).partition("+")[0])
    shown = [f"{package}=={version}" for package, versions in sorted(pins.items()) for version in sorted(versions)]
    return "pip install " + " ".join(shown) if shown else None
