"""The commands of edge cards; only click is imported, so that `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgedistill.cli.options import FILE, surroundings


@click.command()
@click.argument("run_folder", metavar="RUN", type=FILE)
@click.option("-o", "--output", type=FILE, metavar="DIR",
              help="Write the card there, with the files that it names; by default into RUN, where they are.")  # fmt: skip
@click.option("--license", "model_license", metavar="NAME", help="The model's licence, e.g. Apache-2.0.")
def card(run_folder: Path, output: Path | None, model_license: str | None) -> None:
    """Write card.json and card.md: what RUN's student is, and does on each device."""
    from edgedistill.card.card import write_card

    path = write_card(run_folder, output, model_license)
    click.echo(f"{path} and {path.with_suffix('.md').name} written; publish them with the files that they name")


@click.command()
@click.argument("path", metavar="CARD", type=FILE)
@click.option("--device", default="local", show_default=True, metavar="URL", help="Where to measure: ssh://user@host.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="PERCENT",
    help="How much worse a latency, memory or energy may be and still hold.",
)
@click.option("--target", "kit", metavar="KIT", help="Only the figures of this kit.")
@click.option("--precision", help="Only the figures in this precision.")
@click.option("--processes", type=click.IntRange(1), help="Fresh processes; by default as many as were published.")
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), help="Seconds per process; by default as published."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
def replay(context: click.Context, /, path: Path, **options: Any) -> None:
    """Measure what CARD publishes again, on a device, and say whether its figures hold.

    Exit code 0: they hold. 3: one does not. 6: one could not be decided. 2: the card or a file of it was altered.
    """
    from edgedistill.card.card import read_card
    from edgedistill.card.replay import Request, lines, replay, require_holds
    from edgedistill.deploy.devices.address import parse_address

    kits, report = surroundings(context)
    as_json = options.pop("as_json")
    options |= {"device": parse_address(options["device"]).text, "tolerance": options["tolerance"] / 100}
    result = replay(read_card(path), path, Request(**options), kits, report.line)
    for line in [result.model_dump_json(indent=2)] if as_json else lines(result):
        click.echo(line)
    require_holds(result)
