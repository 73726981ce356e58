"""Recommend a model for a target, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from edgedistill.compare import formatting
from edgedistill.compare.rows import Row
from edgedistill.records.measurement import Accuracy
from edgedistill.statistics import accuracy_drop, speedup

TOLERATED_DROP_POINTS = 1.0
"""A student is not recommended, however fast, if its accuracy is significantly lower than the best student's by more."""
FAR_BELOW_POINTS = 10.0
"""A student is called the best one, but not recommended, if it is significantly lower than its teacher by more."""


def choose(rows: Sequence[Row]) -> Row | None:
    """Return the fastest student that fits the budget and is accurate enough; of equally fast ones the smallest."""
    within = _within_budget(_students(rows))
    return _fastest(_accurate_enough(within)) if within else None


def recommend(target: str, rows: Sequence[Row]) -> str:
    """Name the student to ship with its speed, accuracy and size, or say why there is none."""
    students, chosen = _students(rows), choose(rows)
    if not students:
        return f"{target}: no recommendation, because no student was measured on this target"
    if chosen is None:
        over = "; ".join(f"{_precision(row)} exceeds {', '.join(_exceeded(row))}" for row in students)
        return f"{target}: no student fits the budget ({over})"
    accurate = _accurate_enough(_within_budget(students))
    clauses = [f"{target}: {_verb(chosen)} student {_precision(chosen)} — {', '.join(_facts(chosen))}"]
    clauses += [text for row in students if row is not chosen and (text := _why_not(row, chosen, accurate))]
    return "; ".join(clauses + _caveats(chosen))


def _students(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.measurement.model.name == "student"]


def _within_budget(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.budget is None or row.budget.fits is not False]


def _accurate_enough(rows: Sequence[Row]) -> list[Row]:
    measured = [row.measurement.accuracy for row in rows if row.measurement.accuracy is not None]
    if not measured:
        return list(rows)
    best = max(measured, key=lambda accuracy: accuracy.value)
    kept = []
    for row in rows:
        if row.measurement.accuracy is None:
            continue  # speed alone is no reason to recommend a model
        drop = accuracy_drop(best, row.measurement.accuracy)
        if drop.verdict != "lower" or drop.points <= TOLERATED_DROP_POINTS:
            kept.append(row)
    return kept


def _fastest(rows: Sequence[Row]) -> Row:
    fastest = min(rows, key=lambda row: row.measurement.latency_ns.p50)
    level = [row for row in rows if row is fastest or _against(fastest, row) == "no difference seen"]
    return min(level, key=lambda row: row.measurement.size_bytes)


def _against(baseline: Row, candidate: Row) -> str:
    return speedup(baseline.measurement, candidate.measurement).verdict


def _verb(chosen: Row) -> str:
    if chosen.measurement.accuracy is None:
        return "fastest is"
    is_gain = chosen.speedup is None or chosen.speedup.verdict in {"faster", "cannot tell"}
    return "ship" if is_gain and not _is_far_below(chosen) else "best student is"


def _is_far_below(row: Row) -> bool:
    drop = row.accuracy_drop
    return drop is not None and drop.verdict == "lower" and drop.points > FAR_BELOW_POINTS


def _facts(row: Row) -> list[str]:
    size = formatting.size(row.measurement.size_bytes)
    if row.speedup is None:
        measured = row.measurement.accuracy
        accuracy = "accuracy not measured" if measured is None else _level(measured)
        return [f"p50 {formatting.milliseconds(row.measurement.latency_ns.p50)} ms", accuracy, size]
    return [_speed(row, "the teacher"), _accuracy(row), size]


def _level(measured: Accuracy) -> str:
    percent = f"{formatting.percent(measured.value)} %"
    return (
        f"{percent} accurate" if measured.metric == "top1" else f"{formatting.metric_word(measured.metric)} {percent}"
    )


def _speed(row: Row, baseline: str) -> str:
    speed = row.speedup
    if speed is None:
        return f"speed not comparable ({row.reasons['speedup']})"
    if speed.verdict == "no difference seen":
        return f"as fast as {baseline} ({formatting.times(speed.value)}, no difference seen)"
    doubt = " by p50 (too few processes to be sure)" if speed.verdict == "cannot tell" else ""
    if speed.value < 1:
        return f"slower than {baseline} ({formatting.times(speed.value)}){doubt}"
    return f"{formatting.times(speed.value)} faster than {baseline}{doubt}"


def _accuracy(row: Row) -> str:
    drop = row.accuracy_drop
    if drop is None:
        return "accuracy not measured" if row.measurement.accuracy is None else "accuracy not comparable"
    assert row.measurement.accuracy is not None
    text = formatting.points(drop.points, row.measurement.accuracy.metric)
    unsure = drop.verdict == "no difference seen" and not text.startswith("same")
    return f"{text} (within the error)" if unsure else text


def _why_not(row: Row, chosen: Row, accurate: Sequence[Row]) -> str | None:
    name, over = _precision(row), _exceeded(row)
    if over:
        return f"{name} exceeds {', '.join(over)}"
    if row not in accurate:
        return _too_inaccurate(row)
    ratio = speedup(chosen.measurement, row.measurement)
    if ratio.verdict == "slower" and name != "fp32":
        return f"{name} is slower than {_precision(chosen)} here ({formatting.times(ratio.value)})"
    if ratio.verdict == "no difference seen":
        return f"no speed difference to {name} seen"
    return None


def _too_inaccurate(row: Row) -> str:
    name, measured = _precision(row), row.measurement.accuracy
    if measured is None:
        return f"accuracy of {name} not measured"
    if measured.metric != "top1":
        return f"{name} loses too much {formatting.metric_word(measured.metric)}"
    return f"{name} is not accurate enough"


def _caveats(chosen: Row) -> list[str]:
    caveats = []
    if chosen.measurement.accuracy is None:
        caveats.append("measure its accuracy before you ship it")
    if _is_far_below(chosen):
        caveats.append("its accuracy is far below the teacher's: train it longer, or use a larger student")
    if chosen.speedup is None:
        caveats.append(f"speedup unknown: {chosen.reasons['speedup']}")
    if chosen.budget is not None and chosen.budget.unknown:
        caveats.append(f"budget not fully checked ({', '.join(chosen.budget.unknown)})")
    if chosen.measurement.contaminated:
        caveats.append("other processes disturbed this measurement: repeat it on an idle machine")
    return caveats


def _precision(row: Row) -> str:
    return row.measurement.precision.requested


def _exceeded(row: Row) -> tuple[str, ...]:
    return () if row.budget is None else row.budget.exceeded
