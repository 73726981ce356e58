"""The values that gates are checked against, each with its 95 % interval or the reason why there is none.

Values of time, memory and energy come from one value per fresh process or metered window, like speedups: see
`statistics.py`. Where two models took turns, changes of their latencies come from one ratio per set of processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Final

from edgedistill.compare.operating import OperatingChange
from edgedistill.compare.rows import Row, least_change
from edgedistill.config.gates import OPERATING, Gate
from edgedistill.records.base import Record
from edgedistill.records.measurement import Measurement, ProcessSample
from edgedistill.statistics import (
    DUET_NOISE,
    MINIMUM_PROCESSES,
    NOISE_FLOOR,
    difference_of,
    duet_ratios,
    level_of,
    speedup_of,
    speedup_of_ratios,
)

MEDIAN: Final = "p50_ms"
OTHER_PERCENTILES: Final = ("p90_ms", "p95_ms", "p99_ms")

EXACT: Final = ("size_bytes", "accuracy", "worst_class", "worst_size", *OPERATING)
"""Metrics that are the same in each measurement of a model."""


class Estimate(Record):
    """A value or a change with its 95 % interval; `reason` says why there is no interval.

    The interval was computed from `n` values; `of` names what they are. `noise` is the relative difference that two
    measurements of one model may have, where the change is no larger; otherwise it is None.
    """

    value: float | None = None
    interval: tuple[float, float] | None = None
    reason: str | None = None
    n: int | None = None
    of: str = "processes"
    noise: float | None = None


class Unknown(Exception):  # noqa: N818 - an expected outcome, not an error
    """A value is not available; the message says why."""


def estimate(gate: Gate, row: Row, baseline: Row | None) -> Estimate:
    """Return the value that a gate limits: a value of the candidate, or its change from the baseline."""
    try:
        if gate.metric == "accuracy":
            return _accuracy_change(row) if gate.is_change else _accuracy(row)
        if gate.metric in ("worst_class", "worst_size"):
            return _worst_change(gate.metric, row)
        if gate.metric in OPERATING:
            return _operating(gate.metric, row)
        if not gate.is_change:
            return _level(gate.metric, row.measurement)
        return _change(gate, baseline, row)
    except Unknown as unknown:
        return Estimate(reason=str(unknown))


def change_of_itself(gate: Gate, itself: Row, baseline: Row) -> float | None:
    """Return the smallest change of a gate's metric that the device can tell; `itself` is a second measurement of the baseline.

    None where no interval is known, and for metrics that do not depend on the device's state.
    """
    if not gate.is_change or gate.metric in EXACT:
        return None
    found = estimate(gate, itself, baseline)
    if found.value is None or found.interval is None:
        return None
    return least_change(found.value, found.interval)


def _accuracy(row: Row) -> Estimate:
    accuracy = row.measurement.accuracy
    if accuracy is None:
        raise Unknown(row.measurement.reason_for("accuracy"))
    return Estimate(value=accuracy.value, interval=accuracy.ci95, n=accuracy.n, of="test samples")


def _accuracy_change(row: Row) -> Estimate:
    drop = row.accuracy_drop
    if drop is None:
        raise Unknown(row.reasons.get("accuracy_drop") or row.reasons["speedup"])
    low, high = drop.ci95_points
    n = None if row.measurement.accuracy is None else row.measurement.accuracy.n
    return Estimate(value=-drop.points, interval=(-high, -low), n=n, of="test samples")


def _worst_change(metric: str, row: Row) -> Estimate:
    """Return the change of the worst class or size; the intervals hold jointly, so their lowest ends bound the worst."""
    drops, of = (row.classes, "samples of a class") if metric == "worst_class" else (row.sizes, "boxes of a size")
    if metric == "worst_size" and not drops and row.classes:
        raise Unknown("only detectors have recall by the size of boxes")
    if not drops:
        raise Unknown("the answers per test sample are not recorded for both models, or belong to different samples")
    low, high = (min(-drop.ci95_points[end] for drop in drops) for end in (1, 0))
    value = min(-drop.points for drop in drops)
    return Estimate(value=value, interval=(low, high), n=min(drop.n for drop in drops), of=of)


def _operating(metric: str, row: Row) -> Estimate:
    change = row.operating_point
    if change is None:
        reason = "only detectors that were scored on labels, beside their float32 form, have an operating point"
        raise Unknown(row.reasons.get("operating_point", reason))
    if metric == "threshold_shift":
        return _shift(change)
    low, high = change.ci95_points
    return Estimate(value=-change.points, interval=(-high, -low), n=change.pictures, of="test pictures")


def _shift(change: OperatingChange) -> Estimate:
    """Return the absolute shift of the best threshold."""
    low, high = change.shift_ci95
    least = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    interval = (least, max(abs(low), abs(high)))
    return Estimate(value=abs(change.shift), interval=interval, n=change.pictures, of="test pictures")


def _level(metric: str, m: Measurement) -> Estimate:
    if metric == "size_bytes":
        return Estimate(value=m.size_bytes, interval=(m.size_bytes, m.size_bytes))
    values = values_of(metric, m)
    level = level_of(values)
    if level is None:
        return Estimate(reason=_too_few(metric, len(values)))
    return Estimate(value=level[0], interval=level[1:], n=len(values), of=_of(metric))


def _change(gate: Gate, baseline: Row | None, row: Row) -> Estimate:
    if baseline is None or row.speedup is None:
        raise Unknown(row.reasons["speedup"])
    if gate.metric == "size_bytes":
        before, after = baseline.measurement.size_bytes, row.measurement.size_bytes
        exact = after / before - 1 if gate.is_relative else float(after - before)
        return Estimate(value=exact, interval=(exact, exact))
    if gate.metric == "energy_mj" and row.energy_ratio is None:
        raise Unknown(row.reasons["energy_ratio"])
    return _change_of_values(gate, baseline.measurement, row.measurement)


def _change_of_values(gate: Gate, baseline: Measurement, candidate: Measurement) -> Estimate:
    before, after = values_of(gate.metric, baseline), values_of(gate.metric, candidate)
    ratios = _ratios(gate.metric, baseline, candidate)
    n = len(ratios) or min(len(before), len(after))
    if n < MINIMUM_PROCESSES:
        return Estimate(reason=_too_few(gate.metric, n))
    ratio = speedup_of_ratios(ratios) if ratios else speedup_of(before, after)
    assert ratio.ci95 is not None
    value, interval = 1 / ratio.value - 1, (1 / ratio.ci95[1] - 1, 1 / ratio.ci95[0] - 1)
    if not gate.is_relative and ratios:
        level = fmean(before)
        value, interval = level * value, (level * interval[0], level * interval[1])
    elif not gate.is_relative:
        value, interval = difference_of(before, after)
    noise = DUET_NOISE if ratios and gate.metric == MEDIAN else NOISE_FLOOR
    is_noise = gate.metric != "memory_bytes" and abs(math.log(ratio.value)) <= math.log1p(noise)
    return Estimate(value=value, interval=interval, n=n, of=_of(gate.metric), noise=noise if is_noise else None)


def _ratios(metric: str, baseline: Measurement, candidate: Measurement) -> Sequence[float]:
    """Return the baseline's latency over the candidate's in each set of processes that took turns; empty if they took none.

    The ratio of medians comes from neighbouring bursts. That of another percentile is of the whole processes of a set, which
    ran at the same time.
    """
    ratios = duet_ratios(baseline, candidate)
    if metric == MEDIAN:
        return ratios
    if metric not in OTHER_PERCENTILES:
        return ()
    before, after = values_of(metric, baseline), values_of(metric, candidate)
    if not len(ratios) == len(before) == len(after):
        return ()
    return [one / other for one, other in zip(before, after, strict=True)]


def values_of(metric: str, m: Measurement) -> list[float]:
    """Return one value per process or window in the unit of the metric; raise Unknown where one is missing."""
    if metric == "energy_mj":
        if m.energy_uj is None:
            raise Unknown(m.reason_for("energy_uj"))
        if m.energy_uj.provenance != "measured":
            raise Unknown(f"energy was not measured, only {m.energy_uj.source}")
        return [energy / 1e3 for energy in m.energy_uj.windows]
    values = [_OF_PROCESS[metric](process) for process in m.processes]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        raise Unknown(_why_null(metric, m))
    return known


def _percentile_ms(name: str) -> Callable[[ProcessSample], float | None]:
    def value(process: ProcessSample) -> float | None:
        nanoseconds = process.percentiles_ns.get(name)
        return None if nanoseconds is None else nanoseconds / 1e6

    return value


_OF_PROCESS: Final[dict[str, Callable[[ProcessSample], float | None]]] = {
    "p50_ms": lambda process: process.p50_ns / 1e6,
    "p90_ms": _percentile_ms("p90"),
    "p95_ms": _percentile_ms("p95"),
    "p99_ms": _percentile_ms("p99"),
    "load_ms": lambda process: process.load_ns / 1e6,
    "first_inference_ms": lambda process: process.first_inference_ns / 1e6,
    "memory_bytes": lambda process: process.peak_bytes,
}


def _why_null(metric: str, m: Measurement) -> str:
    if metric == "memory_bytes":
        return m.reason_for("memory_bytes")
    name = metric.removesuffix("_ms")
    if any(name not in process.percentiles_ns for process in m.processes):
        return f"this measurement file lacks the {name} of each process; measure again"
    fewest = min(process.n_clean for process in m.processes)
    return f"{fewest} samples per process are too few for {name}; measure longer"


def _too_few(metric: str, n: int) -> str:
    return f"an interval needs {MINIMUM_PROCESSES} {_of(metric)}, and {n} were measured"


def _of(metric: str) -> str:
    return "windows" if metric == "energy_mj" else "processes"
