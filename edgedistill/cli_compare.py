"""The command that compares; only click is imported, so that `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgedistill.cli_options import FILE
from edgedistill.cli_output import print_comparison, show_outcomes
from edgedistill.errors import ConfigError

if TYPE_CHECKING:
    from edgedistill.compare.comparison import Comparison
    from edgedistill.compare.gate import Gate


@click.command()
@click.argument("baseline", type=FILE)
@click.argument("candidates", type=FILE, nargs=-1)
@click.option("--fail-if", "texts", multiple=True, metavar="EXPR",
              help="A gate, e.g. 'p95_ms > +5%' or 'accuracy < -0.5'; may be given several times.")  # fmt: skip
@click.option("--config", type=FILE, metavar="CONFIG", help="Take the gates of this configuration's [gate] too.")
@click.option("--json", "form", flag_value="json", help="Print the comparison as JSON.")
@click.option("--markdown", "form", flag_value="markdown", help="Print it as Markdown, for a pull request.")
@click.option("--junit", type=FILE, metavar="FILE", help="Write the outcomes of the gates as JUnit XML.")
def compare(
    *, baseline: Path, candidates: tuple[Path, ...], texts: tuple[str, ...], config: Path | None, form: str | None,
    junit: Path | None,
) -> None:  # fmt: skip
    """Set runs, or measurement files, against a BASELINE; a run alone is set against its teacher.

    With gates, exit code 3 says that one failed, and 6 that one could not be decided.
    """
    from edgedistill.compare.judge import judge, require_passed

    gates = _gates(texts, config)
    if junit is not None and not gates:
        raise ConfigError("--junit writes the outcomes of gates; name one with --fail-if, such as 'p95_ms > +5%'")
    comparison = judge(_compared(baseline, candidates), gates)
    print_comparison(comparison, form)
    show_outcomes(comparison.gates, form)
    if junit is not None:
        from edgedistill.compare.junit import to_junit
        from edgedistill.runs import write_atomic

        write_atomic(junit, to_junit(comparison))
    require_passed(comparison.gates)


def _gates(texts: tuple[str, ...], config: Path | None) -> tuple[Gate, ...]:
    from edgedistill.compare.gate import parse_gate
    from edgedistill.config_file import load_config

    configured = () if config is None else load_config(config).gate.gates
    if config is not None and not configured:
        raise ConfigError(f'{config}: no gates in it; for example [gate] and fail_if = ["p95_ms > +5%"]')
    return (*configured, *(parse_gate(text) for text in texts))


def _compared(baseline: Path, candidates: tuple[Path, ...]) -> Comparison:
    from edgedistill.compare.comparison import compare_runs, summarise_run
    from edgedistill.compare.load import load_results

    first, *others = load_results((baseline, *candidates))
    return compare_runs(first, others) if others else summarise_run(first)
