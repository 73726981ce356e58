"""The drop of an int8 model against the float student on the same validation samples, with its 95 % interval."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from edgedistill.data.sources import Array
from edgedistill.records.quantize_steps import LimitVerdict
from edgedistill.statistics import limit_verdict, samples_to_tell
from edgedistill.tasks.paired import paired_drop_of
from edgedistill.tasks.task import Task


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
        """Return the drop of a model with these outputs (N, D), with the interval of `paired_drop_of`."""
        points, interval, pairs = paired_drop_of(self.task, self.floats, answers, self.labels)
        if pairs is not None:
            return self._judged(points, interval, samples_to_tell(pairs, self.limit))
        gap, half = abs(points - self.limit), interval[1] - points
        needed = math.ceil(self._count * (half / gap) ** 2) if gap else None
        return self._judged(points, interval, needed)

    def accepts(self, drop: Drop) -> bool:
        """Return whether the measured drop is within the limit; one sample is the least that a fraction can drop."""
        least = 100 / len(self.labels) if self.task.is_proportion else 0.0
        return drop.points <= max(self.limit, least) + 1e-9

    @property
    def _count(self) -> int:
        """The number of samples that the metric counts: pairs where it scores pairs."""
        return len(np.unique(self.task.units(self.labels)))

    def _judged(self, points: float, interval: tuple[float, float], needed: int | None) -> Drop:
        verdict = limit_verdict(interval, self.limit)
        if verdict != "cannot tell" or needed is None:
            return Drop(points, interval, self._count, verdict, None)
        return Drop(points, interval, self._count, verdict, _rounded(needed))


def _rounded(samples: int) -> int:
    """Return a number of samples with two digits."""
    return round(samples, 2 - len(str(samples)))
