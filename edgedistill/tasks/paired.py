"""The drop from one model to another on the same samples, in any task's metric, with its 95 % interval."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
from scipy import stats

from edgedistill.statistics import Pairs, drop_in
from edgedistill.tasks.task import Array, Task

GROUPS: Final = 20
"""The groups of the jackknife: few, because a ranking metric of thousands of samples takes a second."""


class PairedDrop(NamedTuple):
    """A drop in percentage points with its interval; `pairs` are the counts of a fraction of correct samples, None for others."""

    points: float
    interval: tuple[float, float]
    pairs: Pairs | None


def paired_drop_of(task: Task, baseline: Array, candidate: Array, labels: Array) -> PairedDrop:
    """Return the drop of a candidate's answers (N, ...) against a baseline's, for the same labels.

    A fraction of correct samples has Newcombe's paired interval (1998, method 10). Other metrics have a Student interval
    with the standard error of the delete-a-group jackknife (Kott 2001), which leaves out the same units of both models: the
    samples, or the pairs of sentences.
    """
    if task.is_proportion:
        pairs = Pairs.of(_correct(task, baseline, labels), _correct(task, candidate, labels))
        drop = drop_in(pairs, len(labels))
        return PairedDrop(drop.points, drop.ci95_points, pairs)

    def points(rows: Array | slice) -> float:
        return 100 * (task.score(baseline[rows], labels[rows]) - task.score(candidate[rows], labels[rows]))

    units, unit_of = np.unique(task.units(labels), return_inverse=True)
    groups = min(GROUPS, len(units))
    whole, half = points(slice(None)), 100.0
    if groups > 1:
        member = (np.random.Generator(np.random.Philox(key=0)).permutation(len(units)) % groups)[unit_of]
        without = [points(member != group) for group in range(groups)]
        half = float(stats.t.ppf(0.975, groups - 1) * math.sqrt((groups - 1) * np.var(without)))
    return PairedDrop(whole, (whole - half, whole + half), None)


def _correct(task: Task, answers: Array, labels: Array) -> Array:
    rows = (slice(i, i + 1) for i in range(len(labels)))
    return np.array([task.score(answers[row], labels[row]) == 1 for row in rows])
