"""Gates held against a comparison: each passes, fails, or cannot be decided.

A gate fails when the 95 % interval of its figure lies wholly beyond the limit, and passes when none of it does. It cannot be
decided when the limit is inside the interval, when a figure is null, when there are too few processes or samples for an
interval, and when a change for the worse is beyond the limit but within what two measurements of one model differ by.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from edgedistill.compare import figures
from edgedistill.compare.comparison import Comparison, Decision, Group, Outcome, compare_runs, summarise_run
from edgedistill.compare.estimates import Estimate, estimate
from edgedistill.compare.load import load_results, load_run
from edgedistill.compare.rows import Row
from edgedistill.compare.statistics import NOISE_FLOOR
from edgedistill.config.gates import Gate
from edgedistill.errors import ConfigError, GateError, IncomparableError, UndecidedError
from edgedistill.runtime.job import Job

WORTH_TRYING = 50
"""More processes than this are no advice: the figure is at its limit."""


def judge(comparison: Comparison, gates: Sequence[Gate]) -> Comparison:
    """Return the comparison with the outcome of every gate for every candidate.

    Raises IncomparableError where a change is asked for and conditions differ, ConfigError where there is no candidate.
    """
    outcomes = tuple(_outcomes(comparison, gates))
    if gates and not outcomes:
        raise ConfigError("there is no candidate to hold the gates against; name a second run or measurement file")
    return comparison.model_copy(update={"gates": outcomes})


def compare_job(job: Job) -> Comparison:
    """Compare a measured run's models on each target, and hold the gates of its configuration against them."""
    result, gate = load_run(job.run.folder), job.config.gate
    comparison = summarise_run(result, {target.name: target.budget for target in job.config.target})
    if gate.baseline is None or not gate.gates:
        return judge(comparison, gate.gates)
    others = compare_runs(load_results([job.config.path(gate.baseline)])[0], [result])
    return comparison.model_copy(update={"gates": judge(others, gate.gates).gates})


def require_passed(outcomes: Sequence[Outcome]) -> None:
    """Raise GateError when a gate failed, and else UndecidedError when one could not be decided."""
    found = [outcome.decision for outcome in outcomes]
    failed, open_ = found.count("fail"), found.count("undecided")
    if failed:
        raise GateError(f"{failed} of {len(found)} gates failed" + (f", {open_} could not be decided" if open_ else ""))
    if open_:
        raise UndecidedError(f"{open_} of {len(found)} gates could not be decided")


def line(outcome: Outcome) -> str:
    """Write an outcome as one line for a log: "gate FAIL p95_ms > +5%: after, student int8: +10.2% [+9.1%, +11.4%]"."""
    model, is_of_runs, _ = outcome.group.partition(" — ")
    who = f"{outcome.candidate}, {model}" if is_of_runs else outcome.candidate
    return f"gate {outcome.decision.upper()} {outcome.gate}: {who}: {outcome.found}"


def _outcomes(comparison: Comparison, gates: Sequence[Gate]) -> Iterator[Outcome]:
    for group in comparison.groups:
        baseline = next((row for row in group.rows if row.is_baseline), None)
        for row in group.rows:
            if not row.is_baseline:
                yield from (_outcome(group, gate, row, baseline) for gate in gates)
    for missing in comparison.missing:
        yield from (
            Outcome(gate=gate.text, group=missing, candidate=missing, decision="undecided", found="was not measured")
            for gate in gates
        )


def _outcome(group: Group, gate: Gate, row: Row, baseline: Row | None) -> Outcome:
    if gate.is_change and baseline is not None and row.speedup is None:
        raise IncomparableError(f"gate '{gate.text}': {row.label}: {row.reasons['speedup']}")
    decision, words, found = hold(gate, row, baseline)
    return Outcome(
        gate=gate.text, group=group.title, candidate=row.label, decision=decision, found=words, value=found.value,
        interval=found.interval,
    )  # fmt: skip


def hold(gate: Gate, row: Row, baseline: Row | None) -> tuple[Decision, str, Estimate]:
    """Hold a gate against one row: the decision, what was found in words, and the figure."""
    found = estimate(gate, row, baseline)
    decision = decide(gate, found)
    return decision, _found(gate, found, decision), found


def decide(gate: Gate, found: Estimate) -> Decision:
    """Say whether a figure is surely beyond a gate's limit, surely not, or neither."""
    if found.interval is None:
        return "undecided"
    low, high = found.interval
    is_beyond, is_within = low > gate.limit, high <= gate.limit
    if gate.higher_is_better:
        is_beyond, is_within = high < gate.limit, low >= gate.limit
    if is_within:
        return "pass"
    return "fail" if is_beyond and not _is_noise(gate, found) else "undecided"


def _is_noise(gate: Gate, found: Estimate) -> bool:
    """Tell a change for the worse that is too small to be called one; a gain that was demanded may be missed by as little."""
    return gate.is_change and found.within_noise and gate.limit >= 0


def _found(gate: Gate, found: Estimate, decision: Decision) -> str:
    if found.interval is None or found.value is None:
        return str(found.reason)
    low, high = (_figure(gate, end) for end in found.interval)
    text = _figure(gate, found.value) + ("" if found.n is None else f" [{low}, {high}]")
    if decision != "undecided":
        return text
    if low == high or not found.interval[0] <= gate.limit <= found.interval[1]:
        return f"{text}: within {NOISE_FLOOR:.0%}, as two measurements of one model may differ"
    return f"{text}: the limit is inside the interval; {_advice(gate, found)}"


def _advice(gate: Gate, found: Estimate) -> str:
    """Say how many processes or samples would leave the limit out of the interval, which narrows with their root."""
    assert found.interval is not None
    assert found.value is not None
    assert found.n is not None
    low, high = found.interval
    distance = abs(found.value - gate.limit)
    half = found.value - low if gate.limit < found.value else high - found.value
    needed = math.ceil(found.n * (half / distance) ** 2) + 1 if distance > 0 else math.inf
    if found.of == "processes" and needed <= WORTH_TRYING:
        return f"about {needed} processes a side would decide, these were {found.n}"
    if found.of != "processes" and distance > 0.1 * half:
        return f"about {figures.rounded_up(needed)} {found.of} would decide, these were {found.n}"
    return f"it is too near to the limit for {found.n} {found.of}"


def _figure(gate: Gate, value: float) -> str:
    """Write a figure as its gate is written: a change with its sign, a relative one in percent."""
    value += 0.0  # -0.0 would be written with its sign
    if gate.is_relative:
        return f"{100 * value:+.1f}%"
    if gate.metric in ("accuracy", "worst_class"):
        return f"{value:+.1f} points" if gate.is_change else f"{100 * value:.1f}%"
    digits = f"{value:.0f}" if gate.metric.endswith("_bytes") else figures.significant(value)
    return f"+{digits}" if gate.is_change and value >= 0 else digits
