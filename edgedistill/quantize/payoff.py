"""Whether int8 pays: its latency and size beside those of the float student, measured on a target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edgedistill.errors import EdgedistillError
from edgedistill.graphs.run import Requests
from edgedistill.kits.scheme import FORMS
from edgedistill.quantize.settings import Int8Target
from edgedistill.quantize.timers import StudentForm, StudentTimer
from edgedistill.records.measurement import Measurement
from edgedistill.records.quantize_steps import Int8Speed, QuantizeMethod
from edgedistill.statistics import duet_ratios, ratio_of_means, speedup

if TYPE_CHECKING:
    import onnx


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


def form_speeds(
    timer: StudentTimer, target: Int8Target, source: onnx.ModelProto, int8: onnx.ModelProto
) -> list[Int8Speed]:
    """Compare the forms of a canonical int8 graph that a target's kit runs with the float graph, all in turns."""
    methods: list[QuantizeMethod] = [one for one, encoding in FORMS.items() if encoding in target.kit.alternatives]
    student = StudentForm("float", source, int8=False)
    forms = [StudentForm(one, int8, int8=True, encoding=FORMS.get(one)) for one in ("static", *methods)]
    speeds = int8_speeds(timer, target, student, forms)
    return [speed.model_copy(update={"method": form.name}) for form, speed in zip(forms, speeds, strict=True)]


def spread_rows(requests: Requests, count: int) -> np.ndarray:
    """Return the positions (count,) of requests from the shortest to the longest, with about as many between each two of them."""
    lengths = [one.shape[-1] for one in next(iter(requests.values()))]
    order = np.argsort(lengths, kind="stable")
    return np.asarray(order[np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)])


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


def cost(speeds: Sequence[Int8Speed]) -> float:
    """Return the geometric mean of the latencies over those of the float student, typical and longest; 1 if they are not known."""
    ratios = [ratio for one in speeds for ratio in (one.latency_ratio, one.longest_ratio) if ratio is not None]
    return math.exp(float(np.mean(np.log(ratios)))) if ratios else 1.0


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
