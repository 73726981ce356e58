"""Check a comparison against gates: each passes, fails, or is undecided.

A gate fails when the 95 % interval of its value lies entirely beyond the limit, and passes when no part of it does. It is
undecided when the interval contains the limit, when the value is null, when there are too few processes or samples for an
interval, and when a change for the worse exceeds the limit but is no larger than the noise between two measurements.

Where the baseline was measured twice, the device showed what change it can tell. If that is more than the limit, it is added
to both ends of the interval, so that the gate is undecided unless the change is far beyond the limit or far from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeGuard

from edgedistill.compare import formatting
from edgedistill.compare.comparison import Comparison, Decision, GateOutcome, compare_runs, summarise_run
from edgedistill.compare.load import load_results, load_run
from edgedistill.compare.rows import Group, Row
from edgedistill.config.gates import HIGHER_IS_BETTER, OPERATING, Gate
from edgedistill.config.schema import Budget
from edgedistill.errors import ConfigError, GateError, IncomparableError, UndecidedError
from edgedistill.gates.estimates import Estimate, change_of_itself, estimate

WORTH_TRYING = 50
"""The largest number of processes that is suggested; more would mean that the value is practically at its limit."""


def apply_gates(comparison: Comparison, gates: Sequence[Gate], *, phones: bool = False) -> Comparison:
    """Return the comparison with the outcome of every gate for every candidate.

    Devices that opened the page are left out unless `phones`: their visits must not change what a build decides. Teachers are left
    out beside students. Raises IncomparableError where a gate limits a change and conditions differ, ConfigError where there is no
    candidate.
    """
    groups = _without_teachers([group for group in comparison.groups if phones or not group.is_visitor])
    outcomes = (*(one for group in groups for one in _outcomes(group, gates)), *_of_missing(comparison.missing, gates))
    has_candidates = comparison.missing or any(not row.is_baseline for group in groups for row in group.rows)
    if gates and not groups and comparison.groups:
        raise ConfigError(
            "the gates have nothing to check: only devices that opened the page were measured; add --phones to check these"
        )
    if gates and not has_candidates:
        raise ConfigError(
            "the gates have nothing to check: there is no candidate; name a second run or measurement file"
        )
    checked = {outcome.gate for outcome in outcomes}
    if idle := [gate.text for gate in gates if gate.text not in checked]:
        raise ConfigError(
            f"gate '{idle[0]}' has nothing to check: it compares an int8 or float16 model with its float32 form, and only float32 "
            "models were measured"
        )
    return comparison.model_copy(update={"gates": outcomes})


def compare_run(
    folder: Path, budgets: Mapping[str, Budget], gates: Sequence[Gate], baseline: Path | None = None
) -> Comparison:
    """Compare the models of a measured run on each target, and apply gates.

    `budgets` are by target name. The gates compare with the run or measurement file `baseline`, if one is given.
    """
    measured = load_run(folder)
    comparison = summarise_run(measured, budgets)
    if baseline is None or not gates:
        return apply_gates(comparison, gates)
    against_baseline = compare_runs(load_results([baseline])[0], [measured])
    outcomes = apply_gates(against_baseline, gates).gates
    return comparison.model_copy(update={"gates": outcomes, "advice": against_baseline.advice})


def require_passed(outcomes: Sequence[GateOutcome]) -> None:
    """Raise GateError when a gate failed; otherwise raise UndecidedError when a gate is undecided."""
    decisions = [outcome.decision for outcome in outcomes]
    failed, undecided = decisions.count("fail"), decisions.count("undecided")
    if failed:
        raise GateError(
            f"{failed} of {len(decisions)} gates failed" + (f", {undecided} undecided" if undecided else "")
        )
    if undecided:
        raise UndecidedError(f"{undecided} of {len(decisions)} gates are undecided")


def log_line(outcome: GateOutcome) -> str:
    """Write an outcome as one line: "gate FAIL p95_ms > +5%: student int8 on pi: +10.2% [+9.1%, +11.4%]"."""
    return f"gate {outcome.decision.upper()} {outcome.gate}: {outcome.who}: {outcome.found}"


def _without_teachers(groups: Sequence[Group]) -> Sequence[Group]:
    """Leave out candidates that are teachers, where others are students: only what can be shipped decides a build."""
    candidates = {row.measurement.model.name for group in groups for row in group.rows if not row.is_baseline}
    if "student" not in candidates:
        return groups
    return [
        group.model_copy(update={"rows": tuple(row for row in group.rows if row.is_baseline or row.measurement.model.name != "teacher")})
        for group in groups
    ]  # fmt: skip


def _outcomes(group: Group, gates: Sequence[Gate]) -> Iterator[GateOutcome]:
    baselines = [row for row in group.rows if row.is_baseline]
    for row in group.rows:
        # a device that opened the page has a baseline for each way to run a model
        fit = [one for one in baselines if not group.is_visitor or one.measurement.target == row.measurement.target]
        if not row.is_baseline:
            yield from (_outcome(group, gate, row, next(iter(fit), None)) for gate in gates if _applies(gate, row))


def _of_missing(missing: Sequence[str], gates: Sequence[Gate]) -> Iterator[GateOutcome]:
    for name in missing:
        yield from (
            GateOutcome(gate=gate.text, group=name, candidate=name, decision="undecided", found="was not measured")
            for gate in gates
        )


def _applies(gate: Gate, row: Row) -> bool:
    """Tell whether a gate is about a row: a float32 model has no other form to compare its operating point with."""
    is_known = row.operating_point is not None or "operating_point" in row.reasons
    return gate.metric not in OPERATING or is_known or row.measurement.precision.requested != "fp32"


def _outcome(group: Group, gate: Gate, row: Row, baseline: Row | None) -> GateOutcome:
    is_of_time = gate.is_change and gate.metric not in OPERATING
    if is_of_time and baseline is not None and row.speedup is None:
        raise IncomparableError(f"gate '{gate.text}': {row.label}: {row.reasons['speedup']}")
    least = None if group.itself is None or baseline is None else change_of_itself(gate, group.itself, baseline)
    decision, words, value = check_gate(gate, row, baseline, least)
    return GateOutcome(
        gate=gate.text, group=group.title, target=group.target, candidate=row.label, decision=decision, found=words, value=value.value,
        interval=value.interval, least_change=least,
    )  # fmt: skip


def check_gate(
    gate: Gate, row: Row, baseline: Row | None, least: float | None = None
) -> tuple[Decision, str, Estimate]:
    """Check one row against a gate; return the decision, the value in words, and the value.

    `least` is the smallest change that the device can tell.
    """
    value = estimate(gate, row, baseline)
    decision = decide(gate, value, least)
    return decision, _describe(gate, value, decision, least), value


def decide(gate: Gate, value: Estimate, least: float | None = None) -> Decision:
    """Decide whether a value is certainly within the limit of a gate, certainly beyond it, or neither."""
    if value.interval is None:
        return "undecided"
    low, high = value.interval
    if _is_too_coarse(least, gate):
        low, high = low - least, high + least
    is_beyond, is_within = low > gate.limit, high <= gate.limit
    if gate.higher_is_better:
        is_beyond, is_within = high < gate.limit, low >= gate.limit
    if is_within:
        return "pass"
    return "fail" if is_beyond and not _is_noise(gate, value) else "undecided"


def _is_noise(gate: Gate, value: Estimate) -> bool:
    """Tell whether noise may explain a change; not for a limit below 0, which demands an improvement."""
    return gate.is_change and value.noise is not None and gate.limit >= 0


def _is_too_coarse(least: float | None, gate: Gate) -> TypeGuard[float]:
    return least is not None and least > abs(gate.limit)


def _describe(gate: Gate, value: Estimate, decision: Decision, least: float | None) -> str:
    if value.interval is None or value.value is None:
        return str(value.reason)
    low, high = (_number(gate, end) for end in value.interval)
    text = _number(gate, value.value) + ("" if value.n is None else f" [{low}, {high}]")
    tells = "" if least is None else f"this machine shows changes of {_number(gate, least).lstrip('+')} or more"
    if decision != "undecided":
        return f"{text}; {tells}" if tells else text
    if _is_too_coarse(least, gate):
        return f"{text}: {tells}, and the limit is smaller; measure for longer, or when other programs use less of the machine"
    return f"{text}: {_why_undecided(gate, value)}" + (f"; {tells}" if tells else "")


def _why_undecided(gate: Gate, value: Estimate) -> str:
    assert value.interval is not None
    if value.noise is not None and not value.interval[0] <= gate.limit <= value.interval[1]:
        return f"two measurements of the same model may differ by {100 * value.noise:g} %, and the limit is nearer than that"
    return f"the interval contains the limit; {_advice(gate, value)}"


def _advice(gate: Gate, value: Estimate) -> str:
    """Suggest how many processes or samples would decide; the interval narrows with the square root of their number."""
    assert value.interval is not None
    assert value.value is not None
    assert value.n is not None
    low, high = value.interval
    distance = abs(value.value - gate.limit)
    half = value.value - low if gate.limit < value.value else high - value.value
    needed = math.ceil(value.n * (half / distance) ** 2) + 1 if distance > 0 else math.inf
    if value.of == "processes" and needed <= WORTH_TRYING:
        return f"about {needed} processes per side would decide, not {value.n}"
    if value.of != "processes" and distance > 0.1 * half:
        return f"about {formatting.rounded_up(needed)} {value.of} would decide, not {value.n}"
    return f"the value is too close to the limit for {value.n} {value.of}"


def _number(gate: Gate, value: float) -> str:
    """Write a value in the form of its gate: a change with its sign, a relative change in percent."""
    return _digits(gate, value + 0.0).replace("-", "\u2212")  # -0.0 would be written with its sign


def _digits(gate: Gate, value: float) -> str:
    if gate.is_relative:
        return f"{100 * value:+.1f}%"
    if gate.metric in HIGHER_IS_BETTER:
        return f"{value:+.1f} points" if gate.is_change else f"{100 * value:.1f}%"
    digits = f"{value:.0f}" if gate.metric.endswith("_bytes") else formatting.significant(value)
    return f"+{digits}" if gate.is_change and value >= 0 else digits
