"""Measure the models of a card again, and check whether the published values hold.

A latency, memory, energy or size holds when its change from the published value is certainly within the tolerance, and does
not hold when the change is certainly beyond it, by the rule of gates (`gates/evaluate.py`). An accuracy holds when it is not
below the published interval. Values better than the published ones hold.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ConfigDict, Field

from edgedistill.card.card import Card, require_file
from edgedistill.compare import formatting
from edgedistill.compare.comparison import Decision
from edgedistill.compare.load import LoadedMeasurement, describe_model
from edgedistill.compare.rows import baseline_row, candidate_row
from edgedistill.config.gates import Gate
from edgedistill.deploy.devices.transport import Progress
from edgedistill.deploy.harness import Compilation, compile_models, run_bench
from edgedistill.deploy.stage import MIN_AGREEMENT
from edgedistill.errors import ConfigError, DeviceError, GateError, UndecidedError
from edgedistill.gates.evaluate import check_gate
from edgedistill.kits.kits import Kit, find_kit
from edgedistill.records.base import Record
from edgedistill.records.bench_job import Arm, BenchJob
from edgedistill.records.measurement import Accuracy, Measurement

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
    """The result of a replay: each published value, and the new measurements."""

    schema_: Literal["edgedistill.replay/1"] = Field(alias="schema", default=SCHEMA)
    card: str
    device: str
    tolerance: float
    figures: tuple[ReplayedValue, ...]
    measurements: tuple[Measurement, ...]

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True, validate_by_name=True)


@dataclass(frozen=True, slots=True)
class ReplaySource:
    """A published measurement, and the kit and files needed to repeat it."""

    published: Measurement
    kit: Kit
    model: Path
    io: Path
    expected: str | None
    output: str | None
    threshold: float | None


def replay(card: Card, path: Path, options: ReplayOptions, kits: dict[str, Kit], progress: Progress) -> Replay:
    """Compile and measure the models of a card on a device; `path` is that of the card, and its files lie beside it.

    Raises ConfigError when a file is missing or altered, or nothing matches the options, DeviceError when an engine fails.
    """
    published = _chosen(card, options)
    sources = []
    for m in published:
        model = card.model_of(m)
        files = require_file(path, model.file), require_file(path, model.io)
        sources.append(ReplaySource(m, find_kit(m.kit, kits), *files, model.expected, model.output, model.threshold))
    with tempfile.TemporaryDirectory(prefix="edgedistill-replay-") as folder:
        repeated = _measure(sources, card.metric, options, Path(folder), progress)
    return Replay(
        card=card.sha256,
        device=options.device,
        tolerance=options.tolerance,
        figures=tuple(one for old, new in zip(published, repeated, strict=True) for one in _check(old, new, options)),
        measurements=tuple(repeated),
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


def _measure(
    sources: Sequence[ReplaySource], metric: str, options: ReplayOptions, folder: Path, progress: Progress
) -> list[Measurement]:
    """Compile the published models on the device, and measure them with the published settings."""
    works = [
        Compilation(
            kit=source.kit, model=source.model, precision=source.published.precision.requested,
            threads=source.published.threads, out=folder / str(number), address=options.device,
        )
        for number, source in enumerate(sources)
    ]  # fmt: skip
    for work in works:
        work.out.mkdir()
    arms = []
    for source, work, made in zip(sources, works, compile_models(works, progress), strict=True):
        if isinstance(made, DeviceError):
            raise made
        arms.append(_arm(source, work, made, metric))
    first = sources[0].published
    seconds = max(process.wall_ns for process in first.processes) / 1e9
    job = BenchJob(
        arms=tuple(arms), processes=options.processes or len(first.processes), seconds=options.seconds or seconds
    )
    results = []
    for name, result in run_bench(job, folder, progress):
        if not isinstance(result, Measurement):
            raise DeviceError(f"{name}: {result}")
        results.append(result)
    return results


def _arm(source: ReplaySource, work: Compilation, made: Mapping[str, Any], metric: str) -> Arm:
    files = [work.out / name for name in made["files"]]
    m = source.published
    return Arm(
        name=f"{work.out.name}-{m.kit}-{m.precision.requested}", target=m.target, address=work.address, kit=m.kit,
        kit_dir=str(source.kit.folder), precision=m.precision.requested, threads=m.threads,
        entry=str(work.out / made["entry"]), files=tuple(str(file) for file in files),
        size_bytes=sum(file.stat().st_size for file in files), model=m.model, io=str(source.io.resolve()),
        expected=source.expected, metric=metric, output=source.output, threshold=source.threshold,
    )  # fmt: skip


def _check(published: Measurement, repeated: Measurement, options: ReplayOptions) -> Iterator[ReplayedValue]:
    """Yield whether each published value holds; the device may be another one of the same model."""
    label = f"{describe_model(published)} ({published.kit})"
    same = repeated.model_copy(update={"device": repeated.device.model_copy(update={"id": published.device.id})})
    before = LoadedMeasurement("published", published)
    row, baseline = candidate_row(LoadedMeasurement("repeated", same), before), baseline_row(before)
    for gate in _gates(published, options.tolerance):
        if row.speedup is None:
            yield ReplayedValue(model=label, figure=gate.metric, decision="undecided", found=row.reasons["speedup"])
            continue
        decision, words, _ = check_gate(gate, row, baseline)
        yield ReplayedValue(model=label, figure=gate.metric, decision=decision, found=words)
    yield from (
        ReplayedValue(model=label, figure=name, decision=d, found=words)
        for name, d, words in _check_answers(published, repeated)
    )


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
            text = f"{metric} > +{100 * tolerance:g}%"
            yield Gate(text=text, metric=metric, limit=tolerance, is_change=True, is_relative=True)


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
