"""What separates a candidate from its baseline, in words: speed, and accuracy beside it, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgedistill.compare import figures
from edgedistill.compare.classes import ClassDrop, worst
from edgedistill.compare.statistics import MINIMUM_PROCESSES, AccuracyDrop, Speedup


def speed_in_words(speed: Speedup | None, reasons: Mapping[str, str]) -> str:
    """Say faster, slower, no difference seen, cannot tell, or cannot be compared and why."""
    if speed is None:
        return f"cannot be compared in speed because {reasons['speedup']}"
    ratio = figures.times(speed.value)
    if speed.ci95 is None:
        one, other = speed.processes
        return f"cannot tell: {one} and {other} processes, {MINIMUM_PROCESSES} a side are needed ({ratio} by p50)"
    return f"{speed.verdict}, {ratio} {_interval(speed.ci95, 2)}"


def accuracy_in_words(
    drop: AccuracyDrop | None, classes: Sequence[ClassDrop], metric: str, reasons: Mapping[str, str]
) -> str:
    """Say how much lower or higher a metric is, whether that is a difference, and what the worst class lost."""
    name = figures.metric_word(metric)
    if drop is None:
        return f"{name} cannot be compared because {reasons['accuracy_drop']}"
    test = "" if drop.p_value is None else f", McNemar p {_probability(drop.p_value)}"
    text = f"{name} {_change(drop.points, drop.ci95_points)}{test}"
    if drop.verdict == "no difference seen":
        text += ", no difference seen"
    lost = worst(classes)
    if lost is None or lost.points <= 0:
        return text
    return f"{text}; worst of {len(classes)} classes: {class_in_words(lost)}"


def class_in_words(lost: ClassDrop) -> str:
    """Say what one class lost: "'deer' 3.2 points lower [0.4, 6.1]"."""
    return f"'{lost.name}' {_change(lost.points, lost.ci95_points)}"


def _change(points: float, interval: tuple[float, float]) -> str:
    """Write a drop and its interval the way that it went: positive numbers are what was lost or won."""
    low, high = interval if points >= 0 else (-interval[1], -interval[0])
    text = f"{abs(points):.1f} points {'lower' if points >= 0 else 'higher'}" if abs(points) >= 0.05 else "the same"
    return f"{text} {_interval((low, high), 1)}"


def _interval(interval: tuple[float, float], decimals: int) -> str:
    low, high = (f"{value:.{decimals}f}".replace("-", "\u2212") for value in interval)
    return f"[{low}, {high}]"


def _probability(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.2g}"
