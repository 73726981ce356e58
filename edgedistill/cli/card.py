"""The commands `card` and `replay`; heavy imports wait until they run, so that `--help` is fast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgedistill.cli.options import AS_JSON, FILE, Command, option, surroundings


@click.command(cls=Command)
@click.argument("run_folder", metavar="RUN", type=FILE)
@option("-o", "--output", type=FILE, metavar="DIR",
              help="A folder to write the card and its files to.  [default: RUN]")  # fmt: skip
@option("--license", "model_license", metavar="NAME", help="The licence of the model, e.g. Apache-2.0.")
def card(run_folder: Path, output: Path | None, model_license: str | None) -> None:
    """Write card.json and card.md: the student of RUN, and its results on each device."""
    from edgedistill.card.write import write_card

    path = write_card(run_folder, output, model_license)
    click.echo(f"{path} and {path.with_suffix('.md').name} written; publish them together with the files they list")


@click.command(cls=Command)
@click.argument("path", metavar="CARD", type=FILE)
@option(
    "--device", default="local", show_default=True, metavar="URL", help="The device: ssh://user@host, adb://serial."
)
@option(
    "--tolerance",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="PERCENT",
    help="How much worse latency, memory, energy or size may be than published.",
)
@option("--target", "kit", metavar="KIT", help="Repeat only the results of this kit.")
@option("--precision", metavar="NAME", help="Repeat only the results in this precision.")
@option("--processes", metavar="N", type=click.IntRange(1), help="Fresh processes per model.  [default: as published]")
@option(
    "--seconds",
    metavar="S",
    type=click.FloatRange(0, min_open=True),
    help="Seconds of inference per process.  [default: as published]",
)
@AS_JSON
@click.pass_context
def replay(context: click.Context, /, path: Path, **options: Any) -> None:
    """Repeat the measurements of CARD on a device, and check its published results.

    Exit code 0: all results are reproduced. 2: the card or one of its files was changed. 3: a result is not reproduced. 6: a
    result could not be decided.
    """
    from edgedistill.card.card import read_card
    from edgedistill.card.replay import ReplayOptions, lines, replay, require_holds
    from edgedistill.deploy.devices.address import parse_address

    kits, report = surroundings(context)
    as_json = options.pop("as_json")
    options |= {"device": parse_address(options["device"]).text, "tolerance": options["tolerance"] / 100}
    result = replay(read_card(path), path, ReplayOptions(**options), kits, report.info)
    for line in [result.model_dump_json(indent=2)] if as_json else lines(result):
        click.echo(line)
    require_holds(result)
