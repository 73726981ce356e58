"""Recommend a model for a target, in one sentence.

A student is worth shipping if it is within the budget, certainly faster than the teacher, and certainly loses less than
LOSS_POINTS against the teacher. The user's limit, `budget.accuracy_drop` of the target, takes the place of LOSS_POINTS.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgedistill.compare import formatting
from edgedistill.compare.rows import Row, describe_interval, samples_that_tell
from edgedistill.config.schema import Budget
from edgedistill.records.measurement import Accuracy
from edgedistill.statistics import accuracy_drop, speedup

TOLERATED_DROP_POINTS = 1.0
"""A student is not recommended, however fast, if its accuracy is significantly lower than the best student's by more."""
LOSS_POINTS = 3.0
"""A student is called the best one, but not recommended, if it is lower than its teacher by more, unless the user allows it."""


def choose(rows: Sequence[Row]) -> Row | None:
    """Return the fastest student that fits the budget and is accurate enough; of equally fast ones the smallest."""
    within = _within_budget(_students(rows))
    return _fastest(_accurate_enough(within)) if within else None


def recommend(target: str, rows: Sequence[Row], budget: Budget | None = None) -> str:
    """Name the student to ship with its speed, accuracy and size, or say why there is none."""
    students, chosen = _students(rows), choose(rows)
    if not students:
        return f"{target}: no recommendation, because no student was measured on this target"
    if chosen is None:
        over = "; ".join(f"{_name(row)} exceeds {', '.join(_exceeded(row))}" for row in students)
        return f"{target}: no student fits the budget ({over})"
    allowed = LOSS_POINTS if budget is None or budget.accuracy_drop is None else budget.accuracy_drop
    accurate = _accurate_enough(_within_budget(students))
    clauses = [f"{target}: {_verb(chosen, allowed)} — {', '.join(_facts(chosen))}"]
    clauses += [text for row in students if row is not chosen and (text := _why_not(row, chosen, accurate))]
    return "; ".join([*clauses, *_caveats(chosen, allowed), *_disturbed(rows, chosen)])


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
    """Return the smallest of the students that are not certainly slower than the one with the lowest p50."""
    fastest = min(rows, key=lambda row: row.measurement.latency_ns.p50)
    level = [row for row in rows if row is fastest or _may_be_as_fast(fastest, row)]
    return min(level, key=lambda row: row.measurement.size_bytes)


def _may_be_as_fast(fastest: Row, row: Row) -> bool:
    speed = speedup(fastest.measurement, row.measurement)
    return speed.ci95 is not None and speed.verdict in ("no difference seen", "cannot tell")


def _verb(chosen: Row, allowed: float) -> str:
    if chosen.measurement.accuracy is None:
        return f"the fastest is {chosen.label}"
    is_faster = chosen.speedup is not None and chosen.speedup.verdict == "faster"
    is_fit = chosen.budget is None or not chosen.budget.unknown
    is_worth_it = is_faster and is_fit and _loss(chosen, allowed) is None
    return f"ship {chosen.label}" if is_worth_it else f"the best student is {_name(chosen)}"


def _loss(row: Row, allowed: float) -> str | None:
    """Return a warning if a student loses, or may lose, as much against its teacher as is not allowed."""
    drop = row.accuracy_drop
    if drop is None or drop.ci95_points[1] < allowed:
        return None
    if drop.points < allowed:
        return f"it may lose up to {drop.ci95_points[1]:.1f} points against the teacher: test it on more samples"
    return (
        f"a loss of {allowed:g} points or more is not recommended: train longer, use a larger student, or allow it with "
        "budget.accuracy_drop"
    )


def _facts(row: Row) -> list[str]:
    size = formatting.size(row.measurement.size_bytes)
    if row.speedup is None:
        measured = row.measurement.accuracy
        accuracy = "accuracy not measured" if measured is None else _level(measured)
        return [f"p50 {formatting.duration(row.measurement.latency_ns.p50)}", accuracy, size]
    return [_speed(row), _accuracy(row), size]


