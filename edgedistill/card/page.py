"""An edge card as Markdown, for the page of the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgedistill.card.card import Card
from edgedistill.compare import formatting
from edgedistill.compare.markdown import escape, table_row
from edgedistill.records.measurement import Measurement
from edgedistill.tasks.table import find_task

HEADINGS = ("device", "engine", "precision", "threads", "p50 ms", "p95 ms", "memory MB", "energy", "size")


def render_card(card: Card) -> str:
    """Render a card for readers; card.json contains every number in it."""
    return "\n".join(_lines(card)) + "\n"


def _lines(card: Card) -> Iterator[str]:
    name = formatting.metric_heading([card.metric])[1]
    yield from (f"# {escape(card.name)}", "", escape(_summary(card)), "", "## Measurements", "")
    yield from _table([*HEADINGS, name], [_cells(m) for m in card.measurements])
    for verdict in card.verdicts:
        yield f"- {escape(verdict)}"
    yield from ("", "## Data", "", escape(_data(card)), "", "## Files", "")
    files = {model.file.path: model.file for model in card.models} | {model.io.path: model.io for model in card.models}
    yield from _table(
        ["file", "bytes", "SHA-256"], [[ref.path, f"{ref.bytes:,}", ref.sha256] for ref in files.values()]
    )
    yield from ("## Limits", "")
    for limit in card.limits:
        yield f"- {escape(limit)}"
    yield from ("", "## Versions", "", escape(_versions(card)), "")
    yield "`edgedistill replay card.json --device URL` measures the files again and reports whether these numbers hold."


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> Iterator[str]:
    yield from (table_row(headings), table_row(["---"] * len(headings)))
    for line in lines:
        yield table_row(map(escape, line))
    yield ""


def _summary(card: Card) -> str:
    origin = card.origin
    parameters = "" if origin.parameters is None else f", {origin.parameters:,} parameters"
    text = f"{origin.student}{parameters}, distilled from {origin.teacher}; {origin.quantized}."
    gain = "" if origin.distillation is None else f" {origin.distillation}"
    return f"{text}{gain} Licence: {card.license or 'not stated'}."


def _data(card: Card) -> str:
    data = card.data
    outputs = find_task(data.task).describe_outputs(len(data.classes))
    without = f"{data.unlabelled} more for distillation without labels, " if data.unlabelled else ""
    split = f"{data.train} training, {without}{data.val} validation and {data.test} test samples"
    return f"{data.summary}, {outputs}; {split}; fingerprint {data.fingerprint}."


def _cells(m: Measurement) -> list[str]:
    facts = m.device
    where = f"{m.target}: {facts.cpu}, {facts.os}" + (f", {facts.power_mode}" if facts.power_mode else "")
    return [
        where, f"{facts.engine.name} {facts.engine.version} ({m.kit})", m.precision.requested, str(m.threads),
        f"{formatting.milliseconds(m.latency_ns.p50)}{_spread(m)}",
        _or_why(m, "latency_ns.p95", None if m.latency_ns.p95 is None else formatting.milliseconds(m.latency_ns.p95)),
        _or_why(m, "memory_bytes", None if m.memory_bytes is None else formatting.megabytes(m.memory_bytes.peak)),
        _energy(m), formatting.size(m.size_bytes), _accuracy(m),
    ]  # fmt: skip


def _spread(m: Measurement) -> str:
    interval = m.latency_ns.ci95.get("p50")
    return (
        "" if interval is None else f" [{formatting.milliseconds(interval[0])}, {formatting.milliseconds(interval[1])}]"
    )


def _energy(m: Measurement) -> str:
    if m.energy_uj is None:
        return _or_why(m, "energy_uj", None)
    return f"{formatting.energy(m.energy_uj.per_inference)} ({m.energy_uj.provenance}: {m.energy_uj.source})"


def _accuracy(m: Measurement) -> str:
    if m.accuracy is None:
        return _or_why(m, "accuracy", None)
    low, high = (formatting.percent(end) for end in m.accuracy.ci95)
    return f"{formatting.percent(m.accuracy.value)} % [{low}, {high}], n = {m.accuracy.n}"


def _or_why(m: Measurement, field: str, shown: str | None) -> str:
    return f"not measured: {m.reason_for(field)}" if shown is None else shown


def _versions(card: Card) -> str:
    named = ", ".join(f"{package} {version}" for package, version in card.versions.items())
    return f"edgedistill {card.edgedistill}; {named}. Card {card.sha256[:16]}, {card.created}."
