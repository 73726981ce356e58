"""What each class of masks loses: its IoU by one model and by another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from edgedistill.statistics import MINIMUM_PROCESSES, ClassDrop
from edgedistill.tasks.details import class_ious
from edgedistill.tasks.resampling import resampled_counts


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
        drops.append(widened(known, sd, len(shown)) if n >= MINIMUM_PROCESSES else few)
    return tuple(drops)


def widened(drop: ClassDrop, spread: float, classes: int) -> ClassDrop:
    """Return a drop whose interval contains that of a normal distribution of this deviation, for all classes jointly (Bonferroni)."""
    half = float(stats.norm.ppf(1 - 0.025 / classes)) * spread
    low, high = drop.ci95_points
    return drop.model_copy(update={"ci95_points": (min(low, drop.points - half), max(high, drop.points + half))})
