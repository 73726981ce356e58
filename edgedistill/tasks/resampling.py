"""Resampled test sets, and intervals from them (Efron 1979)."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgedistill.records.details import Figure

Array = npt.NDArray[Any]
RESAMPLES: Final = 400


def resampled_rows(count: int, resamples: int = RESAMPLES) -> Array:
    """Return the rows of resampled test sets (resamples, count).

    The draws depend only on the number of samples, so that two models on the same samples are compared in the same resamples.
    """
    rng = np.random.Generator(np.random.Philox(key=0))
    return np.stack([rng.integers(0, count, count) for _ in range(resamples)])


def resampled_counts(count: int, resamples: int = RESAMPLES) -> Array:
    """Return how often each sample is in each resampled test set: (resamples, count)."""
    rows = resampled_rows(count, resamples)
    return np.stack([np.bincount(row, minlength=count) for row in rows])


def interval(value: float, resampled: Array) -> tuple[float, float]:
    """Return the 2.5 % and 97.5 % percentiles of a figure (resamples,), with `value` in between; NaN is left out."""
    known = resampled[np.isfinite(resampled)]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (0.0, 1.0)
    return min(float(low), value), max(float(high), value)


def figure(value: float | Array, resampled: Array) -> Figure:
    """Return a figure with its interval."""
    return Figure(value=float(value), ci95=interval(float(value), resampled))


def figure_or_none(value: float | Array, resampled: Array) -> Figure | None:
    """Return a figure with its interval, or None for NaN."""
    return None if np.isnan(value) else figure(value, resampled)


def ratios(tops: Array, bottoms: Array) -> Array:
    """Return tops / bottoms of one shape, NaN where the bottom is 0."""
    found: Array = np.full(tops.shape, np.nan)
    np.divide(tops, bottoms, out=found, where=bottoms > 0)
    return found


def mean_known(values: Array) -> Array:
    """Return the mean along the last axis of the values that are no NaN; NaN if there are none."""
    is_known = ~np.isnan(values)
    return ratios(np.where(is_known, values, 0).sum(-1), is_known.sum(-1))
