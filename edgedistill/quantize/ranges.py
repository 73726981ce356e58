"""Activation ranges from histograms of a tensor's magnitudes."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from edgedistill.errors import ConfigError

Ranges = Literal["mse", "minmax"]
BINS = 2048
CANDIDATES = 100
CACHED = 1 << 16
"""The number of values counted at a time, so that they stay in the processor's cache."""


class MagnitudeHistogram:
    """Counts of |x| in equal bins; the bins grow by doubling, so the counts do not depend on the order of batches."""

    def __init__(self) -> None:
        self.counts = torch.zeros(BINS, dtype=torch.float64)
        self.limit = 0.0
        self.largest = 0.0
        self.lowest = math.inf

    def update(self, values: Tensor) -> None:
        """Count a tensor of any shape."""
        flat = values.detach().flatten().float()
        lowest, highest = (float(end) for end in flat.aminmax())
        largest = max(abs(lowest), abs(highest))
        if not math.isfinite(largest):
            raise ConfigError(
                "a calibration sample produces an activation that is not finite; check the data and the weights"
            )
        if largest > self.limit:
            self._grow(largest)
        self.largest = max(self.largest, largest)
        self.lowest = min(self.lowest, lowest)
        if self.limit > 0:
            for part in torch.split(flat, CACHED):
                self.counts += self._count(part).cpu()

    def bound(self, ranges: Ranges, levels: int) -> float:
        """Return the magnitude of the largest of `levels` steps; 1 if all values are zero."""
        if self.largest == 0:
            return 1.0
        return self.largest if ranges == "minmax" else self._least_error(levels)

    def _count(self, values: Tensor) -> Tensor:
        """Return the counts (BINS,); the limit is a power of two, so the division is exact; `bincount` is faster than `histc`."""
        bins = (values.abs() / self.limit * BINS).int().clamp_(max=BINS - 1)  # the last bin includes its upper edge
        return torch.bincount(bins, minlength=BINS)

    def _grow(self, largest: float) -> None:
        if self.limit == 0:
            # A power of two, so that every order of batches ends with the same bins.
            self.limit = 2.0 ** math.ceil(math.log2(largest))
        while self.limit < largest:
            self.counts = torch.cat([self.counts.reshape(-1, 2).sum(1), torch.zeros(BINS // 2, dtype=torch.float64)])
            self.limit *= 2

    def _least_error(self, levels: int) -> float:
        """Return the bound with the least squared rounding and clipping error, computed at the bins' centres."""
        centres = (torch.arange(BINS, dtype=torch.float64) + 0.5) * (self.limit / BINS)
        bounds = self.largest * torch.linspace(1 / CANDIDATES, 1, CANDIDATES, dtype=torch.float64)
        steps = (bounds / levels).unsqueeze(1)
        rounded = (centres / steps).round().clamp(max=levels) * steps
        errors = ((rounded - centres) ** 2 * self.counts).sum(1)
        return float(bounds[errors.argmin()])
