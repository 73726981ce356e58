"""Compare accuracy class by class, and recall by the size of boxes: a small drop of the mean can hide a large drop of one class.

For a class of boxes, accuracy is the recall at the score threshold of the model's best F1. For a class of masks, it is the IoU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

import numpy as np

from edgedistill.compare.load import LoadedMeasurement
from edgedistill.records.details import DetectionDetails
from edgedistill.statistics import ClassDrop, drops_by_class
from edgedistill.tasks.mask_drops import mask_drops, widened
from edgedistill.tasks.matches import SIZES, Matches, recall_of
from edgedistill.tasks.resampling import resampled_counts

Groups = Callable[[Matches], np.ndarray]
"""A function that returns the group of each box (B,): its class or its size."""


def class_drops(baseline: LoadedMeasurement, candidate: LoadedMeasurement) -> tuple[ClassDrop, ...]:
    """Compare two models class by class on the same test samples; empty where the answers per sample are not known."""
    names = candidate.class_names or baseline.class_names
    if baseline.confusions is not None and candidate.confusions is not None:
        return mask_drops(baseline.confusions, candidate.confusions, names)
    if baseline.matches is not None:
        return _recall_drops(baseline, candidate, lambda matches: matches.box_kind, names)
    if not same_samples(baseline, candidate):
        return ()
    assert baseline.correct is not None
    assert candidate.correct is not None
    assert baseline.labels is not None
    return drops_by_class(baseline.labels, baseline.correct, candidate.correct, names)


def size_drops(baseline: LoadedMeasurement, candidate: LoadedMeasurement) -> tuple[ClassDrop, ...]:
    """Compare the recall of two detectors by the size of the boxes; empty for other models."""
    return _recall_drops(baseline, candidate, lambda matches: matches.box_size, tuple(SIZES))


def same_samples(baseline: LoadedMeasurement, candidate: LoadedMeasurement) -> bool:
    """Tell whether two models were tested on the same samples in the same order, judged by the labels."""
    if baseline.correct is None or candidate.correct is None or baseline.labels is None or candidate.labels is None:
        return False
    return np.array_equal(baseline.labels, candidate.labels)


def same_boxes(one: Matches, other: Matches) -> bool:
    """Tell whether two detectors were tested on the same pictures, judged by the boxes."""
    keys = ("box_picture", "box_kind", "box_area", "is_crowd")
    return one.pictures == other.pictures and all(
        np.array_equal(getattr(one, key), getattr(other, key)) for key in keys
    )


def recall_drops(
    before: tuple[Matches, float], after: tuple[Matches, float], groups: Groups, names: Sequence[str]
) -> tuple[ClassDrop, ...]:
    """Compare the recall of two detectors, each at a score threshold, by groups of boxes.

    Boxes of one picture are often found or missed together, so the interval of pairs of boxes is widened to that of resampled
    pictures where the latter is wider.
    """
    boxes = before[0]
    judged, group = ~boxes.is_crowd, groups(boxes)
    found = [matches.found_at(threshold)[judged] for matches, threshold in (before, after)]
    drops = drops_by_class(group[judged], found[0], found[1], names)
    counts, count = resampled_counts(boxes.pictures), int(group.max(initial=0)) + 1
    values = [recall_of(matches, group, count, threshold).resampled(counts) for matches, threshold in (before, after)]
    spread = np.nanstd(100 * (values[0] - values[1])[:, np.unique(group[judged])], axis=0)
    return tuple(widened(drop, float(sd), len(drops)) for drop, sd in zip(drops, spread, strict=True))


def hidden(drops: Sequence[ClassDrop], points: float) -> tuple[ClassDrop, ...]:
    """Return the classes whose drop is certainly larger than the mean drop `points`, the worst first."""
    lost = [drop for drop in drops if drop.ci95_points[0] > max(points, 0.0)]
    return tuple(sorted(lost, key=lambda drop: -drop.points))


def mean_points(drops: Sequence[ClassDrop]) -> float:
    """Return the mean drop over classes."""
    return fmean(drop.points for drop in drops) if drops else 0.0


def _recall_drops(
    baseline: LoadedMeasurement, candidate: LoadedMeasurement, groups: Groups, names: Sequence[str]
) -> tuple[ClassDrop, ...]:
    sides = [_at_best(one) for one in (baseline, candidate)]
    if sides[0] is None or sides[1] is None or not same_boxes(sides[0][0], sides[1][0]):
        return ()
    return recall_drops(sides[0], sides[1], groups, names)


def _at_best(one: LoadedMeasurement) -> tuple[Matches, float] | None:
    """Return a detector's matches and its best threshold, or None for other models."""
    if one.matches is None or not isinstance(one.measurement.details, DetectionDetails):
        return None
    return one.matches, one.measurement.details.threshold.value
