"""A comparison as Markdown, for a pull request's comment."""

from __future__ import annotations

from collections.abc import Iterator

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
            shown = (f"`{outcome.gate}`", outcome.candidate, f"**{outcome.decision}**", outcome.found)
            yield _row(shown)
        yield ""
    for group in comparison.groups:
        yield from _group_lines(group)
    if comparison.left_out:
        yield f"Left out: {_plain('; '.join(comparison.left_out))}"


def _group_lines(group: Group) -> Iterator[str]:
    notes = notes_of(group)
    headings = [column or metric_of(group.rows)[0] for column in COLUMNS]
    yield from (f"**{_plain(group.title)}**", "", _row(headings), _row(["---"] * 2 + ["---:"] * (len(headings) - 2)))
    for row in group.rows:
        yield _row(cells(row, notes))
    yield ""
    for text in group.answer.splitlines():
        yield f"- {_plain(text)}"
    yield ""
    if listed := notes.listed():
        yield from ("<details><summary>Notes</summary>", "")
        for mark, text in listed:
            yield f"- {mark} {_plain(text)}"
        yield from ("", "</details>", "")


def _row(found: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(_cell(text) for text in found)} |"


def _cell(text: str) -> str:
    return text if text.startswith(("`", "**", "---")) else _plain(text)


def _plain(text: str) -> str:
    """Escape what Markdown would take for markup: names are the user's."""
    escaped = text.replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    for character in "|*_`[]~#":
        escaped = escaped.replace(character, f"\\{character}")
    return escaped
