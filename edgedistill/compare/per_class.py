"""Compare accuracy class by class, and recall by the size of boxes: a small drop of the mean can hide a large drop of one class.

For a class of boxes, accuracy is the recall at the score threshold of the model's best F1. For a class of masks, it is the IoU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

import numpy as np
from scipy import stats

from edgedistill.compare.load import LoadedMeasurement
from edgedistill.records.details import DetectionDetails
from edgedistill.statistics import MINIMUM_PROCESSES, ClassDrop, drops_by_class
from edgedistill.tasks.details import class_ious
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
    return tuple(_widened(drop, float(sd), len(drops)) for drop, sd in zip(drops, spread, strict=True))


def mask_drops(baseline: np.ndarray, candidate: np.ndarray, names: Sequence[str] = ()) -> tuple[ClassDrop, ...]:
    """Compare the IoU of two models class by class, from the confusion matrices of pictures (N, C, C + 1).

    `n` is the number of pictures that show the class; with fewer than three the interval is the whole range. Empty for other pictures.
    """
    if baseline.shape != candidate.shape or not np.array_equal(baseline.sum(2), candidate.sum(2)):
        return ()
    counts, shape = resampled_counts(len(baseline)), (-1, *baseline.shape[1:])
    before, after = (class_ious(each.sum(0)) for each in (baseline, candidate))
    drawn = [class_ious((counts @ each.reshape(len(each), -1)).reshape(shape)) for each in (baseline, candidate)]
    shown = [int(kind) for kind in np.flatnonzero(baseline.sum((0, 2)))]
    drops = []
    for kind in shown:
        n, points = int((baseline[:, kind].sum(1) > 0).sum()), float(100 * (before[kind] - after[kind]))
        sd = float(np.nanstd(100 * (drawn[0] - drawn[1])[:, kind]))
        known = ClassDrop(
            name=names[kind] if kind < len(names) else str(kind), n=n, baseline=before[kind], candidate=after[kind],
            points=points, ci95_points=(points, points),
        )  # fmt: skip
        few = known.model_copy(update={"ci95_points": (-100.0, 100.0)})
        drops.append(_widened(known, sd, len(shown)) if n >= MINIMUM_PROCESSES else few)
    return tuple(drops)


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


def _widened(drop: ClassDrop, spread: float, classes: int) -> ClassDrop:
    """Return a drop whose interval contains that of a normal distribution of this deviation, for all classes jointly (Bonferroni)."""
    half = float(stats.norm.ppf(1 - 0.025 / classes)) * spread
    low, high = drop.ci95_points
    return drop.model_copy(update={"ci95_points": (min(low, drop.points - half), max(high, drop.points + half))})
