"""Commands that pack the student of a run for a device or an app; heavy imports wait until they run."""

from __future__ import annotations

from pathlib import Path

import click

from edgedistill.cli.options import FILE, Command, option, require_run, surroundings


@click.command(cls=Command)
@click.argument("run_folder", metavar="RUN", type=FILE)
@option("--target", "kit_name", required=True, metavar="KIT", help="The kit of the engine on the device.")
@option("-o", "--output", required=True, type=FILE, metavar="FILE.pyz", help="The file to write.")
@option("--precision", "precisions", multiple=True, metavar="NAME", help="Pack only this precision. Repeatable.")
@click.pass_context
def bundle(context: click.Context, run_folder: Path, kit_name: str, output: Path, precisions: tuple[str, ...]) -> None:
    """Pack the student of RUN and the benchmark into one file, for a device without pip.

    On the device: python3 FILE.pyz bench > result.json
    """
    from edgedistill.deploy.bundle import write_bundle
    from edgedistill.kits.kits import find_kit
    from edgedistill.runtime.folder import Run

    require_run(run_folder)
    kits, _ = surroundings(context)
    kit = find_kit(kit_name, kits)
    manifest, sha256 = write_bundle(Run(run_folder), kit, precisions, output)
    packed = [precision for precision in kit.precisions if precision in {model.precision for model in manifest.models}]
    click.echo(f"{output}: the student in {' and '.join(packed)}, {output.stat().st_size:,} bytes, SHA-256 {sha256}")
    for precision in () if precisions else (one for one in kit.precisions if one not in packed):
        click.echo(f"not packed: {precision}, because no [[target]] of the run has kit '{kit.name}' in {precision}")
    click.echo(f"Copy the file to the device and run there: python3 {output.name} bench > result.json")


@click.command(cls=Command)
@click.argument("run_folder", metavar="RUN", type=FILE)
@option("-o", "--output", required=True, type=FILE, metavar="DIR", help="The folder to write.")
@option("--target", "kit_name", default="ort", show_default=True, metavar="KIT", help="The kit that writes .ort files.")
@click.pass_context
def mobile(context: click.Context, run_folder: Path, output: Path, kit_name: str) -> None:
    """Write .ort files of RUN for an Android or iOS app, with example code and a README."""
    from edgedistill.kits.kits import find_kit
    from edgedistill.mobile.folder import write_mobile
    from edgedistill.runtime.folder import Run

    require_run(run_folder)
    kits, _ = surroundings(context)
    written = write_mobile(Run(run_folder), find_kit(kit_name, kits), output)
    for model in written.models:
        click.echo(f"{output / model.file}: {model.precision}, {model.bytes:,} bytes")
    click.echo(f"{output / 'README.md'} explains how an app loads the model")
