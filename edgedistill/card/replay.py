"""Measure the models of a card again, and check whether the published values hold.

A latency, memory, energy or size holds when its change from the published value is certainly within the tolerance, and does
not hold when the change is certainly beyond it, by the rule of gates (`gates/evaluate.py`). An accuracy holds when it is not
below the published interval. Values better than the published ones hold.

The models take turns, and the first is measured twice, which shows what change the device can tell. Two models that took
turns when they were published also have their speedup checked: it does not depend on how busy the device is. What disturbs a
device makes inferences slower, never faster. So a latency of a disturbed measurement only does not hold if even the fastest
inference was too slow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from pydantic import ConfigDict, Field

from edgedistill.card.card import Card, require_file
from edgedistill.compare import formatting
from edgedistill.compare.comparison import Decision
from edgedistill.compare.footnotes import doubts
from edgedistill.compare.load import LoadedMeasurement, describe_model
from edgedistill.compare.rows import Row, baseline_row, candidate_row, unequal_conditions
from edgedistill.config.gates import Gate
from edgedistill.deploy.again import AgainOptions, MeasuredModel, measure_again, seconds_of
from edgedistill.deploy.devices.transport import Progress
from edgedistill.deploy.stage import MIN_AGREEMENT
from edgedistill.errors import ConfigError, GateError, UndecidedError
from edgedistill.gates.estimates import Estimate, change_of_itself, values_of
from edgedistill.gates.evaluate import check_gate, decide
from edgedistill.kits.kits import Kit, find_kit
from edgedistill.records.base import Record
from edgedistill.records.measurement import Accuracy, Measurement
from edgedistill.runtime.scratch import scratch_folder
from edgedistill.statistics import DUET_NOISE, MINIMUM_PROCESSES, duet_ratios, speedup_of, speedup_of_ratios

SCHEMA: Literal["edgedistill.replay/1"] = "edgedistill.replay/1"
VERDICTS: Final[Mapping[Decision, str]] = {"pass": "holds", "fail": "does not hold", "undecided": "is undecided"}


class ReplayOptions(Record):
    """Options of a replay: the device, the tolerance as a fraction, and values that replace the published ones."""

    device: str = "local"
    tolerance: float = 0.1
    kit: str | None = None
    precision: str | None = None
    processes: int | None = None
    seconds: float | None = None


class ReplayedValue(Record):
    """One published value, and whether it holds; `found` describes the new value."""

    model: str
    figure: str
    decision: Decision
    found: str


class Replay(Record):
    """The result of a replay: each published value, the new measurements, and `again`, a second one of the first model."""

    schema_: Literal["edgedistill.replay/1"] = Field(alias="schema", default=SCHEMA)
    card: str
    device: str
    tolerance: float
    figures: tuple[ReplayedValue, ...]
    measurements: tuple[Measurement, ...]
    again: Measurement | None = None

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True, validate_by_name=True)


def replay(card: Card, path: Path, options: ReplayOptions, kits: dict[str, Kit], progress: Progress) -> Replay:
    """Compile and measure the models of a card on a device; `path` is that of the card, and its files lie beside it.

    Raises ConfigError when a file is missing or altered, or nothing matches the options, DeviceError when an engine fails.
    """
    published = _chosen(card, options)
    models = []
    for m in published:
        model, kit = card.model_of(m), find_kit(m.kit, kits)
        files = require_file(path, model.file), require_file(path, model.io)
        models.append(
            MeasuredModel(m, kit, options.device, *files, model.expected, card.metric, model.output, model.threshold)
        )
    how = AgainOptions(
        processes=options.processes or len(published[0].processes),
        seconds=options.seconds or seconds_of(published[0]), passes=("null_model", "energy"),
    )  # fmt: skip
    with scratch_folder() as folder:
        *repeated, again = [new for _, new in measure_again([*models, models[0]], how, folder, progress)]
    return Replay(
        card=card.sha256,
        device=options.device,
        tolerance=options.tolerance,
        figures=tuple(check_values(list(zip(published, repeated, strict=True)), again, options)),
        measurements=tuple(repeated),
        again=again,
    )


def lines(result: Replay) -> Iterator[str]:
    """Yield one line per published value."""
    for one in result.figures:
        yield f"{one.model}: {one.figure} {VERDICTS[one.decision]}: {one.found}"


def require_holds(result: Replay) -> None:
    """Raise GateError when a published value does not hold; otherwise raise UndecidedError when one is undecided."""
    decisions = [one.decision for one in result.figures]
    failed, undecided = decisions.count("fail"), decisions.count("undecided")
    if failed:
        raise GateError(f"{failed} of {len(decisions)} published values do not hold")
    if undecided:
        raise UndecidedError(f"{undecided} of {len(decisions)} published values are undecided")


def _chosen(card: Card, options: ReplayOptions) -> list[Measurement]:
    """Return the published measurements to repeat, one per kit and model: only those of the same device, if it has any.

    Measurements of browsers are left out, because a browser cannot be started from here.
    """
    repeatable = [m for m in card.measurements if m.browser is None]
    here = [m for m in repeatable if m.device.address == options.device] or repeatable
    wanted = {
        (m.kit, m.model.sha256): m
        for m in here
        if options.kit in (None, m.kit) and options.precision in (None, m.precision.requested)
    }
    if not wanted:
        known = ", ".join(sorted({f"{m.kit} {m.precision.requested}" for m in card.measurements}))
        raise ConfigError(f"no measurement in the card matches --target and --precision; the card has: {known}")
    return list(wanted.values())


def check_values(
    pairs: Sequence[tuple[Measurement, Measurement]], again: Measurement, options: ReplayOptions
) -> Iterator[ReplayedValue]:
    """Yield whether each published value holds, from pairs of published and repeated measurements."""
    baseline = LoadedMeasurement("first", pairs[0][1])
    itself = candidate_row(LoadedMeasurement("again", again), baseline), baseline_row(baseline)
    for pair in pairs:
        yield from _check(*pair, itself, options.tolerance)
        first = next(one for one in pairs if one[0].kit == pair[0].kit)
        if pair is not first:
            yield from _check_speedup(first, pair, options.tolerance)


def _check(
    published: Measurement, repeated: Measurement, itself: tuple[Row, Row], tolerance: float
) -> Iterator[ReplayedValue]:
    """Yield whether each published value holds; the device may be another one of the same model."""
    label = _label(published)
    before, after = (
        LoadedMeasurement("published", published),
        LoadedMeasurement("repeated", _there(published, repeated)),
    )
    row, baseline = candidate_row(after, before), baseline_row(before)
    for gate in _gates(published, tolerance):
        if row.speedup is None:
            yield ReplayedValue(model=label, figure=gate.metric, decision="undecided", found=row.reasons["speedup"])
            continue
        decision, words, _ = check_gate(gate, row, baseline, change_of_itself(gate, *itself))
        if decision == "fail" and (doubt := _doubt(gate, published, repeated)):
            decision, words = "undecided", f"{words}; {doubt}"
        yield ReplayedValue(model=label, figure=gate.metric, decision=decision, found=words)
    yield from (
        ReplayedValue(model=label, figure=name, decision=d, found=words)
        for name, d, words in _check_answers(published, repeated)
    )


def _there(published: Measurement, repeated: Measurement) -> Measurement:
    """Return a repeated measurement as if it were of the same device, not of another one of the same model."""
    return repeated.model_copy(update={"device": repeated.device.model_copy(update={"id": published.device.id})})


def _label(measurement: Measurement) -> str:
    return f"{describe_model(measurement)} ({measurement.kit})"


def _doubt(gate: Gate, published: Measurement, repeated: Measurement) -> str | None:
    """Return why a slower latency is no proof: the device was disturbed, and its fastest inference is within the tolerance."""
    if gate.metric not in ("p50_ms", "p95_ms"):
        return None
    if repeated.latency_ns.min / 1e6 > max(values_of(gate.metric, published)) * (1 + gate.limit):
        return None
    return next(doubts(repeated), None)


def _check_speedup(
    first: tuple[Measurement, Measurement], other: tuple[Measurement, Measurement], tolerance: float
) -> Iterator[ReplayedValue]:
    """Yield whether a published speedup over the first model holds, if both took turns, then and now."""
    published, repeated = (duet_ratios(one, two) for one, two in zip(first, other, strict=True))
    differing = unequal_conditions(other[0], _there(*other))
    if differing or min(len(published), len(repeated)) < MINIMUM_PROCESSES:
        return
    change = speedup_of(published, repeated)
    assert change.ci95 is not None
    noise = DUET_NOISE if abs(change.value - 1) <= DUET_NOISE else None
    value = Estimate(value=change.value - 1, interval=(change.ci95[0] - 1, change.ci95[1] - 1), noise=noise)
    before, after = (formatting.finely(speedup_of_ratios(ratios).value) for ratios in (published, repeated))
    yield ReplayedValue(
        model=_label(other[0]), figure=f"speedup over {_label(first[0])}",
        decision=decide(_gate("p50_ms", tolerance), value), found=f"{after} now; published: {before}",
    )  # fmt: skip


def _gates(published: Measurement, tolerance: float) -> Iterator[Gate]:
    energy = published.energy_uj
    is_published = {
        "p50_ms": True,
        "p95_ms": published.latency_ns.p95 is not None,
        "memory_bytes": published.memory_bytes is not None,
        "energy_mj": energy is not None and energy.provenance == "measured",
        "size_bytes": True,
    }
    for metric, is_there in is_published.items():
        if is_there:
            yield _gate(metric, tolerance)


def _gate(metric: str, tolerance: float) -> Gate:
    text = f"{metric} > +{100 * tolerance:g}%"
    return Gate(text=text, metric=metric, limit=tolerance, is_change=True, is_relative=True)


def _check_answers(published: Measurement, repeated: Measurement) -> Iterator[tuple[str, Decision, str]]:
    """Yield whether accuracy and agreement with the exported model hold."""
    if published.accuracy is not None:
        yield "accuracy", *_check_accuracy(published.accuracy, repeated)
    if repeated.parity is not None and repeated.parity.agreement is not None:
        least = MIN_AGREEMENT[published.precision.requested]
        decision: Decision = "pass" if repeated.parity.agreement >= least else "fail"
        yield (
            "agreement",
            decision,
            f"{repeated.parity.agreement:.2%} with the exported model, at least {least:.1%} is required",
        )


def _check_accuracy(published: Accuracy, repeated: Measurement) -> tuple[Decision, str]:
    if repeated.accuracy is None or (repeated.accuracy.metric, repeated.accuracy.n) != (published.metric, published.n):
        return "undecided", "accuracy was not measured with the same metric and number of samples"
    low, high = (formatting.percent(end) for end in published.ci95)
    text = f"{formatting.percent(repeated.accuracy.value)} % now; published: {formatting.percent(published.value)} % [{low}, {high}]"
    return ("pass" if repeated.accuracy.value >= published.ci95[0] else "fail"), text
