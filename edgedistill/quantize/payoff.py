"""Whether int8 pays: its latency and size beside those of the float student, measured on a target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from edgedistill.errors import EdgedistillError
from edgedistill.quantize.settings import Int8Target
from edgedistill.quantize.timers import StudentForm, StudentTime, StudentTimer
from edgedistill.records.stages import Int8Speed
from edgedistill.statistics import Speedup, level_of, speedup_in_turns

MOST_PROCESSES: Final = 6
"""If the first processes show no difference, as many again are measured: one disturbed process hides one."""


def int8_speed(timer: StudentTimer, target: Int8Target, student: StudentForm, int8: StudentForm) -> Int8Speed:
    """Compare int8 with the float student on a target; a reason takes the place of what cannot be measured."""
    if target.float_precision is None:
        return Int8Speed(target=target.name, reason="the target takes int8 only")
    p50s: tuple[list[float], list[float]] = [], []
    found: Speedup | None = None
    while found is None or (found.verdict == "no difference seen" and len(p50s[0]) < MOST_PROCESSES):
        times = _measured(timer, target, (student, int8))
        if isinstance(times, str):
            return Int8Speed(target=target.name, compared_with=target.float_precision, reason=times)
        before, after = times
        p50s[0].extend(before.p50s_us)
        p50s[1].extend(after.p50s_us)
        found = speedup_in_turns(*p50s)
    return Int8Speed(
        target=target.name, compared_with=target.float_precision, latency_ratio=1 / found.value,
        ci95=None if found.ci95 is None else (1 / found.ci95[1], 1 / found.ci95[0]),
        size_ratio=after.size_bytes / before.size_bytes, verdict=found.verdict,
    )  # fmt: skip


def does_not_pay(speeds: Sequence[Int8Speed]) -> bool:
    """Return whether int8 is slower on every target; a target that was not measured may be faster."""
    return bool(speeds) and all(one.verdict == "slower" for one in speeds)


def describe(speed: Int8Speed) -> str:
    """Return what was measured on a target as a sentence."""
    if speed.latency_ratio is None:
        return f"{speed.target}: the speed of int8 is not known: {speed.reason}"
    interval = "" if speed.ci95 is None else f" ({speed.ci95[0]:.2f} to {speed.ci95[1]:.2f})"
    return (
        f"{speed.target}: int8 takes {speed.latency_ratio:.2f}{interval} times the {speed.compared_with} latency "
        f"and {speed.size_ratio:.2f} times the size"
    )


def speed_kept(
    timer: StudentTimer, target: Int8Target, float_and_int8: tuple[StudentForm, StudentForm], mixed: StudentForm
) -> float | str:
    """Return the fraction of the time saved by int8 that a mixed model saves on a target, or why that is not known."""
    times = _measured(timer, target, (*float_and_int8, mixed))
    if isinstance(times, str):
        return times
    slow, fast, between = (_typical_us(one) for one in times)
    return (
        (slow - between) / (slow - fast) if slow > fast else f"{target.name}: int8 was not faster in this measurement"
    )


def _measured(timer: StudentTimer, target: Int8Target, forms: Sequence[StudentForm]) -> list[StudentTime] | str:
    try:
        return timer.measure(target, forms)
    except (EdgedistillError, RuntimeError) as error:
        return f"not measured: {str(error).splitlines()[0]}"


def _typical_us(time: StudentTime) -> float:
    level = level_of(time.p50s_us)
    assert level is not None
    return level[0]
