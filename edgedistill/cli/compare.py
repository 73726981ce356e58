"""The command `compare`; heavy imports wait until it runs, so that `--help` is fast."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from edgedistill.cli.file import PROCESSES, SECONDS
from edgedistill.cli.options import AS_JSON, FILE, Command, Condition, option, surroundings
from edgedistill.cli.output import print_comparison, show_doubts, show_outcomes
from edgedistill.errors import ConfigError

if TYPE_CHECKING:
    from edgedistill.compare.comparison import Comparison
    from edgedistill.compare.load import MeasurementSet
    from edgedistill.config.gates import Gate

NOT_JSON: Final = Condition("without --json", lambda given: not given["as_json"])
AGAIN: Final = Condition("with --again", lambda given: bool(given["again"]))
GATES: Final = Condition("with gates", lambda given: bool(given["texts"] or given["config"]))


@click.command(cls=Command)
@click.argument("baseline", type=FILE)
@click.argument("candidates", type=FILE, nargs=-1)
@option("--fail-if", "texts", multiple=True, metavar="EXPR",
        help="A gate, e.g. 'p95_ms > +5%' or 'accuracy < -0.5'. Repeatable.")  # fmt: skip
@option("--config", type=FILE, metavar="CONFIG", help="Also check the gates in [gate] of this configuration.")
@option("--phones", is_flag=True, help="Also check the gates on phones and other devices that opened the page.",
        only={GATES: "add a gate with --fail-if, for example 'p95_ms > +5%'"})  # fmt: skip
@option("--details", is_flag=True, help="Also print what disturbed each measurement.",
        only={NOT_JSON: "remove it: the JSON has all details"})  # fmt: skip
@option(
    "--again", is_flag=True, help="Measure BASELINE and CANDIDATES again, in turns on their device, BASELINE twice."
)
@option("--processes", metavar="N", type=click.IntRange(1), default=PROCESSES, show_default=True,
        help="Fresh processes per model.", only={AGAIN: "add --again, or remove it"})  # fmt: skip
@option("--seconds", metavar="S", type=click.FloatRange(0, min_open=True), default=SECONDS, show_default=True,
        help="Seconds of inference per process.", only={AGAIN: "add --again, or remove it"})  # fmt: skip
@AS_JSON
@option("--markdown", is_flag=True, help="Print the comparison as Markdown, for a pull request.",
        only={NOT_JSON: "remove one of the two"})  # fmt: skip
@option("--html", type=FILE, metavar="FILE", help="Write the comparison as one HTML file with plots.")
@option("--junit", type=FILE, metavar="FILE", help="Write the outcomes of the gates as JUnit XML.",
        only={GATES: "add a gate with --fail-if, for example 'p95_ms > +5%'"})  # fmt: skip
@click.pass_context
def compare(context: click.Context, /, baseline: Path, candidates: tuple[Path, ...], **options: Any) -> None:
    """Compare run folders or measurement files with a BASELINE.

    A single run is compared with its teacher. With --again, the models of both sides take turns on the device, so that what
    disturbs the device disturbs both. The folder of a published result is a run folder too.

    Exit code 3: a gate failed. Exit code 6: a gate could not be decided.
    """
    from edgedistill.compare.load import load_results

    gates = _gates(options["texts"], options["config"])
    sets = load_results((baseline, *candidates))
    if not options["again"]:
        _show(_compared(sets, gates), sets, gates, options)
        return
    from edgedistill.compare.again import measure_pairs, measure_run, sets_of
    from edgedistill.compare.comparison import compare_pairs, summarise_run
    from edgedistill.deploy.again import AgainOptions
    from edgedistill.runtime.scratch import scratch_folder

    kits, report = surroundings(context)
    how = AgainOptions(processes=options["processes"], seconds=options["seconds"], passes=("energy",))
    with scratch_folder() as folder:
        if not candidates:
            again = measure_run(sets[0], how, kits, folder, report.info)
            _show(summarise_run(again), (again,), gates, options)
            return
        pairing = measure_pairs(sets, how, kits, folder, report.info)
        _show(compare_pairs(pairing), sets_of(pairing), gates, options)


def _show(
    comparison: Comparison, sets: tuple[MeasurementSet, ...], gates: tuple[Gate, ...], options: dict[str, Any]
) -> None:
    """Apply gates, print and write the comparison; raises GateError or UndecidedError for what the gates decide."""
    from edgedistill.gates.evaluate import apply_gates, require_passed

    form = "json" if options["as_json"] else "markdown" if options["markdown"] else None
    html, junit = options["html"], options["junit"]
    comparison = apply_gates(comparison, gates, phones=options["phones"])
    print_comparison(comparison, form)
    if options["details"]:
        show_doubts(comparison)
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
    from edgedistill.compare.advice import advise_run
    from edgedistill.compare.comparison import compare_runs, have_counterparts, side_by_side, summarise_run

    first, *others = sets
    if not others:
        found = summarise_run(first)
        advice = None if first.path is None else advise_run(found.groups, first.path)
        return found.model_copy(update={"advice": advice})
    return compare_runs(first, others) if gates or have_counterparts(sets) else side_by_side(sets)
