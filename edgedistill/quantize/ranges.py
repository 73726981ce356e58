"""Activation ranges from histograms of a tensor's magnitudes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill.errors import ConfigError
from edgedistill.records.base import Ranges

BINS = 2048
CANDIDATES = 100
CACHED = 1 << 16
"""The number of values counted at a time, so that they stay in the processor's cache."""


NEGLIGIBLE = 1e-35
"""A largest magnitude below this counts as 0: float32 cannot hold the number of bins for each unit."""


class MagnitudeHistogram:
    """Counts of |x| in equal bins; the bins grow by doubling, so the counts do not depend on the order of batches."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS)
        self.limit = 0.0
        self.largest = 0.0
        self.lowest = math.inf

    def update(self, values: npt.NDArray[Any]) -> None:
        """Count the values of an array of any shape."""
        flat = values.reshape(-1)
        lowest, highest = float(flat.min()), float(flat.max())
        largest = max(abs(lowest), abs(highest))
        if not math.isfinite(largest):
            raise ConfigError(
                "a calibration sample produces an activation that is not finite; check the data and the weights"
            )
        if largest < NEGLIGIBLE:
            largest = 0.0
        if largest > self.limit:
            self._grow(largest)
        self.largest = max(self.largest, largest)
        self.lowest = min(self.lowest, lowest)
        if self.limit > 0:
            for start in range(0, len(flat), CACHED):
                self.counts += self._count(flat[start : start + CACHED])

    def bound(self, ranges: Ranges, levels: int) -> float:
        """Return the magnitude of the largest of `levels` steps; 1 if all values are zero."""
        if self.largest == 0:
            return 1.0
        return self.largest if ranges == "minmax" else self._least_error(levels)

    def _count(self, values: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
        """Return the counts (BINS,); the limit is a power of two, so the product is exact."""
        bins = (np.abs(values) * np.float32(BINS / self.limit)).astype(np.intp)
        return np.bincount(np.minimum(bins, BINS - 1), minlength=BINS)  # the last bin includes its upper edge

    def _grow(self, largest: float) -> None:
        if self.limit == 0:
            # A power of two, so that every order of batches ends with the same bins.
            self.limit = 2.0 ** math.ceil(math.log2(largest))
        while self.limit < largest:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2)])
            self.limit *= 2

    def _least_error(self, levels: int) -> float:
        """Return the bound with the least squared rounding and clipping error, computed at the bins' centres."""
        centres = (np.arange(BINS) + 0.5) * (self.limit / BINS)
        bounds = self.largest * np.linspace(1 / CANDIDATES, 1, CANDIDATES)
        steps = (bounds / levels)[:, None]
        rounded = np.minimum(np.round(centres / steps), levels) * steps
        errors = (rounded - centres) ** 2 @ self.counts
        return float(bounds[errors.argmin()])
