"""A comparison as a table for the terminal: 80 columns wide, and readable without colour."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group as Stack
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from edgedistill.compare import formatting
from edgedistill.compare.detail_table import detail_tables
from edgedistill.compare.footnotes import Footnotes, describe_precision, footnotes_of
from edgedistill.compare.rows import Group, Row, metric_of
from edgedistill.records.finding import Finding
from edgedistill.records.measurement import Measurement

METRIC = ""
"""Stands in COLUMNS for the column whose heading is the metric of the rows."""
COLUMNS = ("model", "precision", METRIC, "size", "p50 ms", "p95 ms", "mem. MB", "energy", "speedup")


def render_table(
    groups: Sequence[Group], left_out: Sequence[str], findings: Sequence[Finding] = (), advice: str | None = None
) -> Stack:
    """Render the warnings, the rows, the footnotes and the answer of every group, what was left out, and what would decide."""
    parts: list[Text | Padding | Table] = [Text(str(one), style="bold") for one in findings]
    for group in groups:
        footnotes = footnotes_of(group)
        parts += [Text(group.title, style="bold"), _table(group, footnotes), *_details(group)]
        parts += [
            Padding(Text(f"{mark} {text}", style="dim"), (0, 0, 0, 2), expand=False)
            for mark, text in footnotes.listed()
        ]
        parts += [Text(group.answer), Text()]
    if left_out:
        parts.append(Text("Left out: " + "; ".join(left_out), style="dim"))
    if advice is not None:
        parts.append(Text(capitalised(advice)))
    return Stack(*parts)


def capitalised(sentence: str) -> str:
    """Return a sentence with a capital as its first letter."""
    return sentence[:1].upper() + sentence[1:]


def headings(group: Group) -> list[str]:
    """Return the headings of a group's columns, in the order of COLUMNS."""
    return [metric_of(group.rows)[0] if column == METRIC else column for column in COLUMNS]


def _table(group: Group, footnotes: Footnotes) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    for column, heading in zip(COLUMNS, headings(group), strict=True):
        is_text = column in COLUMNS[:2]
        table.add_column(heading, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
    for row in group.rows:
        table.add_row(*(Text(cell) for cell in cells(row, footnotes)))
    return table


def _details(group: Group) -> list[Table | Text | Padding]:
    """Return the tables of details, each with its note; empty where no model has details."""
    parts: list[Table | Text | Padding] = []
    for found in detail_tables(group):
        table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
        for place, heading in enumerate(found.headings):
            table.add_column(heading, justify="left" if place < 2 else "right")
        for cells_of_row in found.rows:
            table.add_row(*(Text(cell) for cell in cells_of_row))
        parts += [Text(), table, Padding(Text(found.note, style="dim"), (0, 0, 0, 2), expand=False)]
    return parts


def cells(row: Row, footnotes: Footnotes) -> list[str]:
    """Return the cells of a row with the marks of their footnotes, in the order of COLUMNS."""
    m = row.measurement
    p95 = formatting.DASH if m.latency_ns.p95 is None else formatting.milliseconds(m.latency_ns.p95)
    memory = formatting.DASH if m.memory_bytes is None else formatting.megabytes(m.memory_bytes.peak)
    name = row.label.removesuffix(f" {m.precision.requested}")
    return [
        name + footnotes.marks(row, "label"),
        describe_precision(m) + footnotes.marks(row, "precision"),
        _accuracy(m) + footnotes.marks(row, "accuracy"),
        formatting.size(m.size_bytes),
        formatting.milliseconds(m.latency_ns.p50),
        p95 + footnotes.marks(row, "latency_ns.p95"),
        memory + footnotes.marks(row, "memory_bytes"),
        _energy(m) + footnotes.marks(row, "energy_uj"),
        _speedup(row) + footnotes.marks(row, "speedup"),
    ]


def _accuracy(m: Measurement) -> str:
    if m.accuracy is None:
        return formatting.DASH
    value, (low, high) = m.accuracy.value, m.accuracy.ci95
    return f"{formatting.percent(value)}±{formatting.percent(max(high - value, value - low))}"


def _energy(m: Measurement) -> str:
    if m.energy_uj is None:
        return formatting.DASH
    text = formatting.energy(m.energy_uj.per_inference)
    return f"~{text}" if m.energy_uj.provenance == "estimated" else text


def _speedup(row: Row) -> str:
    if row.is_baseline:
        return "base"
    return formatting.DASH if row.speedup is None else formatting.times(row.speedup.value)
