"""The command that compares; only click is imported, so that `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgedistill.cli.options import FILE
from edgedistill.cli.output import print_comparison, show_outcomes
from edgedistill.errors import ConfigError

if TYPE_CHECKING:
    from edgedistill.compare.comparison import Comparison
    from edgedistill.compare.load import ResultSet
    from edgedistill.config.gates import Gate


@click.command()
@click.argument("baseline", type=FILE)
@click.argument("candidates", type=FILE, nargs=-1)
@click.option("--fail-if", "texts", multiple=True, metavar="EXPR",
              help="A gate, e.g. 'p95_ms > +5%' or 'accuracy < -0.5'; may be given several times.")  # fmt: skip
@click.option("--config", type=FILE, metavar="CONFIG", help="Take the gates of this configuration's [gate] too.")
@click.option("--json", "form", flag_value="json", help="Print the comparison as JSON.")
@click.option("--markdown", "form", flag_value="markdown", help="Print it as Markdown, for a pull request.")
@click.option("--html", type=FILE, metavar="FILE", help="Write it as one HTML file, with plots.")
@click.option("--junit", type=FILE, metavar="FILE", help="Write the outcomes of the gates as JUnit XML.")
def compare(*, baseline: Path, candidates: tuple[Path, ...], form: str | None, **options: Any) -> None:
    """Set runs, or measurement files, against a BASELINE. A run alone is set against its teacher.

    With gates, exit code 3 says that one failed, and 6 that one could not be decided.
    """
    from edgedistill.compare.load import load_results
    from edgedistill.gates.judge import judge, require_passed

    gates, html, junit = _gates(options["texts"], options["config"]), options["html"], options["junit"]
    if junit is not None and not gates:
        raise ConfigError("--junit writes the outcomes of gates; name one with --fail-if, such as 'p95_ms > +5%'")
    sets = load_results((baseline, *candidates))
    comparison = judge(_compared(sets, gates), gates)
    print_comparison(comparison, form)
    show_outcomes(comparison.gates, form)
    if html is not None:
        from edgedistill.report.report import render_comparison
        from edgedistill.runtime.files import write_atomic

        write_atomic(html, render_comparison(comparison, sets))
        click.echo(f"Report: {html}", err=form is not None)
    if junit is not None:
        from edgedistill.gates.junit import to_junit
        from edgedistill.runtime.files import write_atomic

        write_atomic(junit, to_junit(comparison))
    require_passed(comparison.gates)


def _gates(texts: tuple[str, ...], config: Path | None) -> tuple[Gate, ...]:
    from edgedistill.config.gates import parse_gate
    from edgedistill.config.load import load_config

    configured = () if config is None else load_config(config).gate.gates
    if config is not None and not configured:
        raise ConfigError(f'{config}: no gates in it; for example [gate] and fail_if = ["p95_ms > +5%"]')
    return (*configured, *(parse_gate(text) for text in texts))


def _compared(sets: tuple[ResultSet, ...], gates: tuple[Gate, ...]) -> Comparison:
    """Pair what was measured on one device; without gates, runs of different devices stand side by side."""
    from edgedistill.compare.comparison import compare_runs, have_counterparts, side_by_side, summarise_run

    first, *others = sets
    if not others:
        return summarise_run(first)
    return compare_runs(first, others) if gates or have_counterparts(sets) else side_by_side(sets)
