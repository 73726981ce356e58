"""A comparison as plain text, and as HTML for a notebook, which has its own style."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from rich.console import Console

from edgedistill.compare.detail_table import detail_tables
from edgedistill.compare.footnotes import footnotes_of
from edgedistill.compare.rows import Group
from edgedistill.compare.table import capitalised, cells, headings, hidden_in, render_table
from edgedistill.records.finding import Finding

WIDTH = 80


def to_text(
    groups: Sequence[Group], left_out: Sequence[str], findings: Sequence[Finding] = (), advice: str | None = None
) -> str:
    """Render the terminal's table without colour, 80 columns wide."""
    console = Console(width=WIDTH, no_color=True, force_terminal=False, legacy_windows=False, force_jupyter=False)
    with console.capture() as captured:
        console.print(render_table(groups, left_out, findings, advice))
    return captured.get().rstrip()


def to_html(groups: Sequence[Group], advice: str | None = None) -> str:
    """Render a table for each group, with its footnotes and its answer, and what would decide."""
    lines = [line for group in groups for line in _lines(group)]
    return "\n".join([*lines, *([] if advice is None else [f"<p>{escape(capitalised(advice))}</p>"])])


def _lines(group: Group) -> Iterator[str]:
    footnotes = footnotes_of(group, hidden_in(group))
    heading = "".join(f"<th>{escape(text)}</th>" for text in headings(group))
    yield f"<p><b>{escape(group.title)}</b></p>"
    yield f"<table><thead><tr>{heading}</tr></thead><tbody>"
    for row in cells(group, footnotes):
        yield f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
    yield "</tbody></table>"
    for details in detail_tables(group):
        heading = "".join(f"<th>{escape(text)}</th>" for text in details.headings)
        rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in details.rows)
        yield f"<table><thead><tr>{heading}</tr></thead><tbody>{rows}</tbody></table><div><small>{escape(details.note)}</small></div>"
    yield "".join(f"<div><small>{mark} {escape(text)}</small></div>" for mark, text in footnotes.listed())
    yield "".join(f"<p>{escape(text)}</p>" for text in group.answer.splitlines())