def _level(measured: Accuracy) -> str:
    return f"{formatting.metric_word(measured.metric)} {formatting.percent(measured.value)} %"


def _speed(row: Row) -> str:
    speed = row.speedup
    assert speed is not None
    ratio = f"{formatting.times(speed.value)} as fast as the teacher"
    if speed.verdict == "no difference seen":
        return f"as fast as the teacher ({formatting.times(speed.value)})"
    if speed.ci95 is None:
        return f"about {ratio} (too few processes to be sure)"
    if speed.verdict == "cannot tell":
        return f"about {ratio} (cannot tell: {describe_interval(speed.ci95, 2, ' to ')}x)"
    return ratio


def _accuracy(row: Row) -> str:
    drop, measured = row.accuracy_drop, row.measurement.accuracy
    if drop is None or measured is None:
        return "accuracy not measured" if measured is None else "accuracy not comparable"
    name = formatting.metric_word(measured.metric)
    text = f"{formatting.signed(-drop.points)} points of {name}"
    if drop.verdict == "no difference seen":
        return f"same {name}" if abs(drop.points) < 0.05 else f"{text} (no difference seen)"
    if drop.verdict != "cannot tell":
        return text
    low, high = formatting.signed(-drop.ci95_points[1]), formatting.signed(-drop.ci95_points[0])
    needed = samples_that_tell(drop, measured.n)
    return f"{text} (cannot tell: {low} to {high}; about {needed} test samples would)"


def _why_not(row: Row, chosen: Row, accurate: Sequence[Row]) -> str | None:
    name, over = _name(row), _exceeded(row)
    if over:
        return f"{name} exceeds {', '.join(over)}"
    if row not in accurate:
        return _too_inaccurate(row)
    ratio = speedup(chosen.measurement, row.measurement)
    times = f"{formatting.times(ratio.value)} as fast"
    if ratio.verdict == "slower":
        return f"{name} is slower ({times})" if row.measurement.precision.requested != "fp32" else None
    if ratio.verdict == "no difference seen":
        return f"{name} is as fast"
    if ratio.ci95 is not None and ratio.verdict == "cannot tell":
        return f"{name} may be as fast ({times}, cannot tell)"
    return None


def _too_inaccurate(row: Row) -> str:
    name, measured = _name(row), row.measurement.accuracy
    if measured is None:
        return f"accuracy of {name} not measured"
    if measured.metric != "top1":
        return f"{name} loses too much {formatting.metric_word(measured.metric)}"
    return f"{name} is not accurate enough"


def _caveats(chosen: Row, allowed: float) -> list[str]:
    caveats = []
    if chosen.measurement.accuracy is None:
        caveats.append("measure its accuracy before you ship it")
    if (loss := _loss(chosen, allowed)) is not None:
        caveats.append(loss)
    if chosen.speedup is None:
        caveats.append(f"speedup unknown: {chosen.reasons['speedup']}")
    elif chosen.speedup.verdict in ("slower", "no difference seen"):
        caveats.append("it gains no speed over the teacher")
    if chosen.budget is not None and chosen.budget.unknown:
        caveats.append(f"budget not fully checked ({', '.join(chosen.budget.unknown)})")
    return caveats


def _disturbed(rows: Sequence[Row], chosen: Row) -> list[str]:
    """Return the caveat of figures that other programs disturbed: those of the student, or the teacher's, on which its ratio rests."""
    names = [row.label for row in rows if row.measurement.contaminated and (row is chosen or _is_under(row, chosen))]
    return [f"shaky: other programs disturbed {' and '.join(names)}"] if names else []


def _is_under(row: Row, chosen: Row) -> bool:
    return row.is_baseline and chosen.speedup is not None and row.measurement.target == chosen.measurement.target


def _name(row: Row) -> str:
    return row.label.removeprefix("student ")


def _exceeded(row: Row) -> tuple[str, ...]:
    return () if row.budget is None else row.budget.exceeded
