"""A comparison as a terminal table that fits 80 columns and needs no colour to be understood."""

from __future__ import annotations

from rich.console import Group as Stack
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from edgedistill.compare import figures
from edgedistill.compare.comparison import Comparison, Group
from edgedistill.compare.notes import Notes, notes_of, precision
from edgedistill.compare.rows import Row, metric_of
from edgedistill.records.measurement import Measurement

COLUMNS = ("model", "precision", "", "size", "p50 ms", "p95 ms", "mem. MB", "energy", "speedup")


def render_table(comparison: Comparison) -> Stack:
    """Render every group: its answer, its rows, and a footnote for each thing that is not what it seems."""
    parts: list[Text | Padding | Table] = []
    for group in comparison.groups:
        notes = notes_of(group)
        parts += [Text(group.title, style="bold"), _table(group, notes)]
        parts += [
            Padding(Text(f"{mark} {text}", style="dim"), (0, 0, 0, 2), expand=False) for mark, text in notes.listed()
        ]
        parts += [Text(group.answer), Text()]
    if comparison.left_out:
        parts.append(Text("Left out: " + "; ".join(comparison.left_out), style="dim"))
    return Stack(*parts)


def _table(group: Group, notes: Notes) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    for column in COLUMNS:
        is_text = column in COLUMNS[:2]
        table.add_column(
            column or metric_of(group.rows)[0],
            justify="left" if is_text else "right",
            overflow="fold",
            no_wrap=not is_text,
        )
    for row in group.rows:
        table.add_row(*(Text(cell) for cell in cells(row, notes)))
    return table


def cells(row: Row, notes: Notes) -> list[str]:
    """Write a row's cells, in the order of COLUMNS, each with the marks of its footnotes."""
    m = row.measurement
    p95 = figures.NONE if m.latency_ns.p95 is None else figures.milliseconds(m.latency_ns.p95)
    memory = figures.NONE if m.memory_bytes is None else figures.megabytes(m.memory_bytes.peak)
    energy = figures.NONE if m.energy_uj is None else figures.energy(m.energy_uj.per_inference)
    energy = f"~{energy}" if m.energy_uj is not None and m.energy_uj.provenance == "estimated" else energy
    name = row.label.removesuffix(f" {m.precision.requested}")
    return [
        name + notes.marks(row, "label"),
        precision(m) + notes.marks(row, "precision"),
        _accuracy(m) + notes.marks(row, "accuracy"),
        figures.size(m.size_bytes),
        figures.milliseconds(m.latency_ns.p50),
        p95 + notes.marks(row, "latency_ns.p95"),
        memory + notes.marks(row, "memory_bytes"),
        energy + notes.marks(row, "energy_uj"),
        _speedup(row) + notes.marks(row, "speedup"),
    ]


def _accuracy(m: Measurement) -> str:
    if m.accuracy is None:
        return figures.NONE
    value, (low, high) = m.accuracy.value, m.accuracy.ci95
    return f"{figures.percent(value)}±{figures.percent(max(high - value, value - low))}"


def _speedup(row: Row) -> str:
    if row.is_baseline:
        return "base"
    if row.speedup is None:
        return figures.NONE
    return figures.times(row.speedup.value)
