"""What a student loses and gains against its teacher, in one sentence."""

from __future__ import annotations

from edgedistill.compare import formatting
from edgedistill.compare.rows import Group, Row
from edgedistill.statistics import AccuracyDrop, Speedup


def describe_bargain(group: Group, row: Row) -> str | None:
    """Say how much accuracy a model loses, and how much faster and smaller it is; None without a teacher on its target.

    "Against its teacher (accuracy 88.6 %), the student int8 loses 8.3 points of accuracy (95 % interval of the change -9.3 to -7.3
    points); it is 20x as fast and 22x smaller. Measured on pc-openvino: AMD EPYC."
    """
    teacher = next((one for one in group.rows if one.is_baseline), None)
    if teacher is None or row.is_baseline or row.accuracy_drop is None or row.measurement.accuracy is None:
        return None
    before = teacher.measurement.accuracy
    assert before is not None
    word = formatting.metric_word(before.metric)
    lost = _loss(row.accuracy_drop, word)
    won = [text for text in (_speed(row.speedup), _size(row.size_ratio)) if text]
    gains = f"; it is {' and '.join(won)}" if won else ""
    return (
        f"Against its teacher ({word} {formatting.percent(before.value)} %), the {row.label} {lost}{gains}. "
        f"Measured on {row.measurement.target}: {row.measurement.device.cpu}."
    )


def _loss(drop: AccuracyDrop, word: str) -> str:
    low, high = drop.ci95_points
    interval = f"95 % interval of the change {formatting.signed(-high)} to {formatting.signed(-low)} points"
    if drop.verdict == "lower":
        return f"loses {drop.points:.1f} points of {word} ({interval})"
    if drop.verdict == "higher":
        return f"gains {-drop.points:.1f} points of {word} ({interval})"
    return f"shows no certain loss of {word} ({formatting.signed(-drop.points)} points, {interval})"


def _speed(speed: Speedup | None) -> str | None:
    if speed is None:
        return None
    if speed.verdict == "no difference seen":
        return "as fast"
    unsure = "" if speed.ci95 is not None else " (too few processes to be certain)"
    return f"{formatting.times(speed.value)} as fast{unsure}"


def _size(ratio: float | None) -> str | None:
    return None if ratio is None else f"{formatting.times(ratio)} smaller" if ratio > 1.05 else None
