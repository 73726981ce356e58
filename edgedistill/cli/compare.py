"""The command `compare`; heavy imports wait until it runs, so that `--help` is fast."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from edgedistill.cli.options import AS_JSON, FILE, Command, Condition, option
from edgedistill.cli.output import print_comparison, show_outcomes
from edgedistill.errors import ConfigError

if TYPE_CHECKING:
    from edgedistill.compare.comparison import Comparison
    from edgedistill.compare.load import MeasurementSet
    from edgedistill.config.gates import Gate

NOT_JSON: Final = Condition("without --json", lambda given: not given["as_json"])
GATES: Final = Condition("with gates", lambda given: bool(given["texts"] or given["config"]))


@click.command(cls=Command)
@click.argument("baseline", type=FILE)
@click.argument("candidates", type=FILE, nargs=-1)
@option("--fail-if", "texts", multiple=True, metavar="EXPR",
        help="A gate, e.g. 'p95_ms > +5%' or 'accuracy < -0.5'. Repeatable.")  # fmt: skip
@option("--config", type=FILE, metavar="CONFIG", help="Also check the gates in [gate] of this configuration.")
@AS_JSON
@option("--markdown", is_flag=True, help="Print the comparison as Markdown, for a pull request.",
        only={NOT_JSON: "remove one of the two"})  # fmt: skip
@option("--html", type=FILE, metavar="FILE", help="Write the comparison as one HTML file with plots.")
@option("--junit", type=FILE, metavar="FILE", help="Write the outcomes of the gates as JUnit XML.",
        only={GATES: "add a gate with --fail-if, for example 'p95_ms > +5%'"})  # fmt: skip
def compare(*, baseline: Path, candidates: tuple[Path, ...], **options: Any) -> None:
    """Compare run folders or measurement files with a BASELINE.

    A single run is compared with its teacher.

    Exit code 3: a gate failed. Exit code 6: a gate could not be decided.
    """
    from edgedistill.compare.load import load_results
    from edgedistill.gates.evaluate import apply_gates, require_passed

    form = "json" if options["as_json"] else "markdown" if options["markdown"] else None
    gates, html, junit = _gates(options["texts"], options["config"]), options["html"], options["junit"]
    sets = load_results((baseline, *candidates))
    comparison = apply_gates(_compared(sets, gates), gates)
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
        raise ConfigError(f'{config}: no gates; add for example [gate] with fail_if = ["p95_ms > +5%"]')
    return (*configured, *(parse_gate(text) for text in texts))


def _compared(sets: tuple[MeasurementSet, ...], gates: tuple[Gate, ...]) -> Comparison:
    """Compare results of the same device; without gates, list results of different devices side by side."""
    from edgedistill.compare.comparison import compare_runs, have_counterparts, side_by_side, summarise_run

    first, *others = sets
    if not others:
        return summarise_run(first)
    return compare_runs(first, others) if gates or have_counterparts(sets) else side_by_side(sets)
