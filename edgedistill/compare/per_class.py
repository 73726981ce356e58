"""Compare accuracy class by class: a small drop of the mean can hide a large drop of one class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgedistill.compare.load import LoadedMeasurement
from edgedistill.statistics import ClassDrop, drops_by_class


def class_drops(baseline: LoadedMeasurement, candidate: LoadedMeasurement) -> tuple[ClassDrop, ...]:
    """Compare two models class by class on the same test samples; empty where the answers per sample are not known."""
    if not same_samples(baseline, candidate):
        return ()
    assert baseline.correct is not None
    assert candidate.correct is not None
    assert baseline.labels is not None
    names = candidate.class_names or baseline.class_names
    return drops_by_class(baseline.labels, baseline.correct, candidate.correct, names)


def same_samples(baseline: LoadedMeasurement, candidate: LoadedMeasurement) -> bool:
    """Tell whether two models were tested on the same samples in the same order, judged by the labels."""
    if baseline.correct is None or candidate.correct is None or baseline.labels is None or candidate.labels is None:
        return False
    return np.array_equal(baseline.labels, candidate.labels)


def hidden(drops: Sequence[ClassDrop], points: float) -> tuple[ClassDrop, ...]:
    """Return the classes whose drop is certainly larger than the mean drop `points`, the worst first."""
    lost = [drop for drop in drops if drop.ci95_points[0] > max(points, 0.0)]
    return tuple(sorted(lost, key=lambda drop: -drop.points))
