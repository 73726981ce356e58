"""What commands print on stdout; heavy imports wait until there is something to print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgedistill.compare.comparison import Comparison
    from edgedistill.config import Budget
    from edgedistill.job import Job


def show_job(job: Job, *, as_json: bool) -> None:
    """Print what a pipeline made: the comparison where something was measured, else a line for each stage."""
    from edgedistill import processes

    if not processes.is_first():
        return
    if "bench" in job.results:
        show_run(job.run.folder, {target.name: target.budget for target in job.config.target}, as_json=as_json)
        if "report" in job.results and not as_json:
            click.echo(f"Report: {job.run.folder / 'report.html'}")
        return
    records = {name: record.model_dump(mode="json") for name, record in job.results.items()}
    if as_json:
        click.echo(json.dumps({"schema": "edgedistill.stages/1", "stages": records}, indent=2))
        return
    for name in records:
        click.echo(f"{name:12} done, in {job.run.folder}")


def show_run(folder: Path, budgets: dict[str, Budget], *, as_json: bool) -> None:
    """Print the comparison of a run's models."""
    from edgedistill.compare.comparison import summarise_run
    from edgedistill.compare.load import load_run

    print_comparison(summarise_run(load_run(folder), budgets), as_json=as_json)


def print_comparison(comparison: Comparison, *, as_json: bool) -> None:
    """Print a comparison as a table that fits the terminal, or as JSON."""
    from edgedistill.compare.comparison import to_json
    from edgedistill.compare.table import render_table

    if as_json:
        click.echo(to_json(comparison))
        return
    from rich.console import Console

    Console(highlight=False).print(render_table(comparison))
