"""What to ship on a target, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from edgedistill.compare import figures
from edgedistill.compare.rows import Row
from edgedistill.compare.statistics import accuracy_drop, speedup
from edgedistill.records.measurement import Accuracy

TOLERATED_DROP_POINTS = 1.0
"""A student whose accuracy is really lower than the best student's by more than this is not proposed for its speed."""
FAR_BELOW_POINTS = 10.0
"""A student that is really lower than its teacher by more than this is called the best one, and not proposed to be shipped."""


def choose(rows: Sequence[Row]) -> Row | None:
    """Return the fastest student that fits the budget and is accurate enough; the smallest of those equally fast."""
    within = _within_budget(_students(rows))
    return _fastest(_accurate_enough(within)) if within else None


def ship(target: str, rows: Sequence[Row]) -> str:
    """Name the student to ship and what it costs, or say why there is none."""
    students, chosen = _students(rows), choose(rows)
    if not students:
        return f"{target}: nothing to decide, no student was measured here"
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
            continue  # never speed without accuracy
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
    size = figures.size(row.measurement.size_bytes)
    if row.speedup is None:
        measured = row.measurement.accuracy
        accuracy = "accuracy not measured" if measured is None else _level(measured)
        return [f"p50 {figures.milliseconds(row.measurement.latency_ns.p50)} ms", accuracy, size]
    return [_speed(row, "the teacher"), _accuracy(row), size]


def _level(measured: Accuracy) -> str:
    percent = f"{figures.percent(measured.value)} %"
    return f"{percent} accurate" if measured.metric == "top1" else f"{figures.metric_word(measured.metric)} {percent}"


def _speed(row: Row, baseline: str) -> str:
    found = row.speedup
    if found is None:
        return f"not comparable in speed ({row.reasons['speedup']})"
    if found.verdict == "no difference seen":
        return f"as fast as {baseline} ({figures.times(found.value)}, no difference seen)"
    doubt = " by p50 (too few processes to be sure)" if found.verdict == "cannot tell" else ""
    if found.value < 1:
        return f"slower than {baseline} ({figures.times(found.value)}){doubt}"
    return f"{figures.times(found.value)} faster than {baseline}{doubt}"


def _accuracy(row: Row) -> str:
    drop = row.accuracy_drop
    if drop is None:
        return "accuracy not measured" if row.measurement.accuracy is None else "accuracy not comparable"
    assert row.measurement.accuracy is not None
    text = figures.points(drop.points, row.measurement.accuracy.metric)
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
        return f"{name} is slower than {_precision(chosen)} here ({figures.times(ratio.value)})"
    if ratio.verdict == "no difference seen":
        return f"no speed difference to {name} seen"
    return None


def _too_inaccurate(row: Row) -> str:
    name, measured = _precision(row), row.measurement.accuracy
    if measured is None:
        return f"accuracy of {name} not measured"
    if measured.metric != "top1":
        return f"{name} loses too much {figures.metric_word(measured.metric)}"
    return f"{name} is not accurate enough"


def _caveats(chosen: Row) -> list[str]:
    caveats = []
    if chosen.measurement.accuracy is None:
        caveats.append("measure its accuracy before shipping it")
    if _is_far_below(chosen):
        caveats.append("that is far below its teacher: train it for longer, or take a larger one")
    if chosen.speedup is None:
        caveats.append(f"speedup unknown: {chosen.reasons['speedup']}")
    if chosen.budget is not None and chosen.budget.unknown:
        caveats.append(f"budget not fully checked ({', '.join(chosen.budget.unknown)})")
    if chosen.measurement.contaminated:
        caveats.append("other processes disturbed this measurement, repeat it on a quiet machine")
    return caveats


def _precision(row: Row) -> str:
    return row.measurement.precision.requested


def _exceeded(row: Row) -> tuple[str, ...]:
    return () if row.budget is None else row.budget.exceeded
