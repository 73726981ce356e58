"""A comparison as Markdown, for the comment of a pull request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from edgedistill.compare.comparison import Comparison
from edgedistill.compare.detail_table import detail_tables
from edgedistill.compare.footnotes import footnotes_of
from edgedistill.compare.rows import Group
from edgedistill.compare.table import TEXTS, capitalised, cells, headings, hidden_in


def to_markdown(comparison: Comparison) -> str:
    """Write the warnings and gates first, then each group: its table, its footnotes, and the verdict of every row."""
    return "\n".join(_lines(comparison)) + "\n"


def _lines(comparison: Comparison) -> Iterator[str]:
    for finding in comparison.findings:
        yield from (f"**{escape(str(finding))}**", "")
    if comparison.gates:
        yield from ("| gate | model | outcome | value |", "|---|---|---|---|")
        for outcome in comparison.gates:
            model, value = escape(outcome.who), escape(outcome.found)
            yield table_row((f"`{outcome.gate}`", model, f"**{outcome.decision}**", value))
        yield ""
    for group in comparison.groups:
        yield from _group_lines(group)
    if comparison.left_out:
        yield from (f"Left out: {escape('; '.join(comparison.left_out))}", "")
    if comparison.advice is not None:
        sentence, command = comparison.advice.split(": ", 1)
        yield f"{escape(capitalised(sentence))}: `{command}`"


def _group_lines(group: Group) -> Iterator[str]:
    footnotes, titles = footnotes_of(group, hidden_in(group)), headings(group)
    rule = ["---"] * TEXTS + ["---:"] * (len(titles) - TEXTS)
    yield from (f"**{escape(group.title)}**", "", table_row(map(escape, titles)), table_row(rule))
    for row in cells(group, footnotes):
        yield table_row(map(escape, row))
    yield ""
    yield from _detail_lines(group)
    for text in group.answer.splitlines():
        yield f"- {escape(text)}"
    yield ""
    if listed := footnotes.listed():
        yield from ("<details><summary>Notes</summary>", "")
        for mark, text in listed:
            yield f"- {mark} {escape(text)}" if mark else f"- {escape(text)}"
        yield from ("", "</details>", "")


def _detail_lines(group: Group) -> Iterator[str]:
    for found in detail_tables(group):
        rule = ["---"] * TEXTS + ["---:"] * (len(found.headings) - TEXTS)
        yield from (table_row(map(escape, found.headings)), table_row(rule))
        yield from (table_row(map(escape, row)) for row in found.rows)
        yield from ("", escape(found.note), "")


def table_row(columns: Iterable[str]) -> str:
    """Write a line of a table from cells that are Markdown."""
    return f"| {' | '.join(columns)} |"


def escape(text: str) -> str:
    """Escape characters that Markdown would treat as markup; names are chosen by the user."""
    escaped = text.replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    for character in "|*_`[]~#":
        escaped = escaped.replace(character, f"\\{character}")
    return escaped
