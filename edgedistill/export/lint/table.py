"""Reports of the linter for people: a table that fits 80 columns on a terminal, a line for each finding in a log."""

from __future__ import annotations

from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgedistill.export.lint.report import Finding, Report

NODES_SHOWN = 3
STYLES = {"error": "bold red", "warning": "yellow"}


def print_report(name: str, report: Report, console: Console) -> None:
    """Print what was found in the model `name`, as the console asks for it."""
    if not console.is_terminal:
        for finding in report.findings:
            console.print(Text(_line(name, finding)), soft_wrap=True)
    elif report.findings:
        console.print(_table(report.findings))
    console.print(Text(summary(name, report)), soft_wrap=not console.is_terminal)


def summary(name: str, report: Report) -> str:
    """Return the result in one line."""
    whom = "every engine" if report.kit is None else f"{report.kit} on {report.arch}"
    if not report.findings:
        return f"{name}: clean for {whom}"
    return f"{name}: {_count(report.errors, 'error')}, {_count(report.warnings, 'warning')} for {whom}"


def _line(name: str, finding: Finding) -> str:
    return (
        f"{name}: {finding.severity} {finding.rule} at {finding.node}: {finding.message}. "
        f"Fix: {finding.fix}. Source: {finding.source}"
    )


def _table(findings: tuple[Finding, ...]) -> Table:
    """Return one row for each rule; findings come in the order of the rules."""
    table = Table(box=None, padding=(0, 1, 1, 0), header_style="bold", pad_edge=False)
    for column in ("", "rule", "what, and what to do"):
        table.add_column(column, overflow="fold")
    for _, group in groupby(findings, key=lambda finding: finding.rule):
        first, *others = list(group)
        nodes = [finding.node for finding in (first, *others)]
        more = f" and {len(nodes) - NODES_SHOWN} more" if len(nodes) > NODES_SHOWN else ""
        what = Text("\n").join(
            [
                Text(f"{', '.join(nodes[:NODES_SHOWN])}{more}"),
                Text(first.message),
                Text(f"Fix: {first.fix}"),
                Text(f"Source: {first.source}", style="dim"),
            ]
        )
        table.add_row(Text(first.severity, style=STYLES[first.severity]), Text(first.rule), what)
    return table


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
