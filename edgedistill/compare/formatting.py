"""Format numbers as text with a sensible number of digits; sizes are decimal (1 kB is 1000 bytes)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

DASH = "—"
"""Stands in a table for a value that is not known."""


def significant(value: float, digits: int = 3) -> str:
    """Format a number with a number of significant digits and without an exponent: 0.218, 12.3, 1234."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    text = f"{value:.{max(0, decimals)}f}"
    rounded_up = decimals > 0 and len(text.strip("-").replace(".", "").lstrip("0")) > digits
    return f"{value:.{decimals - 1}f}" if rounded_up else text


def milliseconds(nanoseconds: float) -> str:
    """Format a latency in milliseconds, without the unit."""
    return significant(nanoseconds / 1e6)


class Unit(NamedTuple):
    """A unit for all values of a column or an axis: its name, and how many base units it is."""

    name: str
    scale: float

    def text(self, value: float) -> str:
        """Format a value given in base units, without the unit."""
        return significant(value / self.scale)


def time_unit(nanoseconds: Iterable[float]) -> Unit:
    """Return the unit of a column of latencies: microseconds if one is below a millisecond and none above 10."""
    return _unit(nanoseconds, Unit("µs", 1e3), Unit("ms", 1e6))


def size_unit(counts: Iterable[float]) -> Unit:
    """Return the unit of a column of file sizes: kB if one is below a megabyte and none above 10."""
    return _unit(counts, Unit("kB", 1e3), Unit("MB", 1e6))


def energy_unit(microjoules: Iterable[float]) -> Unit:
    """Return the unit of a column of energies: µJ if one is below a millijoule and none above 10."""
    return _unit(microjoules, Unit("µJ", 1), Unit("mJ", 1e3))


def _unit(values: Iterable[float], small: Unit, large: Unit) -> Unit:
    known = list(values)
    is_small = bool(known) and min(known) < large.scale and max(known) <= 10 * large.scale
    return small if is_small else large


def duration(nanoseconds: float) -> str:
    """Format a latency with its unit: 44.6 µs, 7.98 ms, 1.20 s."""
    for unit, scale in (("s", 1e9), ("ms", 1e6)):
        if nanoseconds >= scale * 0.9995:
            return f"{significant(nanoseconds / scale)} {unit}"
    return f"{significant(nanoseconds / 1e3)} µs"


def megabytes(count: float) -> str:
    """Format a memory size in megabytes, without the unit."""
    return significant(count / 1e6)


def size(count: float) -> str:
    """Format a file size with its unit."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale * 0.9995:
            return f"{significant(count / scale)} {unit}"
    return f"{count:.0f} B"


def energy(microjoules: float) -> str:
    """Format an energy with its unit."""
    for unit, scale in (("J", 1e6), ("mJ", 1e3)):
        if abs(microjoules) >= scale * 0.9995:
            return f"{significant(microjoules / scale)} {unit}"
    return f"{significant(microjoules)} µJ"


METRICS: Final = {
    "top1": ("acc. %", "Accuracy", "accuracy"),
    "r2": ("R² %", "R²", "R²"),
    "cosine": ("cos. %", "Cosine", "cosine"),
    "spearman": ("Spear. %", "Spearman", "Spearman's correlation"),
    "mean_ap": ("mAP %", "Mean AP", "mean AP"),
    "coco_ap": ("AP %", "AP", "AP"),
    "miou": ("mIoU %", "mIoU", "mIoU"),
}
"""The heading of a metric in a narrow table, its name, and its name within a sentence."""

UNKNOWN: Final = ("score %", "Score", "score")


def metric_heading(metrics: Iterable[str]) -> tuple[str, str]:
    """Return the heading and the name of a metric; where several metrics are given, those of a generic score."""
    names = set(metrics) or {"top1"}
    heading, name, _ = METRICS.get(names.pop(), UNKNOWN) if len(names) == 1 else UNKNOWN
    return heading, name


def metric_word(metric: str) -> str:
    """Return the name of a metric within a sentence."""
    return METRICS.get(metric, UNKNOWN)[2]


def class_metric(metric: str) -> str:
    """Return the words for the metric of a class where it is not that of the whole, with a space before: " recall", " IoU"."""
    return {"coco_ap": " recall", "miou": " IoU"}.get(metric, "")


def within_sentence(name: str) -> str:
    """Return the name of a metric as it is written within a sentence: "accuracy" for "Accuracy"."""
    return {title: word for _, title, word in (*METRICS.values(), UNKNOWN)}[name]


def percent(fraction: float) -> str:
    """Format a fraction as a percentage, without the percent sign."""
    return f"{100 * fraction:.1f}"


def times(ratio: float) -> str:
    """Format a ratio: 4.1x, 0.82x, 1.00x, 12x; above 2 a third digit would be noise."""
    return f"{significant(ratio, 3 if 0.95 <= ratio < 1.95 else 2)}x"


def finely(ratio: float) -> str:
    """Format a ratio whose error is below a percent: 0.943x, 4.12x."""
    return f"{ratio:.3f}x" if ratio < 1.95 else f"{significant(ratio)}x"


def signed(value: float) -> str:
    """Format a number with its sign, one decimal, and a minus sign (not a hyphen); 0.0 has no sign."""
    text = f"{value:+.1f}".replace("-", "\u2212")
    return text if text[1:] != "0.0" else "0.0"


def rounded_up(count: float) -> str:
    """Round a number up to two significant digits: 1300, 47."""
    scale = 10 ** max(0, math.floor(math.log10(count)) - 1)
    return f"{math.ceil(count / scale) * scale:,}"
