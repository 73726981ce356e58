"""Print the results of commands; heavy imports wait until there is something to print."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from edgedistill.cli.options import command_line
from edgedistill.records.stage_names import BENCH

if TYPE_CHECKING:
    from rich.table import Table

    from edgedistill.compare.comparison import Comparison, GateOutcome
    from edgedistill.pipeline.doctor import Diagnosis
    from edgedistill.pipeline.estimates import Estimate
    from edgedistill.pipeline.pipeline import Pipeline, Step


def show_pipeline(pipeline: Pipeline, *, as_json: bool) -> None:
    """Print the results of a run: the comparison if something was measured, otherwise a line per stage."""
    from edgedistill.records.stages import BenchRecord
    from edgedistill.runtime import processes

    if not processes.is_main_process():
        return
    if pipeline.records.get(BenchRecord) is not None:
        _show_measured(pipeline, as_json=as_json)
        return
    records = {name: record.model_dump(mode="json") for name, record in pipeline.records.made.items()}
    if as_json:
        click.echo(json.dumps({"schema": "edgedistill.stages/1", "stages": records}, indent=2))
        return
    for name in records:
        click.echo(f"{name:12} done, in {pipeline.run.folder}")
    _show_gain(pipeline)


def _show_gain(pipeline: Pipeline) -> None:
    """Print what the teacher and the start of the student were worth, if the run has scored its controls."""
    from edgedistill.compare.provenance import control_gain
    from edgedistill.records.stages import DataRecord, ExportRecord, StudentRecord

    records = pipeline.records
    export = records.get(ExportRecord)
    gain = None if export is None else control_gain(records.get(StudentRecord), export, records.get(DataRecord))
    if gain is not None:
        click.echo(gain)


def show_plan(steps: Sequence[Step], *, as_json: bool) -> None:
    """Print the plan of a run: for each stage whether it is done, why it would run, and how long it took last time."""
    if as_json:
        found = [asdict(step) for step in steps]
        click.echo(json.dumps({"schema": "edgedistill.plan/1", "stages": found}, indent=2))
        return
    for step in steps:
        took = "" if step.seconds is None else f"{step.seconds:.1f} s last time"
        click.echo(f"{step.stage:12} {'done' if step.cached else 'to run':7} {took:20} {step.why or ''}".rstrip())
    to_run = [step for step in steps if not step.cached]
    known = [step.seconds for step in to_run if step.seconds is not None]
    if known:
        new = f"; {len(to_run) - len(known)} more stages have not run before" if len(known) < len(to_run) else ""
        click.echo(f"the stages to run took about {sum(known):.0f} s last time{new}")


def show_diagnosis(diagnosis: Diagnosis) -> None:
    """Print what was found, errors first, and a table of what each stage will take."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from edgedistill.runtime.progress import in_words

    console = Console(highlight=False)
    found = Table.grid(padding=(0, 1))
    for one in diagnosis.findings:
        style = {"error": "red", "warning": "yellow"}.get(one.severity)
        found.add_row(one.severity, escape(f"{one.subject}: {one.text}"), style=style)
    console.print(found if diagnosis.findings else "no problems found")
    if diagnosis.errors and all(one.seconds is None for one in diagnosis.stages):
        console.print("\nno estimates: correct the errors first")
        return
    console.print()
    console.print(_stages_table(diagnosis.stages))
    known = [one.seconds for one in diagnosis.stages if one.seconds is not None]
    if any(not one.cached for one in diagnosis.stages) and known:
        more = " without the stages that have no figure" if any(one.seconds is None for one in diagnosis.stages) else ""
        console.print(f"total: about {in_words(sum(known))}{more}; this check took {in_words(diagnosis.seconds)}")


def _stages_table(stages: Sequence[Estimate]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    from edgedistill.compare.formatting import DASH, size
    from edgedistill.runtime.progress import in_words

    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    for name in ("stage", "", "about", "last run", "disk", "memory"):
        table.add_column(name, justify="left" if name in ("stage", "") else "right", no_wrap=True)
    table.add_column("from")
    for one in stages:
        if one.cached:
            last = "" if one.last_seconds is None else in_words(one.last_seconds)
            table.add_row(one.stage, "cached", "", last, "", "", "")
            continue
        about, last = (DASH if value is None else in_words(value) for value in (one.seconds, one.last_seconds))
        bytes_ = (DASH if value is None else size(value) for value in (one.disk_bytes, one.memory_bytes))
        table.add_row(one.stage, "to run", about, last, *bytes_, escape(one.basis or one.reasons.get("seconds", "")))
    return table


def _show_measured(pipeline: Pipeline, *, as_json: bool) -> None:
    """Print the comparison of a run's models and the outcomes of the configuration's gates."""
    from edgedistill.gates.evaluate import compare_run, require_passed
    from edgedistill.records.stages import ReportRecord

    gates, baseline = pipeline.config.gate.gates, pipeline.config.gate_baseline
    comparison, form = (
        compare_run(pipeline.run.folder, pipeline.config.budgets, gates, baseline),
        "json" if as_json else None,
    )
    print_comparison(comparison, form)
    if not as_json:
        _show_gain(pipeline)
    show_outcomes(comparison.gates, form)
    if not as_json:
        if pipeline.records.get(ReportRecord) is not None:
            click.echo(f"Report: {pipeline.run.folder / 'report.html'}")
        for line in _repeat_lines(comparison, is_new=BENCH in pipeline.executed):
            click.echo(line)
    require_passed(comparison.gates)


def _repeat_lines(comparison: Comparison, *, is_new: bool) -> Iterator[str]:
    """Yield when figures were measured, if not now, and the command that measures them again, if they are old or shaky."""
    from edgedistill.compare.footnotes import shaky_line

    own = [group for group in comparison.groups if not group.is_visitor]
    times = sorted(row.measurement.created for group in own for row in group.rows)
    again = f"{shlex.join(command_line(click.get_current_context(), '--from'))} --from {BENCH}"
    if times and not is_new:
        yield f"Measured {times[0][:10]} {times[0][11:16]} UTC, not now. To measure again: {again}"
    elif any(shaky_line(group) is not None for group in own):
        yield f"To measure again, on an idle machine: {again}"


def print_comparison(comparison: Comparison, form: str | None = None) -> None:
    """Print a comparison as a table of the terminal's width, as "json" or as "markdown"."""
    from edgedistill.compare.comparison import to_json
    from edgedistill.compare.markdown import to_markdown
    from edgedistill.compare.table import render_table

    if form is not None:
        click.echo({"json": to_json, "markdown": to_markdown}[form](comparison).rstrip("\n"))
        return
    from rich.console import Console

    table = render_table(comparison.groups, comparison.left_out, comparison.findings, comparison.advice)
    Console(highlight=False).print(table)


def show_doubts(comparison: Comparison) -> None:
    """Print what disturbed each model, a line for each doubt."""
    from edgedistill.compare.footnotes import doubts

    for group in comparison.groups:
        for row in group.rows:
            for text in doubts(row.measurement):
                click.echo(f"{group.target}, {row.label}: {text}")


def show_outcomes(outcomes: Sequence[GateOutcome], form: str | None) -> None:
    """Print a line per gate; on stderr if stdout is JSON or Markdown."""
    from edgedistill.gates.evaluate import log_line

    for outcome in outcomes:
        click.echo(log_line(outcome), err=form is not None)
