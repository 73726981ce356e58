"""An edge card as Markdown, to be published beside the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgedistill.card.card import Card
from edgedistill.compare import figures
from edgedistill.compare.budget import reason
from edgedistill.compare.markdown import plain, row
from edgedistill.records.measurement import Measurement

HEADINGS = ("device", "engine", "precision", "threads", "p50 ms", "p95 ms", "memory MB", "energy", "size")


def render_card(card: Card) -> str:
    """Write a card for people; every figure in it is in card.json."""
    return "\n".join(_lines(card)) + "\n"


def _lines(card: Card) -> Iterator[str]:
    name = figures.metric([card.metric])[1]
    yield from (f"# {plain(card.name)}", "", plain(_summary(card)), "", "## On devices", "")
    yield from _table([*HEADINGS, name], [_cells(m) for m in card.measurements])
    for verdict in card.verdicts:
        yield f"- {plain(verdict)}"
    yield from ("", "## Data", "", plain(_data(card)), "", "## Files", "")
    files = {model.file.path: model.file for model in card.models} | {model.io.path: model.io for model in card.models}
    yield from _table(
        ["file", "bytes", "SHA-256"], [[ref.path, f"{ref.bytes:,}", ref.sha256] for ref in files.values()]
    )
    yield from ("## Limits", "")
    for limit in card.limits:
        yield f"- {plain(limit)}"
    yield from ("", "## Made with", "", plain(_versions(card)), "")
    yield "`edgedistill replay card.json --device URL` measures the files again and says whether these figures hold."


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> Iterator[str]:
    yield from (row(headings), row(["---"] * len(headings)))
    for line in lines:
        yield row([plain(cell) for cell in line])
    yield ""


def _summary(card: Card) -> str:
    origin = card.origin
    parameters = "" if origin.parameters is None else f", {origin.parameters:,} parameters"
    text = f"{origin.student}{parameters}, distilled from {origin.teacher}; {origin.quantized}."
    gain = "" if origin.distillation is None else f" {origin.distillation}"
    return f"{text}{gain} Licence: {card.license or 'not stated'}."


def _data(card: Card) -> str:
    data = card.data
    shape = "\u00d7".join(map(str, data.shape))
    outputs = f"{len(data.classes)} classes" if data.task == "classification" else f"{data.task}"
    split = f"{data.train} training, {data.val} validation and {data.test} test samples"
    return f"{data.kind} {shape} {data.dtype}, {outputs}; {split}; fingerprint {data.fingerprint}."


def _cells(m: Measurement) -> list[str]:
    facts = m.device
    where = f"{m.target}: {facts.cpu}, {facts.os}" + (f", {facts.power_mode}" if facts.power_mode else "")
    return [
        where, f"{facts.engine.name} {facts.engine.version} ({m.kit})", m.precision.requested, str(m.threads),
        f"{figures.milliseconds(m.latency_ns.p50)}{_spread(m)}",
        _or_why(m, "latency_ns.p95", None if m.latency_ns.p95 is None else figures.milliseconds(m.latency_ns.p95)),
        _or_why(m, "memory_bytes", None if m.memory_bytes is None else figures.megabytes(m.memory_bytes.peak)),
        _energy(m), figures.size(m.size_bytes), _accuracy(m),
    ]  # fmt: skip


def _spread(m: Measurement) -> str:
    interval = m.latency_ns.ci95.get("p50")
    return "" if interval is None else f" [{figures.milliseconds(interval[0])}, {figures.milliseconds(interval[1])}]"


def _energy(m: Measurement) -> str:
    if m.energy_uj is None:
        return _or_why(m, "energy_uj", None)
    return f"{figures.energy(m.energy_uj.per_inference)} ({m.energy_uj.provenance}: {m.energy_uj.source})"


def _accuracy(m: Measurement) -> str:
    if m.accuracy is None:
        return _or_why(m, "accuracy", None)
    low, high = (figures.percent(end) for end in m.accuracy.ci95)
    return f"{figures.percent(m.accuracy.value)} % [{low}, {high}], n = {m.accuracy.n}"


def _or_why(m: Measurement, field: str, shown: str | None) -> str:
    return f"not measured: {reason(m, field)}" if shown is None else shown


def _versions(card: Card) -> str:
    named = ", ".join(f"{package} {version}" for package, version in card.versions.items())
    return f"edgedistill {card.edgedistill}; {named}. Card {card.sha256[:16]}, {card.created}."
