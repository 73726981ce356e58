"""Compare accuracy class by class: a small drop of the mean can hide a large drop of one class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgedistill.compare.load import LoadedMeasurement
from edgedistill.records.base import Record
from edgedistill.statistics import paired_drop


class ClassDrop(Record):
    """One class: `baseline` and `candidate` are the fractions of its `n` test samples that each model classified correctly.

    `points` is how many percentage points lower the candidate is. The intervals of all classes hold jointly with 95 %
    confidence (Bonferroni), because a reader looks for the worst class.
    """

    name: str
    n: int
    baseline: float
    candidate: float
    points: float
    ci95_points: tuple[float, float]


def class_drops(baseline: LoadedMeasurement, candidate: LoadedMeasurement) -> tuple[ClassDrop, ...]:
    """Compare two models class by class on the same test samples; empty where the answers per sample are not known."""
    if not same_samples(baseline, candidate):
        return ()
    assert baseline.correct is not None
    assert candidate.correct is not None
    assert baseline.labels is not None
    classes = [int(label) for label in np.unique(baseline.labels)]
    names = candidate.class_names or baseline.class_names
    drops = []
    for label in classes:
        members = baseline.labels == label
        before, after = baseline.correct[members], candidate.correct[members]
        drop = paired_drop(before, after, 1 - 0.05 / len(classes))
        name = names[label] if 0 <= label < len(names) else str(label)
        drops.append(
            ClassDrop(
                name=name, n=int(members.sum()), baseline=float(before.mean()), candidate=float(after.mean()),
                points=drop.points, ci95_points=drop.ci95_points,
            )
        )  # fmt: skip
    return tuple(drops)


def same_samples(baseline: LoadedMeasurement, candidate: LoadedMeasurement) -> bool:
    """Tell whether two models were tested on the same samples in the same order, judged by the labels."""
    if baseline.correct is None or candidate.correct is None or baseline.labels is None or candidate.labels is None:
        return False
    return np.array_equal(baseline.labels, candidate.labels)


def worst(drops: Sequence[ClassDrop]) -> ClassDrop | None:
    """Return the class with the largest drop."""
    return max(drops, key=lambda drop: drop.points, default=None)


def hidden(drops: Sequence[ClassDrop], points: float) -> tuple[ClassDrop, ...]:
    """Return the classes whose drop is certainly larger than the mean drop `points`, the worst first."""
    lost = [drop for drop in drops if drop.ci95_points[0] > max(points, 0.0)]
    return tuple(sorted(lost, key=lambda drop: -drop.points))
