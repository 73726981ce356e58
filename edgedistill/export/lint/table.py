"""Reports of the linter for people: a table that fits 80 columns on a terminal, a line for each finding in a log."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgedistill.export.lint.command import LintResult, Repair
from edgedistill.export.lint.report import Finding, Report, summary
from edgedistill.export.trt_check import TrtCheck

NODES_SHOWN = 3
STYLES = {"error": "bold red", "warning": "yellow"}


def print_result(result: LintResult, console: Console) -> None:
    """Print the repairs, the compiled precision of the layers, and each report, for kits that were not requested its errors."""
    name = result.model.name
    if result.repair is not None:
        _print_repair(result.repair, console)
    if result.compiler is not None and result.compiler.products:
        _print_products(name, result.compiler, console)
    for report in result.binding:
        if report in result.others:
            _print_errors(name, report, result.reports, console)
        else:
            _print_report(name, report, console)


def _print_errors(name: str, report: Report, earlier: tuple[Report, ...], console: Console) -> None:
    """Print the errors for a kit that was not requested, one line for each rule, without those of earlier reports."""
    known = {(one.rule, one.node) for other in earlier for one in other.findings}
    errors = [one for one in report.findings if one.severity == "error" and (one.rule, one.node) not in known]
    for rule, group in groupby(errors, key=lambda finding: finding.rule):
        first, *more = group
        count = f" and {len(more)} more" if more else ""
        console.print(Text(f"{name}: error {rule} at {first.node}{count}: {first.message}"), soft_wrap=True)
    fixes = f"; fixes: --target {report.kit}" if errors else ""
    console.print(Text(f"{name}: {summary(report)}{fixes}"), soft_wrap=True)


def _print_repair(repair: Repair, console: Console) -> None:
    done = [f"repaired: {text}" for text in repair.changes] + [f"not repaired: {text}" for text in repair.inexact]
    end = "nothing could be repaired exactly" if repair.file is None else f"{repair.file} written"
    for text in (*done, end):
        console.print(Text(text), soft_wrap=True)


def _print_products(name: str, check: TrtCheck, console: Console) -> None:
    """Print the compiled precision of each convolution and matrix product."""
    if not console.is_terminal:
        for one in check.products:
            text = f"{name}: {one.operator} {one.node}: {one.stored} in the file, {one.compiled or '?'} compiled"
            console.print(Text(text), soft_wrap=True)
        return
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    for column in (f"in {check.engine}", "operator", "in the file", "compiled"):
        table.add_column(column, overflow="fold")
    for one in check.products:
        wrong = one.stored == "int8" and one.compiled != "int8"
        style = STYLES["error"] if wrong else ""
        table.add_row(Text(one.node), Text(one.operator), Text(one.stored), Text(one.compiled or "?", style=style))
    console.print(table)


def _print_report(name: str, report: Report, console: Console) -> None:
    groups = [list(group) for _, group in groupby(report.findings, key=lambda finding: finding.rule)]
    if console.is_terminal and groups:
        console.print(_table(groups))
    elif groups:
        for line in _lines(name, groups):
            console.print(Text(line), soft_wrap=True)
    console.print(Text(f"{name}: {summary(report)}"), soft_wrap=True)


def _lines(name: str, groups: list[list[Finding]]) -> Iterator[str]:
    """Yield a line for each finding and, after the findings of a rule, the fix and the source."""
    for group in groups:
        for one in group:
            yield f"{name}: {one.severity} {one.rule} at {one.node}: {one.message}"
        yield f"{name}: {group[0].rule}: fix: {group[0].fix}. Source: {group[0].source}"


def _table(groups: list[list[Finding]]) -> Table:
    """Return one row for each rule."""
    table = Table(box=None, padding=(0, 1, 1, 0), header_style="bold", pad_edge=False)
    for column in ("", "rule", "finding and fix"):
        table.add_column(column, overflow="fold")
    for group in groups:
        first, nodes = group[0], [finding.node for finding in group]
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
