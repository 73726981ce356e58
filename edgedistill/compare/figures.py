"""Numbers as text, each with the digits it can bear; sizes are decimal (1 kB is 1000 bytes)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

NONE = "—"


def significant(value: float, digits: int = 3) -> str:
    """Write a number with so many significant digits and no exponent: 0.218, 12.3, 1234."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    text = f"{value:.{max(0, decimals)}f}"
    rounded_up = decimals > 0 and len(text.strip("-").replace(".", "").lstrip("0")) > digits
    return f"{value:.{decimals - 1}f}" if rounded_up else text


def milliseconds(nanoseconds: float) -> str:
    """Write a latency in milliseconds, without the unit."""
    return significant(nanoseconds / 1e6)


def megabytes(count: float) -> str:
    """Write a memory size in megabytes, without the unit."""
    return significant(count / 1e6)


def size(count: float) -> str:
    """Write a file size with its unit."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale * 0.9995:
            return f"{significant(count / scale)} {unit}"
    return f"{count:.0f} B"


def energy(microjoules: float) -> str:
    """Write an energy with its unit."""
    for unit, scale in (("J", 1e6), ("mJ", 1e3)):
        if abs(microjoules) >= scale * 0.9995:
            return f"{significant(microjoules / scale)} {unit}"
    return f"{significant(microjoules)} µJ"


METRICS: Final = {
    "top1": ("acc. %", "Accuracy", "accuracy"),
    "r2": ("R² %", "R²", "R²"),
    "cosine": ("cos. %", "Cosine", "cosine"),
}
"""A metric's heading in a narrow table, its name, and its name within a sentence."""


UNKNOWN: Final = ("score %", "Score", "score")


def metric(found: Iterable[str]) -> tuple[str, str]:
    """Return the heading and the name of the one metric that is found, or of any where they differ."""
    names = set(found) or {"top1"}
    heading, name, _ = METRICS.get(names.pop(), UNKNOWN) if len(names) == 1 else UNKNOWN
    return heading, name


def metric_word(metric: str) -> str:
    """Return a metric's name within a sentence."""
    return METRICS.get(metric, UNKNOWN)[2]


def percent(fraction: float) -> str:
    """Write a fraction as a percentage, without the sign."""
    return f"{100 * fraction:.1f}"


def times(ratio: float) -> str:
    """Write a ratio: 4.1x, 0.82x, 1.00x, 12x; two digits above 2, where a third would be noise."""
    return f"{significant(ratio, 3 if 0.95 <= ratio < 1.95 else 2)}x"


def points(drop: float, metric: str) -> str:
    """Say how much lower or higher a metric is, given its drop in percentage points."""
    if abs(drop) < 0.05:
        return f"same {metric_word(metric)}"
    return f"{abs(drop):.1f} points {'lower' if drop > 0 else 'higher'}"


def signed(value: float) -> str:
    """Write a number with its sign, one decimal, and a true minus."""
    return f"{value:+.1f}".replace("-", "\u2212")


def rounded_up(count: float) -> str:
    """Write a number as a round one that is not smaller, of two digits: 1300, 47."""
    scale = 10 ** max(0, math.floor(math.log10(count)) - 1)
    return f"{math.ceil(count / scale) * scale:,}"
