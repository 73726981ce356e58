"""What the models of a target answered on the test set: figures by class, confusion matrices, curves, and differing pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from edgedistill.compare.load import LoadedMeasurement
from edgedistill.compare.rows import Group, describe_operating_point
from edgedistill.records.measurement import Measurement
from edgedistill.records.stages import DataRecord, ExportRecord
from edgedistill.report.cards import BYTES, FIRST, LATER, Card, Limits, cards
from edgedistill.report.curves import precision_recall_plots
from edgedistill.report.differences import differences_of
from edgedistill.report.images import COLOURS, Inputs
from edgedistill.report.tables import ConfusionTable, FigureTable, confusion_of, figure_tables
from edgedistill.runtime.folder import Run, require_unchanged

MOST_MODELS = 4
"""Of more models, the first are shown: the teacher, the float student and the int8 student come first."""


@dataclass(frozen=True)
class AnswersView:
    """The answers of the models of a group as the template shows them; `legend` has a colour for each class of masks."""

    title: str
    models: tuple[str, ...]
    tables: tuple[FigureTable, ...]
    operating_points: tuple[str, ...]
    confusions: tuple[ConfusionTable, ...]
    curves: tuple[tuple[Markup, str], ...]
    cards: tuple[Card, ...]
    legend: tuple[tuple[str, str], ...]
    metric: str


def answers_views(
    groups: Sequence[Group], loaded: Mapping[int, LoadedMeasurement], inputs: Inputs | None
) -> list[AnswersView]:
    """Return the answers of each group that has any, the samples of all groups within one limit of bytes.

    `loaded` has the measurements by the identity of their record; `inputs` are the samples of the test set, if they can be shown.
    """
    views: list[AnswersView] = []
    left = BYTES
    shown: dict[int, Card] = {}
    for place, group in enumerate(groups):
        view = _view(group, loaded, f"answers-{place}")
        if view is None:
            continue
        models, names, answers = view
        differences = differences_of(models) if inputs is not None and len(models) > 1 else None
        most = FIRST if not views else LATER
        made = (
            ()
            if differences is None or inputs is None
            else cards(differences, inputs, names, Limits(most, left, shown))
        )
        left -= sum(one.bytes for one in made)
        shown |= {one.number: one for one in made if one.picture is not None}
        views.append(replace(answers, cards=made))
    return views


def _view(
    group: Group, loaded: Mapping[int, LoadedMeasurement], name: str
) -> tuple[list[LoadedMeasurement], Sequence[str], AnswersView] | None:
    """Return the models of a group that have comparable answers, the names of the classes, and the answers without samples."""
    shown = [
        replace(loaded[id(row.measurement)], label=row.label) for row in group.rows if id(row.measurement) in loaded
    ]
    shown = _comparable([one for one in shown if _has_answers(one)])[:MOST_MODELS]
    if not shown:
        return None
    names = next((one.class_names for one in shown if one.class_names), ())
    accuracy = shown[0].measurement.accuracy
    assert accuracy is not None
    points = (
        f"{row.label}: {describe_operating_point(row.operating_point)}" for row in group.rows if row.operating_point
    )
    view = AnswersView(
        title=group.title, models=tuple(one.label for one in shown), tables=figure_tables(shown, names),
        operating_points=tuple(points),
        confusions=tuple(found for one in shown if (found := confusion_of(one, names)) is not None),
        curves=tuple((Markup(svg), caption) for svg, caption in precision_recall_plots(shown, names, f"{name}-pr")),  # noqa: S704 - drawn by svg.py, which escapes text
        cards=(), legend=_legend(shown, names), metric=accuracy.metric,
    )  # fmt: skip
    return shown, names, view


def recorded_inputs(run: Run, data: DataRecord | None, export: ExportRecord | None) -> Inputs | None:
    """Return the recorded test inputs of a run whose samples are pictures or texts, or None."""
    if data is None or export is None or any(one.kind not in ("image", "text") for one in data.inputs):
        return None
    model = next((one for one in export.models if one.name == "student" and one.precision == "fp32"), None)
    if model is None or not run.path(model.io).is_file():
        return None
    return Inputs(require_unchanged(run, model.io), model.contract)


def _has_answers(one: LoadedMeasurement) -> bool:
    return one.correct is not None or one.matches is not None or one.confusions is not None


def _comparable(shown: Sequence[LoadedMeasurement]) -> list[LoadedMeasurement]:
    """Return the models with the metric and the number of test samples of the first."""
    return [one for one in shown if _key(one.measurement) == _key(shown[0].measurement)]


def _key(measurement: Measurement) -> tuple[str, int] | None:
    return None if measurement.accuracy is None else (measurement.accuracy.metric, measurement.accuracy.n)


def _legend(shown: Sequence[LoadedMeasurement], names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    first = shown[0].confusions
    if first is None:
        return ()
    labelled = [
        number
        for number in range(first.shape[1])
        if any(one.confusions is not None and one.confusions[:, number].any() for one in shown)
    ]
    return tuple(
        (names[number] if number < len(names) else str(number), COLOURS[number % len(COLOURS)]) for number in labelled
    )
