"""Whether int8 pays: its latency and size beside those of the float student, measured on a target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from edgedistill.errors import EdgedistillError
from edgedistill.quantize.settings import Int8Target
from edgedistill.quantize.timers import StudentForm, StudentTimer
from edgedistill.records.measurement import Measurement
from edgedistill.records.stages import Int8Speed
from edgedistill.statistics import duet_ratios, ratio_of_means, speedup


class SpeedKept(NamedTuple):
    """The fraction of the time saved by int8 that a mixed model saves, with its 95 % interval."""

    value: float
    ci95: tuple[float, float] | None


def int8_speed(timer: StudentTimer, target: Int8Target, student: StudentForm, int8: StudentForm) -> Int8Speed:
    """Compare int8 with the float student on a target; a reason takes the place of what cannot be measured."""
    return int8_speeds(timer, target, student, [int8])[0]


def int8_speeds(
    timer: StudentTimer, target: Int8Target, student: StudentForm, forms: Sequence[StudentForm]
) -> list[Int8Speed]:
    """Compare forms in int8 with the float student on a target, all in turns; reasons take the place of what cannot be measured."""
    if target.float_precision is None:
        return [Int8Speed(target=target.name, reason="the target takes int8 only")] * len(forms)
    measured = _measured(timer, target, (student, *forms))
    if isinstance(measured, str):
        return [Int8Speed(target=target.name, compared_with=target.float_precision, reason=measured)] * len(forms)
    return [_compared(target, measured[0], one) for one in measured[1:]]


def _compared(target: Int8Target, before: Measurement, after: Measurement) -> Int8Speed:
    found, slow, fast = speedup(before, after), before.longest, after.longest
    return Int8Speed(
        target=target.name, compared_with=target.float_precision, latency_ratio=1 / found.value,
        ci95=None if found.ci95 is None else (1 / found.ci95[1], 1 / found.ci95[0]),
        longest=None if slow is None else slow.length,
        longest_ratio=None if slow is None or fast is None else fast.p50_ns / slow.p50_ns,
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
    form = "" if speed.method is None else f", {speed.method},"
    longest = "" if speed.longest is None else f" ({speed.longest_ratio:.2f} times at {speed.longest} tokens)"
    return (
        f"{speed.target}: int8{form} takes {speed.latency_ratio:.2f}{interval} times the {speed.compared_with} latency{longest} "
        f"and {speed.size_ratio:.2f} times the size"
    )


def speed_kept(
    timer: StudentTimer, target: Int8Target, float_and_int8: tuple[StudentForm, StudentForm], mixed: StudentForm
) -> SpeedKept | str:
    """Return the fraction of the time saved by int8 that a mixed model saves on a target, or why that is not known."""
    measured = _measured(timer, target, (*float_and_int8, mixed))
    if isinstance(measured, str):
        return measured
    slow, fast, between = measured
    saved, whole = 1 - _ratios(between, slow), 1 - _ratios(fast, slow)
    if len(saved) != len(whole) or whole.mean() <= 0:
        return f"{target.name}: int8 was not faster in this measurement"
    return SpeedKept(*ratio_of_means(saved, whole))


def _ratios(one: Measurement, other: Measurement) -> np.ndarray:
    """Return the latency of one model divided by that of another in each set of processes."""
    pairs = zip(one.processes, other.processes, strict=True)
    return np.array(duet_ratios(one, other) or [mine.p50_ns / theirs.p50_ns for mine, theirs in pairs])


def _measured(timer: StudentTimer, target: Int8Target, forms: Sequence[StudentForm]) -> list[Measurement] | str:
    try:
        return timer.measure(target, forms)
    except (EdgedistillError, RuntimeError) as error:
        return f"not measured: {str(error).splitlines()[0]}"
