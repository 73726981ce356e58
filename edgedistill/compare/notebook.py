"""A comparison as plain text, and as HTML for a notebook, which brings its own style."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from rich.console import Console

from edgedistill.compare.comparison import Comparison, Group
from edgedistill.compare.notes import notes_of
from edgedistill.compare.rows import metric_of
from edgedistill.compare.table import COLUMNS, cells, render_table

WIDTH = 80


def to_text(comparison: Comparison) -> str:
    """Render the terminal's table without colour, 80 columns wide."""
    console = Console(width=WIDTH, no_color=True, force_terminal=False, legacy_windows=False, force_jupyter=False)
    with console.capture() as captured:
        console.print(render_table(comparison))
    return captured.get().rstrip()


def to_html(comparison: Comparison) -> str:
    """Render a table for each group, with its footnotes and its answer."""
    return "\n".join(line for group in comparison.groups for line in _lines(group))


def _lines(group: Group) -> Iterator[str]:
    notes = notes_of(group)
    heading = "".join(f"<th>{escape(column or metric_of(group.rows)[0])}</th>" for column in COLUMNS)
    yield f"<p><b>{escape(group.title)}</b></p>"
    yield f"<table><thead><tr>{heading}</tr></thead><tbody>"
    for row in group.rows:
        yield f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells(row, notes))}</tr>"
    yield "</tbody></table>"
    yield "".join(f"<div><small>{mark} {escape(text)}</small></div>" for mark, text in notes.listed())
    yield "".join(f"<p>{escape(text)}</p>" for text in group.answer.splitlines())
