"""The tables of the report about answers: figures by class and size, and confusion matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from edgedistill.compare.load import LoadedMeasurement, read_samples
from edgedistill.records.details import DetectedClass, DetectionDetails, Figure, SegmentationDetails
from edgedistill.statistics import wilson
from edgedistill.tasks.detections import ious
from edgedistill.tasks.matches import Matches

MOST_CLASSES: Final = 20
"""A larger confusion matrix is shown as a list of its largest entries."""
MOST_ROWS: Final = 200
LISTED: Final = 15
NOTHING: Final = "nothing"
"""The row of detections where there is no box, and the column of boxes without a detection."""


class FigureRow(NamedTuple):
    """A class or a size, its number of samples, and the figure of each model; None without samples."""

    name: str
    samples: int | None
    figures: tuple[Figure | None, ...]


class FigureTable(NamedTuple):
    """Figures of models in percent, with a column for each; `below` are words below the names of the models."""

    title: str
    counted: str
    models: tuple[str, ...]
    rows: tuple[FigureRow, ...]
    note: str
    below: tuple[str, ...] = ()


class ConfusionTable(NamedTuple):
    """A confusion matrix, rows by label: `shares` are the fractions of each row, `counts` what was counted, both (R, C).

    A large matrix has `largest` instead: label, answer, count and share of its largest entries off the diagonal.
    """

    model: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    shares: tuple[tuple[float, ...], ...]
    counts: tuple[tuple[int, ...], ...]
    largest: tuple[tuple[str, str, int, float], ...]


class Cells(NamedTuple):
    """The entries of a confusion matrix that are not 0, row by row: the row, the column and the count of each (E,)."""

    rows: np.ndarray
    columns: np.ndarray
    counts: np.ndarray


def figure_tables(shown: Sequence[LoadedMeasurement], names: Sequence[str]) -> tuple[FigureTable, ...]:
    """Return the tables of figures of models on one test set, whose metric is the same."""
    details = [one.measurement.details for one in shown]
    labels = tuple(one.label for one in shown)
    if all(isinstance(one, DetectionDetails) for one in details):
        return tuple(_detection_tables([one for one in details if isinstance(one, DetectionDetails)], labels, names))
    if all(isinstance(one, SegmentationDetails) for one in details):
        return (_mask_table([one for one in details if isinstance(one, SegmentationDetails)], labels, names),)
    return (_class_table(shown, names),)


def confusion_of(one: LoadedMeasurement, names: Sequence[str]) -> ConfusionTable | None:
    """Return the confusion matrix of a model, or None where its answers are not recorded."""
    if one.confusions is not None:
        whole = one.confusions.sum(0)
        invalid = ["not finite"] if whole[:, -1].any() else []
        matrix = whole if invalid else whole[:, :-1]
        return _table(one.label, _cells(matrix), _named(len(whole), names), [*_named(len(whole), names), *invalid])
    if one.matches is not None and isinstance(one.measurement.details, DetectionDetails):
        arrays = None if one.file is None else read_samples(one.file, one.measurement, ("outputs", "labels"))
        if arrays is None:
            return None
        details = one.measurement.details
        matrix = detection_confusion(
            one.matches, arrays["outputs"], arrays["labels"], details.threshold.value, len(details.classes)
        )
        listed = [*_named(len(details.classes), names), NOTHING]
        return _table(one.label, _cells(matrix), listed, listed)
    answers = class_answers(one)
    if answers is None or one.labels is None:
        return None
    listed = _named(max(len(names), answers.shape[1]), names)
    places, counts = np.unique(one.labels * len(listed) + answers.argmax(1), return_counts=True)
    return _table(one.label, Cells(*np.divmod(places, len(listed)), counts), listed, listed)


def class_answers(one: LoadedMeasurement) -> np.ndarray | None:
    """Return the outputs (N, C) of a classifier, or None where they are not recorded."""
    if one.correct is None or one.file is None:
        return None
    arrays = read_samples(one.file, one.measurement, ("outputs",))
    return None if arrays is None else arrays["outputs"].reshape(len(arrays["outputs"]), -1)


def detection_confusion(
    matches: Matches, detections: np.ndarray, labels: np.ndarray, threshold: float, classes: int
) -> np.ndarray:
    """Return the confusion matrix (C + 1, C + 1) of detections from a threshold on; the last row and column are background.

    Detections that found a box of their class are on the diagonal. The others, the best first, take a box at an IoU of 0.5 that no
    detection found, of any class.
    """
    matrix = np.zeros((classes + 1, classes + 1), int)
    wrongs = np.flatnonzero((matches.score >= threshold) & matches.counts & ~matches.is_right)
    found = matches.found_at(threshold) & ~matches.is_crowd
    np.fill_diagonal(matrix[:classes, :classes], np.bincount(matches.box_kind[found], minlength=classes))
    corners = detections[detections[..., 0] >= 0][:, 2:]
    boxes = labels[labels[..., 0] >= 0][:, 1:5]
    free = ~found & ~matches.is_crowd
    for picture in range(matches.pictures):
        wrong = wrongs[matches.picture[wrongs] == picture]
        left = np.flatnonzero(free & (matches.box_picture == picture))
        overlaps = ious(corners[wrong].astype(float), boxes[left].astype(float))
        for place in np.argsort(-matches.score[wrong], kind="stable"):
            best = int(overlaps[place].argmax()) if len(left) else -1
            if best >= 0 and overlaps[place, best] >= 0.5:
                matrix[matches.box_kind[left[best]], matches.kind[wrong[place]]] += 1
                free[left[best]] = False
                overlaps[:, best] = 0
            else:
                matrix[classes, matches.kind[wrong[place]]] += 1
    matrix[:classes, classes] += np.bincount(matches.box_kind[free], minlength=classes)
    return matrix


def _detection_tables(
    details: Sequence[DetectionDetails], models: tuple[str, ...], names: Sequence[str]
) -> Iterator[FigureTable]:
    def by_class(read: Callable[[DetectedClass], Figure | None]) -> tuple[FigureRow, ...]:
        longest = max(details, key=lambda one: len(one.classes))
        listed = _named(len(longest.classes), names)
        return tuple(
            FigureRow(listed[one.number], one.boxes, tuple(read(each.classes[one.number]) if one.number < len(each.classes) else None for each in details))
            for one in longest.classes if one.boxes
        )[:MOST_ROWS]  # fmt: skip

    yield FigureTable(
        "AP50", "boxes", models, (*by_class(lambda one: one.ap50), FigureRow("all classes", None, tuple(one.ap50 for one in details))),
        "Average precision at an IoU of 0.5, with 95 % intervals.",
    )  # fmt: skip
    sizes = tuple(
        FigureRow(f"{one.name} boxes", one.boxes, tuple(each.sizes[place].recall for each in details))
        for place, one in enumerate(details[0].sizes)
        if one.boxes
    )
    yield FigureTable(
        "Recall", "boxes", models,
        (*by_class(lambda one: one.recall), FigureRow("all classes", None, tuple(one.recall for one in details)), *sizes,
         FigureRow("F1", None, tuple(one.f1 for one in details))),
        "At an IoU of 0.5 and, for each model, the score threshold of its best F1. Small boxes are below 32\u00b2, medium ones below "
        "96\u00b2 pixels of the picture.",
        tuple(f"score {one.threshold.value:.2f}" for one in details),
    )  # fmt: skip


def _mask_table(details: Sequence[SegmentationDetails], models: tuple[str, ...], names: Sequence[str]) -> FigureTable:
    listed = _named(len(details[0].classes), names)
    rows = tuple(
        FigureRow(listed[one.number], one.pixels, tuple(each.classes[one.number].iou for each in details))
        for one in details[0].classes
        if one.pixels
    )
    whole = FigureRow("pixels of the right class", None, tuple(one.pixel_accuracy for one in details))
    return FigureTable(
        "IoU", "pixels", models, (*rows[:MOST_ROWS], whole), "With 95 % intervals; void pixels are left out."
    )


def _class_table(shown: Sequence[LoadedMeasurement], names: Sequence[str]) -> FigureTable:
    labels = shown[0].labels
    assert labels is not None
    listed = _named(int(labels.max()) + 1, names)
    rows = []
    for kind in np.unique(labels)[:MOST_ROWS].tolist():
        figures = []
        for one in shown:
            assert one.correct is not None
            assert one.labels is not None
            right = one.correct[one.labels == kind]
            figures.append(_fraction(right) if len(right) else None)
        rows.append(FigureRow(listed[kind], int((labels == kind).sum()), tuple(figures)))
    whole = FigureRow(
        "all classes", len(labels), tuple(_fraction(one.correct) for one in shown if one.correct is not None)
    )
    return FigureTable("Accuracy", "samples", tuple(one.label for one in shown), (*rows, whole), "With 95 % intervals.")


def _fraction(right: np.ndarray) -> Figure:
    found = wilson(float(right.mean()), len(right))
    return Figure(value=found.value, ci95=found.ci95)


def _cells(matrix: np.ndarray) -> Cells:
    """Return the entries of a matrix that are not 0."""
    row, column = np.nonzero(matrix)
    return Cells(row, column, matrix[row, column])


def _table(model: str, cells: Cells, rows: Sequence[str], columns: Sequence[str]) -> ConfusionTable:
    if max(len(rows), len(columns)) > MOST_CLASSES + 1:
        return ConfusionTable(model, (), (), (), (), tuple(_largest(cells, rows, columns)))
    whole = np.zeros((len(rows), len(columns)), int)
    whole[cells.rows, cells.columns] = cells.counts
    kept = np.flatnonzero(whole.sum(1)).tolist()  # classes without samples have no row
    matrix = whole[kept]
    shares = matrix / matrix.sum(1, keepdims=True)
    return ConfusionTable(
        model, tuple(rows[i] for i in kept), tuple(columns), tuple(map(tuple, shares.tolist())),
        tuple(map(tuple, matrix.tolist())), (),
    )  # fmt: skip


def _largest(cells: Cells, rows: Sequence[str], columns: Sequence[str]) -> Iterator[tuple[str, str, int, float]]:
    """Yield label, answer, count and share of the largest entries off the diagonal."""
    totals = np.bincount(cells.rows, cells.counts)
    off = np.flatnonzero(cells.rows != cells.columns)
    for place in off[np.argsort(-cells.counts[off], kind="stable")][:LISTED].tolist():
        row, count = int(cells.rows[place]), int(cells.counts[place])
        yield rows[row], columns[int(cells.columns[place])], count, float(count / totals[row])


def _named(count: int, names: Sequence[str]) -> list[str]:
    return [names[i] if i < len(names) else str(i) for i in range(count)]
