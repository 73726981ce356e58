"""A comparison as Markdown, for a pull request's comment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgedistill.compare.comparison import Comparison, Group
from edgedistill.compare.notes import notes_of
from edgedistill.compare.rows import metric_of
from edgedistill.compare.table import COLUMNS, cells


def to_markdown(comparison: Comparison) -> str:
    """Write the gates first, then each group: its table, its footnotes, and the verdict of every row."""
    return "\n".join(_lines(comparison)) + "\n"


def _lines(comparison: Comparison) -> Iterator[str]:
    if comparison.gates:
        yield from ("| gate | model | outcome | found |", "|---|---|---|---|")
        for outcome in comparison.gates:
            named, found = plain(outcome.candidate), plain(outcome.found)
            yield row((f"`{outcome.gate}`", named, f"**{outcome.decision}**", found))
        yield ""
    for group in comparison.groups:
        yield from _group_lines(group)
    if comparison.left_out:
        yield f"Left out: {plain('; '.join(comparison.left_out))}"


def _group_lines(group: Group) -> Iterator[str]:
    notes = notes_of(group)
    headings = [plain(column or metric_of(group.rows)[0]) for column in COLUMNS]
    yield from (f"**{plain(group.title)}**", "", row(headings), row(["---"] * 2 + ["---:"] * (len(headings) - 2)))
    for one in group.rows:
        yield row([plain(cell) for cell in cells(one, notes)])
    yield ""
    for text in group.answer.splitlines():
        yield f"- {plain(text)}"
    yield ""
    if listed := notes.listed():
        yield from ("<details><summary>Notes</summary>", "")
        for mark, text in listed:
            yield f"- {mark} {plain(text)}"
        yield from ("", "</details>", "")


def row(found: Sequence[str]) -> str:
    """Write a line of a table, of cells that are Markdown."""
    return f"| {' | '.join(found)} |"


def plain(text: str) -> str:
    """Escape what Markdown would take for markup: names are the user's."""
    escaped = text.replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    for character in "|*_`[]~#":
        escaped = escaped.replace(character, f"\\{character}")
    return escaped
