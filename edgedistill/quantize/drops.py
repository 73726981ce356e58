"""The drop of an int8 model against the float student on the same validation samples, with its 95 % interval."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
from scipy import stats

from edgedistill.data.sources import Array
from edgedistill.records.stages import LimitVerdict
from edgedistill.statistics import Pairs, drop_in, limit_verdict, samples_to_tell
from edgedistill.tasks.task import Task

GROUPS: Final = 20
"""The groups of the jackknife: few, because a ranking metric of thousands of samples takes a second."""


class Drop(NamedTuple):
    """A drop in percentage points on `samples` validation samples, and whether it is within a limit.

    `needed` is about how many samples would show that; None if these samples do, or if no number would.
    """

    points: float
    interval: tuple[float, float]
    samples: int
    verdict: LimitVerdict
    needed: int | None

    def describe(self, limit: float) -> str:
        """Return the drop in words, with the verdict on a limit in points."""
        low, high = self.interval
        shown = f"drop {self.points:+.2f} points ({low:+.2f} to {high:+.2f})"
        if self.verdict != "cannot tell":
            return f"{shown}, {'within' if self.verdict == 'holds' else 'above'} max_drop {limit:g}"
        enough = "no number of samples would" if self.needed is None else f"about {self.needed:,} samples would"
        return f"{shown}: {self.samples:,} samples cannot tell whether that is within max_drop {limit:g}, {enough}"


class Judge(NamedTuple):
    """Judges drops by a task's metric: `floats` are the float student's outputs (N, D) for the `labels`."""

    task: Task
    floats: Array
    labels: Array
    limit: float
    """The largest accepted drop in points."""

    def drop_of(self, answers: Array) -> Drop:
        """Return the drop of a model with these outputs (N, D).

        A fraction of correct samples has Newcombe's paired interval (1998, method 10). Other metrics have a Student interval
        with the standard error of the delete-a-group jackknife (Kott 2001), which leaves out the same samples of both models.
        """
        if self.task.is_proportion:
            pairs = Pairs.of(self._correct(self.floats), self._correct(answers))
            drop = drop_in(pairs, len(self.labels))
            return self._judged(drop.points, drop.ci95_points, samples_to_tell(pairs, self.limit))
        points, half = self._points(answers, slice(None)), self._half_width(answers)
        gap = abs(points - self.limit)
        needed = math.ceil(len(self.labels) * (half / gap) ** 2) if gap else None
        return self._judged(points, (points - half, points + half), needed)

    def accepts(self, drop: Drop) -> bool:
        """Return whether the measured drop is within the limit; one sample is the least that a fraction can drop."""
        least = 100 / len(self.labels) if self.task.is_proportion else 0.0
        return drop.points <= max(self.limit, least) + 1e-9

    def _judged(self, points: float, interval: tuple[float, float], needed: int | None) -> Drop:
        verdict = limit_verdict(interval, self.limit)
        if verdict != "cannot tell" or needed is None:
            return Drop(points, interval, len(self.labels), verdict, None)
        return Drop(points, interval, len(self.labels), verdict, _rounded(needed))

    def _correct(self, outputs: Array) -> Array:
        rows = (slice(i, i + 1) for i in range(len(self.labels)))
        return np.array([self.task.score(outputs[row], self.labels[row]) == 1 for row in rows])

    def _points(self, answers: Array, rows: Array | slice) -> float:
        labels = self.labels[rows]
        return 100 * (self.task.score(self.floats[rows], labels) - self.task.score(answers[rows], labels))

    def _half_width(self, answers: Array) -> float:
        n = len(self.labels)
        groups = min(GROUPS, n)
        if groups < 2:
            return 100.0
        member = np.random.Generator(np.random.Philox(key=0)).permutation(n) % groups
        without = [self._points(answers, member != group) for group in range(groups)]
        return float(stats.t.ppf(0.975, groups - 1) * math.sqrt((groups - 1) * np.var(without)))


def _rounded(samples: int) -> int:
    """Return a number of samples with two digits."""
    return round(samples, 2 - len(str(samples)))
