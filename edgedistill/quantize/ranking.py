"""The order in which layers go back to float: those whose rounding costs most accuracy for the time that it saves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from edgedistill.records.quantize_steps import LayerSensitivity

NEGLIGIBLE: Final = 0.01
"""A layer with a smaller fraction of the summed errors of all layers wins nothing in float, whatever time it takes."""


def negligible(layers: Sequence[LayerSensitivity]) -> set[str]:
    """Return the names of the layers whose errors are negligible beside those of the others; they need no timing."""
    least = NEGLIGIBLE * sum(one.output_error for one in layers)
    return {one.layer for one in layers if one.output_error < least}


def by_weight(layers: Sequence[LayerSensitivity]) -> list[LayerSensitivity]:
    """Return the layers with the largest error per weight first; equal ones stay in the order of the graph."""
    return sorted(layers, key=_error_per_weight, reverse=True)


def by_time(layers: Sequence[LayerSensitivity]) -> Iterator[LayerSensitivity]:
    """Yield the layers with the largest error per microsecond saved first; times decide only where their intervals do.

    The saving of a layer has a 95 % interval, and so has its error per microsecond, without an upper end if int8 may save
    nothing. Of the layers whose interval reaches that of every other, any may be the first. The one with the largest error is,
    as if all saved the same time; of equal ones, the first in the graph. Layers with negligible errors are the last.
    """
    last, ordered = negligible(layers), sorted(layers, key=lambda one: one.output_error, reverse=True)
    left = [one for one in ordered if one.layer not in last]
    while left:
        least = max(_error_per_us(one)[0] for one in left)
        first = next(one for one in left if _error_per_us(one)[1] >= least)
        left.remove(first)
        yield first
    yield from (one for one in ordered if one.layer in last)


def layer_counts(layers: int) -> Iterator[int]:
    """Yield 1, 2, 3, 4, 6, 8, 12, 16, 24, ... below the number of layers."""
    count = 1
    while count < layers:
        yield count
        # The next number of the form 2^k or 1.5 * 2^k: each step adds between a third and a half.
        count = count + 1 if count < 4 else (count * 3 // 2 if count & (count - 1) == 0 else count * 4 // 3)


def _error_per_weight(one: LayerSensitivity) -> float:
    """Return a layer's error per weight in int8: what int8 costs per byte that it saves."""
    return one.output_error / (one.weights or 1)


def _error_per_us(one: LayerSensitivity) -> tuple[float, float]:
    """Return the interval of a layer's error per microsecond saved; infinite where int8 saves none, (0, inf) if not known."""
    if one.saved_us_ci95 is None:
        return 0.0, math.inf
    low, high = (one.output_error / saved if saved > 0 else math.inf for saved in reversed(one.saved_us_ci95))
    return low, high
