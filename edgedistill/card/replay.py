"""Measure what a card publishes again, and say whether its figures hold.

A latency, memory, energy or size holds when its change from the published one is surely within the tolerance, and does not
hold when it is surely beyond it, by the rule of gates (`judge.py`). An accuracy holds when it lies within the published
interval. Better figures than the published ones hold.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ConfigDict, Field

from edgedistill.card.card import Card, require_file
from edgedistill.compare import figures
from edgedistill.compare.comparison import Decision
from edgedistill.compare.load import Result, describe_model
from edgedistill.compare.rows import baseline_row, candidate_row
from edgedistill.config.gates import Gate
from edgedistill.deploy.devices.transport import Progress
from edgedistill.deploy.harness import Compilation, compile_models, run_bench
from edgedistill.deploy.stage import MIN_AGREEMENT
from edgedistill.errors import ConfigError, DeviceError, GateError, UndecidedError
from edgedistill.gates.judge import hold
from edgedistill.kits.kits import Kit, find_kit
from edgedistill.records.base import Record
from edgedistill.records.measurement import Accuracy, Measurement

SCHEMA: Literal["edgedistill.replay/1"] = "edgedistill.replay/1"
WORDS: Final[Mapping[Decision, str]] = {"pass": "holds", "fail": "does not hold", "undecided": "cannot be decided"}


class Request(Record):
    """What is asked for: the device, the tolerance as a fraction, and what replaces the published way of measuring."""

    device: str = "local"
    tolerance: float = 0.1
    kit: str | None = None
    precision: str | None = None
    processes: int | None = None
    seconds: float | None = None


class Replayed(Record):
    """One published figure and what became of it, in words."""

    model: str
    figure: str
    decision: Decision
    found: str


class Replay(Record):
    """A card replayed: the figures, and the new measurements in full."""

    schema_: Literal["edgedistill.replay/1"] = Field(alias="schema", default=SCHEMA)
    card: str
    device: str
    tolerance: float
    figures: tuple[Replayed, ...]
    measurements: tuple[Measurement, ...]

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True, validate_by_name=True)


@dataclass(frozen=True, slots=True)
class Source:
    """A published measurement, and what it takes to repeat it."""

    published: Measurement
    kit: Kit
    model: Path
    io: Path
    expected: str | None


def replay(card: Card, path: Path, request: Request, kits: dict[str, Kit], progress: Progress) -> Replay:
    """Compile and measure a card's files on a device; `path` is the card's, beside which they lie.

    Raises ConfigError for files that are not the card's and figures that it does not have, DeviceError when an engine fails.
    """
    published = _chosen(card, request)
    sources = []
    for m in published:
        model = card.model_of(m)
        files = require_file(path, model.file), require_file(path, model.io)
        sources.append(Source(m, find_kit(m.kit, kits), *files, model.expected))
    with tempfile.TemporaryDirectory(prefix="edgedistill-replay-") as folder:
        found = _measure(sources, card.metric, request, Path(folder), progress)
    return Replay(
        card=card.sha256,
        device=request.device,
        tolerance=request.tolerance,
        figures=tuple(one for old, new in zip(published, found, strict=True) for one in _held(old, new, request)),
        measurements=tuple(found),
    )


def lines(result: Replay) -> Iterator[str]:
    """Yield a line for each figure."""
    for one in result.figures:
        yield f"{one.model}: {one.figure} {WORDS[one.decision]}: {one.found}"


def require_holds(result: Replay) -> None:
    """Raise GateError when a published figure does not hold, and else UndecidedError when one could not be decided."""
    decisions = [one.decision for one in result.figures]
    failed, open_ = decisions.count("fail"), decisions.count("undecided")
    if failed:
        raise GateError(f"{failed} of {len(decisions)} published figures do not hold")
    if open_:
        raise UndecidedError(f"{open_} of {len(decisions)} published figures could not be decided")


def _chosen(card: Card, request: Request) -> list[Measurement]:
    """Return the published measurements to repeat: those of the device named, or else of any, one for a kit and precision.

    A page's are not repeated: nobody can send a browser somewhere from here.
    """
    repeatable = [m for m in card.measurements if m.browser is None]
    here = [m for m in repeatable if m.device.address == request.device] or repeatable
    wanted = {
        (m.kit, m.model.sha256): m
        for m in here
        if request.kit in (None, m.kit) and request.precision in (None, m.precision.requested)
    }
    if not wanted:
        known = ", ".join(sorted({f"{m.kit} {m.precision.requested}" for m in card.measurements}))
        raise ConfigError(f"the card has no figures of what was asked for; it has {known}")
    return list(wanted.values())


def _measure(
    sources: Sequence[Source], metric: str, request: Request, folder: Path, progress: Progress
) -> list[Measurement]:
    """Compile on the device what was published, and measure it there as it was measured then."""
    works = [
        Compilation(
            kit=source.kit, model=source.model, precision=source.published.precision.requested,
            threads=source.published.threads, out=folder / str(number), address=request.device,
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
    job = {
        "schema": "edgedistill.job/1", "out": "measurements", "seed": 0, "soak_seconds": 0.0, "meter": None,
        "processes": request.processes or len(first.processes), "seconds": request.seconds or seconds, "arms": arms,
    }  # fmt: skip
    results = []
    for name, result in run_bench(job, folder, progress):
        if not isinstance(result, Measurement):
            raise DeviceError(f"{name}: {result}")
        results.append(result)
    return results


def _arm(source: Source, work: Compilation, made: Mapping[str, Any], metric: str) -> dict[str, Any]:
    files = [work.out / name for name in made["files"]]
    m = source.published
    return {
        "name": f"{work.out.name}-{m.kit}-{m.precision.requested}", "target": m.target, "address": work.address,
        "kit": m.kit, "kit_dir": str(source.kit.folder), "precision": m.precision.requested, "threads": m.threads,
        "entry": str(work.out / made["entry"]), "files": [str(file) for file in files],
        "size_bytes": sum(file.stat().st_size for file in files), "model": m.model.model_dump(),
        "io": str(source.io.resolve()), "expected": source.expected, "metric": metric,
    }  # fmt: skip


def _held(published: Measurement, found: Measurement, request: Request) -> Iterator[Replayed]:
    """Yield what became of each figure that was published; another device may be of the same make."""
    label = f"{describe_model(published)} ({published.kit})"
    same = found.model_copy(update={"device": found.device.model_copy(update={"id": published.device.id})})
    before = Result("published", published)
    row, baseline = candidate_row(Result("found", same), before), baseline_row(before)
    for gate in _gates(published, request.tolerance):
        if row.speedup is None:
            yield Replayed(model=label, figure=gate.metric, decision="undecided", found=row.reasons["speedup"])
            continue
        decision, words, _ = hold(gate, row, baseline)
        yield Replayed(model=label, figure=gate.metric, decision=decision, found=words)
    yield from (
        Replayed(model=label, figure=name, decision=d, found=words) for name, d, words in _answers(published, found)
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


def _answers(published: Measurement, found: Measurement) -> Iterator[tuple[str, Decision, str]]:
    """Yield whether the model still answers as published: its accuracy, and its agreement with the exported model."""
    if published.accuracy is not None:
        yield "accuracy", *_accuracy(published.accuracy, found)
    if found.parity is not None:
        least = MIN_AGREEMENT[published.precision.requested]
        decision: Decision = "pass" if found.parity.agreement >= least else "fail"
        yield (
            "agreement",
            decision,
            f"{found.parity.agreement:.2%} with the exported model, at least {least:.1%} is required",
        )


def _accuracy(published: Accuracy, found: Measurement) -> tuple[Decision, str]:
    if found.accuracy is None or (found.accuracy.metric, found.accuracy.n) != (published.metric, published.n):
        return "undecided", "it was not measured by the same metric on as many samples"
    low, high = (figures.percent(end) for end in published.ci95)
    text = f"{figures.percent(found.accuracy.value)} % now; {figures.percent(published.value)} % [{low}, {high}] was published"
    return ("pass" if found.accuracy.value >= published.ci95[0] else "fail"), text
