"""An edge card as Markdown, for the page of the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgedistill.card.card import NOT_QUANTIZED, Card
from edgedistill.card.hub import front_matter
from edgedistill.card.usage import NAMED, packages, usage
from edgedistill.compare import formatting
from edgedistill.compare.markdown import escape, table_row
from edgedistill.records.measurement import Measurement
from edgedistill.tasks.table import find_task

HEADINGS = (
    "device",
    "engine",
    "precision",
    "threads",
    "p50 latency, {0}",
    "p95 latency, {0}",
    "memory, MB",
    "energy per inference",
    "size",
)

LISTED = 100
"""More classes are only in card.json."""


def render_card(card: Card) -> str:
    """Render a card for readers; card.json contains every number in it."""
    return "\n".join(_lines(card)) + "\n"


def _lines(card: Card) -> Iterator[str]:
    name = formatting.metric_heading([card.metric])[1]
    unit = formatting.time_unit(m.latency_ns.p50 for m in card.measurements)
    yield from (front_matter(card), f"# {escape(card.name)}", "")
    yield from () if card.bargain is None else (escape(card.bargain), "")
    yield from (escape(_summary(card)), "", *_usage(card), "## Measurements", "")
    headings = [one.format(unit.name) for one in HEADINGS]
    yield from _table([*headings, f"{name}, %"], [_cells(m, unit) for m in card.measurements])
    for verdict in card.verdicts:
        yield f"- {escape(verdict)}"
    yield from ("", "## Data", "", escape(_data(card)), "", "## Files", "")
    files = {model.file.path: model.file for model in card.models} | {model.io.path: model.io for model in card.models}
    files |= {} if card.tokenizer is None else {card.tokenizer.path: card.tokenizer}
    yield from _table(
        ["file", "bytes", "SHA-256"], [[ref.path, f"{ref.bytes:,}", ref.sha256] for ref in files.values()]
    )
    yield from ("## Limits", "")
    for limit in card.limits:
        yield f"- {escape(limit)}"
    yield from ("", "## Versions", "", escape(_versions(card)), "")
    yield "`edgedistill replay card.json --device URL` measures the files again and reports whether these figures hold."


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> Iterator[str]:
    yield from (table_row(headings), table_row(["---"] * len(headings)))
    for line in lines:
        yield table_row(map(escape, line))
    yield ""


def _usage(card: Card) -> Iterator[str]:
    """Yield how to use the model: the code, its inputs and outputs, and the classes."""
    code, model = usage(card), card.preferred
    if code is None or model.contract is None or model.signature is None:
        return
    yield from (
        "## Use",
        "",
        "```sh",
        f"pip install {packages(card)}",
        "```",
        "",
        "```python",
        *code.rstrip("\n").split("\n"),
        "```",
        "",
    )
    named = [("input", one) for one in model.signature.inputs] + [("output", one) for one in model.signature.outputs]
    yield from _table(
        ["", "name", "type", "shape"], [[kind, one.name, one.dtype, str(list(one.shape))] for kind, one in named]
    )
    if model.preprocessing is not None and model.contract.picture is None and model.contract.text is None:
        yield from (f"Preprocessing of the inputs: `{model.preprocessing}`.", "")
    if model.contract.classes:
        listed = ", ".join(f"{place}: {name}" for place, name in enumerate(model.contract.classes[:LISTED]))
        more = len(model.contract.classes) - LISTED
        rest = f" and {more} more, which are in card.json" if more > 0 else ""
        what = "Classes" if model.contract.task in NAMED else "Values"
        yield from (escape(f"{what}: {listed}{rest}."), "")


def _summary(card: Card) -> str:
    origin = card.origin
    parameters = "" if origin.parameters is None else f", {origin.parameters:,} parameters"
    quantized = origin.quantized if origin.quantized == NOT_QUANTIZED else f"int8: {origin.quantized}"
    text = f"{origin.student}{parameters}, distilled from {origin.teacher}; {quantized}."
    gain = "" if origin.distillation is None else f" {origin.distillation}"
    return f"{text}{gain} Licence: {card.license or 'not stated'}."


def _data(card: Card) -> str:
    data = card.data
    outputs = find_task(data.task).describe_outputs(len(data.classes))
    without = f"{data.unlabelled} more for distillation without labels, " if data.unlabelled else ""
    split = f"{data.train} training, {without}{data.val} validation and {data.test} test samples"
    return f"{data.summary}, {outputs}; {split}; fingerprint {data.fingerprint}."


def _cells(m: Measurement, unit: formatting.Unit) -> list[str]:
    facts = m.device
    where = f"{m.target}: {facts.cpu}, {facts.os}" + (f", {facts.power_mode}" if facts.power_mode else "")
    return [
        where, f"{facts.engine.name} {facts.engine.version} ({m.kit})", m.precision.requested, str(m.threads),
        f"{unit.text(m.latency_ns.p50)}{_spread(m, unit)}",
        _or_why(m, "latency_ns.p95", None if m.latency_ns.p95 is None else unit.text(m.latency_ns.p95)),
        _or_why(m, "memory_bytes", None if m.memory_bytes is None else formatting.megabytes(m.memory_bytes.peak)),
        _energy(m), formatting.size(m.size_bytes), _accuracy(m),
    ]  # fmt: skip


def _spread(m: Measurement, unit: formatting.Unit) -> str:
    interval = m.latency_ns.ci95.get("p50")
    return "" if interval is None else f" [{unit.text(interval[0])}, {unit.text(interval[1])}]"


def _energy(m: Measurement) -> str:
    if m.energy_uj is None:
        return _or_why(m, "energy_uj", None)
    return f"{formatting.energy(m.energy_uj.per_inference)} ({m.energy_uj.provenance}: {m.energy_uj.source})"


def _accuracy(m: Measurement) -> str:
    if m.accuracy is None:
        return _or_why(m, "accuracy", None)
    low, high = (formatting.percent(end) for end in m.accuracy.ci95)
    return f"{formatting.percent(m.accuracy.value)} [{low}, {high}], n = {m.accuracy.n}"


def _or_why(m: Measurement, field: str, shown: str | None) -> str:
    return f"not measured: {m.reason_for(field)}" if shown is None else shown


def _versions(card: Card) -> str:
    named = ", ".join(f"{package} {version}" for package, version in card.versions.items())
    return f"edgedistill {card.edgedistill}; {named}. Card {card.sha256[:16]}, {card.created}."
