"""Precision-recall curves of detectors at an IoU of 0.5."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgedistill.compare.load import LoadedMeasurement
from edgedistill.records.details import DetectionDetails
from edgedistill.report.plots import looks_of, place_legend
from edgedistill.report.svg import new_axes, style, to_svg
from edgedistill.tasks.matches import Matches, precision_recall

RECALLS = np.linspace(0, 1, 101)
MOST_CLASSES = 6
"""With more classes, only their mean is plotted."""


def precision_recall_plots(
    shown: Sequence[LoadedMeasurement], names: Sequence[str], prefix: str
) -> list[tuple[str, str]]:
    """Return the plots of the classes, or their mean, each an SVG with its caption; empty for models that are no detectors."""
    models = {
        one.label: (one.matches, one.measurement.details)
        for one in shown
        if one.matches is not None and isinstance(one.measurement.details, DetectionDetails)
    }
    if not models:
        return []
    kinds = _with_boxes(next(iter(models.values()))[0])
    if len(kinds) > MOST_CLASSES:
        return [(_plot(models, kinds, "all classes", prefix), f"Mean of {len(kinds)} classes.")]
    return [
        (_plot(models, [kind], names[kind] if kind < len(names) else str(kind), f"{prefix}-{kind}"), "")
        for kind in kinds
    ]


def _plot(models: dict[str, tuple[Matches, DetectionDetails]], kinds: Sequence[int], title: str, name: str) -> str:
    looks, handles, described = looks_of(list(models)), [], []
    with style():
        figure, axes = new_axes(3.4, 2.8)
        for label, (matches, details) in models.items():
            precision = np.mean([_interpolated(matches, kind) for kind in kinds], axis=0)
            look = looks[label]
            handles += axes.plot(
                RECALLS, precision, color=look.colour, linestyle=look.dashes, linewidth=1.6, label=label
            )
            point = _operating(matches, kinds, details.threshold.value)
            if point is not None:
                axes.plot(*point, look.marker, color=look.colour, markersize=5.5)
                described.append(f"{label}: precision {point[1]:.2f} at recall {point[0]:.2f}")
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel(f"recall of {title}")
        axes.set_ylabel("precision")
        place_legend(figure, handles, 2)
        return to_svg(figure, name, f"Precision against recall of {title}", "; ".join(described))


def _with_boxes(matches: Matches) -> list[int]:
    return [int(kind) for kind in np.unique(matches.box_kind[~matches.is_crowd])]


def _interpolated(matches: Matches, kind: int) -> np.ndarray:
    """Return the largest precision at each of 101 recalls or more, as COCO interpolates it; 0 beyond the largest recall."""
    _, precision, recall = precision_recall(matches, kind)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(recall, RECALLS, side="left")
    return np.append(highest, 0.0)[place]


def _operating(matches: Matches, kinds: Sequence[int], threshold: float) -> tuple[float, float] | None:
    """Return recall and precision from a threshold on, the mean over classes; None if a class has no detections from it on."""
    points = []
    for kind in kinds:
        score, precision, recall = precision_recall(matches, kind)
        count = int((score >= threshold).sum())
        if not count:
            return None
        points.append((recall[count - 1], precision[count - 1]))
    found = np.mean(points, axis=0)
    return float(found[0]), float(found[1])
