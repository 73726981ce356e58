"""Check a measured model against the limits of its target."""

from __future__ import annotations

from typing import NamedTuple

from edgedistill.compare import formatting
from edgedistill.config.schema import Budget
from edgedistill.records.base import Record
from edgedistill.records.measurement import Measurement


class BudgetCheck(Record):
    """The result of a check: `fits` is None when no limit is exceeded but a limit could not be checked.

    `exceeded` lists the exceeded limits, and `unknown` the limits that could not be checked, each with the reason.
    """

    fits: bool | None
    exceeded: tuple[str, ...]
    unknown: tuple[str, ...]


class _Limit(NamedTuple):
    name: str
    limit: float | None
    measured: float | None
    shown: str
    field: str


def check_budget(measurement: Measurement, budget: Budget) -> BudgetCheck | None:
    """Check a measurement against the limits of a budget; return None for a budget without limits."""
    limits = [limit for limit in _limits(measurement, budget) if limit.limit is not None]
    if not limits:
        return None
    unknown = tuple(f"{item.name}: {measurement.reason_for(item.field)}" for item in limits if item.measured is None)
    exceeded = tuple(item.shown for item in limits if _is_exceeded(item))
    return BudgetCheck(fits=False if exceeded else None if unknown else True, exceeded=exceeded, unknown=unknown)


def _is_exceeded(item: _Limit) -> bool:
    if item.measured is None or item.limit is None:
        return False
    return item.measured < item.limit if item.field == "accuracy" else item.measured > item.limit


def _limits(m: Measurement, budget: Budget) -> list[_Limit]:
    p95 = None if m.latency_ns.p95 is None else m.latency_ns.p95 / 1e6
    peak = None if m.memory_bytes is None else m.memory_bytes.peak
    is_measured = m.energy_uj is not None and m.energy_uj.provenance == "measured"
    energy_mj = m.energy_uj.per_inference / 1e3 if m.energy_uj is not None and is_measured else None
    accuracy = None if m.accuracy is None else m.accuracy.value
    metric = "accuracy" if m.accuracy is None else formatting.metric_word(m.accuracy.metric)
    return [
        _limit("p95", budget.p95_ms, p95, "{} ms", "latency_ns.p95"),
        _limit("size", budget.size_bytes, m.size_bytes, "bytes", "size_bytes"),
        _limit("memory", budget.memory_bytes, peak, "bytes", "memory_bytes"),
        _limit("energy", budget.energy_mj, energy_mj, "{} mJ", "energy_uj"),
        _limit(metric, budget.accuracy, accuracy, "%", "accuracy"),
    ]


def _limit(name: str, limit: float | None, measured: float | None, unit: str, field: str) -> _Limit:
    if limit is None or measured is None:
        return _Limit(name, limit, measured, "", field)
    relation = "<" if field == "accuracy" else ">"
    return _Limit(name, limit, measured, f"{name} {_show(measured, unit)} {relation} {_show(limit, unit)}", field)


def _show(value: float, unit: str) -> str:
    if unit == "bytes":
        return formatting.size(value)
    if unit == "%":
        return f"{formatting.percent(value)} %"
    return unit.format(formatting.significant(value))
