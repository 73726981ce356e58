"""A comparison as a table for the terminal: 80 columns wide, and readable without colour."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

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

TEXTS = 2
"""The columns at the left that hold text."""


class Column(NamedTuple):
    """A column of the table: its heading with its unit, the key of its footnotes, and what it shows of a row."""

    heading: str
    cell: str
    show: Callable[[Row], str]


def render_table(
    groups: Sequence[Group], left_out: Sequence[str], findings: Sequence[Finding] = (), advice: str | None = None
) -> Stack:
    """Render the warnings, the rows, the footnotes and the answer of every group, what was left out, and what would decide."""
    parts: list[Text | Padding | Table] = [Text(str(one), style="bold") for one in findings]
    for group in groups:
        footnotes = footnotes_of(group, hidden_in(group))
        parts += [Text(group.title, style="bold"), _table(group, footnotes), *_details(group)]
        parts += [
            Padding(Text(f"{mark} {text}{_where(text, footnotes)}".lstrip(), style="dim"), (0, 0, 0, 2), expand=False)
            for mark, text in footnotes.listed()
        ]
        parts += [Text(group.answer), Text()]
    if left_out:
        parts.append(Text("Left out: " + "; ".join(left_out), style="dim"))
    if advice is not None:
        parts.append(Text(capitalised(advice)))
    return Stack(*parts)


def _where(text: str, footnotes: Footnotes) -> str:
    """Return the command that prints the details of a footnote that has some."""
    return "; details: edgedistill compare RUN --details" if text == footnotes.shaky else ""


def capitalised(sentence: str) -> str:
    """Return a sentence with a capital as its first letter."""
    return sentence[:1].upper() + sentence[1:]


def columns(group: Group) -> list[Column]:
    """Return the columns of a group, each in one unit; without energy where no model has it."""
    rows = [row.measurement for row in group.rows]
    time = formatting.time_unit(m.latency_ns.p50 for m in rows)
    size = formatting.size_unit(m.size_bytes for m in rows)
    energy = formatting.energy_unit(m.energy_uj.per_inference for m in rows if m.energy_uj is not None)
    found = [
        Column("model", "label", lambda row: row.label.removesuffix(f" {row.measurement.precision.requested}")),
        Column("precision", "precision", lambda row: describe_precision(row.measurement)),
        Column(metric_of(group.rows)[0], "accuracy", lambda row: _accuracy(row.measurement)),
        Column(f"size {size.name}", "size_bytes", lambda row: size.text(row.measurement.size_bytes)),
        Column(f"p50 {time.name}", "latency_ns.p50", lambda row: time.text(row.measurement.latency_ns.p50)),
        Column(f"p95 {time.name}", "latency_ns.p95", lambda row: _known(row.measurement.latency_ns.p95, time)),
        Column("mem. MB", "memory_bytes", lambda row: _memory(row.measurement)),
        Column(f"energy {energy.name}", "energy_uj", lambda row: _energy(row.measurement, energy)),
        Column("speedup", "speedup", _speedup),
    ]  # fmt: skip
    return [one for one in found if one.cell not in hidden_in(group)]


def hidden_in(group: Group) -> tuple[str, ...]:
    """Return the keys of columns that are left out, because no row of a group has a value."""
    rows = [row.measurement for row in group.rows]
    values: dict[str, list[object]] = {
        "accuracy": [m.accuracy for m in rows], "memory_bytes": [m.memory_bytes for m in rows],
        "energy_uj": [m.energy_uj for m in rows],
    }  # fmt: skip
    return tuple(cell for cell, found in values.items() if all(value is None for value in found))


def headings(group: Group) -> list[str]:
    """Return the headings of a group's columns."""
    return [column.heading for column in columns(group)]


def cells(group: Group, footnotes: Footnotes) -> list[list[str]]:
    """Return the rows of a group as text, each cell with the marks of its footnotes."""
    return [[column.show(row) + footnotes.marks(row, column.cell) for column in columns(group)] for row in group.rows]


def _table(group: Group, footnotes: Footnotes) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    for place, heading in enumerate(headings(group)):
        is_text = place < TEXTS
        table.add_column(heading, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
    for row in cells(group, footnotes):
        table.add_row(*(Text(cell) for cell in row))
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


def _known(value: float | None, unit: formatting.Unit) -> str:
    return formatting.DASH if value is None else unit.text(value)


def _memory(m: Measurement) -> str:
    return formatting.DASH if m.memory_bytes is None else formatting.megabytes(m.memory_bytes.peak)


def _accuracy(m: Measurement) -> str:
    if m.accuracy is None:
        return formatting.DASH
    value, (low, high) = m.accuracy.value, m.accuracy.ci95
    return f"{formatting.percent(value)}±{formatting.percent(max(high - value, value - low))}"


def _energy(m: Measurement, unit: formatting.Unit) -> str:
    if m.energy_uj is None:
        return formatting.DASH
    text = unit.text(m.energy_uj.per_inference)
    return f"~{text}" if m.energy_uj.provenance == "estimated" else text


def _speedup(row: Row) -> str:
    if row.is_baseline:
        return "base"
    return formatting.DASH if row.speedup is None else formatting.times(row.speedup.value)
