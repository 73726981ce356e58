"""The command that writes a folder for app developers; only click is imported, so that `--help` answers at once."""

from __future__ import annotations

from pathlib import Path

import click

from edgedistill.cli.options import FILE, surroundings
from edgedistill.errors import ConfigError


@click.command()
@click.argument("run_folder", metavar="RUN", type=FILE)
@click.option("-o", "--output", required=True, type=FILE, metavar="DIR", help="The folder to write.")
@click.option(
    "--target", "kit_name", default="ort", show_default=True, metavar="KIT", help="The kit that makes .ort files."
)
@click.pass_context
def mobile(context: click.Context, run_folder: Path, output: Path, kit_name: str) -> None:
    """Write RUN's student for an Android or iOS app. It gets .ort files, examples, and a README for who builds the app."""
    from edgedistill.export.mobile.mobile import write_mobile
    from edgedistill.kits.kits import find_kit
    from edgedistill.runtime.folder import Run

    if not (run_folder / "manifest.json").is_file():
        raise ConfigError(f"{run_folder}: not a run folder; it has no manifest.json")
    kits, _ = surroundings(context)
    written = write_mobile(Run(run_folder), find_kit(kit_name, kits), output)
    for model in written.models:
        click.echo(f"{output / model.file}: {model.precision}, {model.bytes:,} bytes")
    click.echo(f"{output / 'README.md'} says how an app loads it")
