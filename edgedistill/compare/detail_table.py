"""What is beside a metric, and what a picture takes, as small tables: one row a model, for the terminal, Markdown and notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from edgedistill.compare import formatting
from edgedistill.compare.rows import Group, Row
from edgedistill.records.details import DetectionDetails, Figure, PairDetails, SegmentationDetails
from edgedistill.records.measurement import Longest


class DetailTable(NamedTuple):
    """Headings and rows of text; the first two columns name the model and its precision. `note` explains the columns."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str


def detail_tables(group: Group) -> tuple[DetailTable, ...]:
    """Return what is beside the metric of boxes, masks and pairs, and the time of whole pictures, where they are known."""
    return tuple(table for table in (_of_accuracy(group), picture_table(group)) if table is not None)


def picture_table(group: Group) -> DetailTable | None:
    """Return the time of whole pictures, or None where no model has it."""
    known = [row for row in group.rows if row.measurement.pictures is not None]
    if not known:
        return None
    unit = formatting.time_unit(row.measurement.pictures.total_ns for row in known if row.measurement.pictures)
    headings = ("model", "precision", *(f"{part} {unit.name}" for part in ("picture", "before", "network", "after")))
    sizes = dict.fromkeys(size for row in known if row.measurement.pictures for size in row.measurement.pictures.sizes)
    note = f"pictures of {', '.join(f'{width}x{height}' for width, height in sizes)} pixels; before: to the input, after: to the answer"
    return DetailTable(headings, tuple((*_name(row), *_times(row, unit)) for row in known), note)


def _times(row: Row, unit: formatting.Unit) -> tuple[str, ...]:
    took = row.measurement.pictures
    assert took is not None
    each = (took.total_ns, took.preprocess_ns, took.network_ns, took.postprocess_ns)
    return tuple(unit.text(nanoseconds) for nanoseconds in each)


def _of_accuracy(group: Group) -> DetailTable | None:
    known = [row for row in group.rows if row.measurement.details is not None]
    if not known:
        return None
    if isinstance(known[0].measurement.details, DetectionDetails):
        sizes = known[0].measurement.details.sizes
        headings = ("model", "precision", "AP50", "AR", *(one.name for one in sizes), "best F1", "at score", "recall")
        note = "%; AR by size of box; recall at the score of the best F1"
    elif isinstance(known[0].measurement.details, PairDetails):
        headings = ("model", "precision", "cosine", "longest", "p50 ms")
        note = "cosine to the teacher's vectors in %; the number of tokens of the longest text, and the median latency at it"
    else:
        headings, note = ("model", "precision", "pixels", "worst class", "IoU"), "%; pixels: those of the right class"
    return DetailTable(headings, tuple((*_name(row), *_cells(row)) for row in known), note)


def _name(row: Row) -> tuple[str, str]:
    precision = row.measurement.precision.requested
    return row.label.removesuffix(f" {precision}"), precision


def _cells(row: Row) -> tuple[str, ...]:
    details = row.measurement.details
    if isinstance(details, DetectionDetails):
        sizes = (_figure(one.average_recall) for one in details.sizes)
        threshold = f"{details.threshold.value:.2f}"
        return (
            _figure(details.ap50),
            _figure(details.average_recall),
            *sizes,
            _figure(details.f1),
            threshold,
            _figure(details.recall),
        )
    if isinstance(details, PairDetails):
        return (_figure(details.teacher_cosine), *_longest(row.measurement.longest))
    assert isinstance(details, SegmentationDetails)
    return (_figure(details.pixel_accuracy), *_worst(details, row.class_names))


def _longest(longest: Longest | None) -> tuple[str, str]:
    if longest is None:
        return formatting.DASH, formatting.DASH
    return str(longest.length), formatting.milliseconds(longest.p50_ns)


def _worst(details: SegmentationDetails, names: Sequence[str]) -> tuple[str, str]:
    known = [(one.iou.value, one.number) for one in details.classes if one.iou is not None]
    if not known:
        return formatting.DASH, formatting.DASH
    value, number = min(known)
    return names[number] if number < len(names) else str(number), formatting.percent(value)


def _figure(figure: Figure | None) -> str:
    return formatting.DASH if figure is None else formatting.percent(figure.value)
