"""Commands that list kits and examine devices; heavy imports wait until they run, so that `--help` is fast."""

from __future__ import annotations

import click

from edgedistill.cli.options import Command, option, surroundings


@click.command(cls=Command)
@click.pass_context
def targets(context: click.Context) -> None:
    """List the kits, and what is missing on this machine to use each."""
    from edgedistill.deploy.doctor import examine_kits
    from edgedistill.serve.runtime import describe_kit

    for finding in (*examine_kits(surroundings(context)[0]), describe_kit()):
        click.echo(finding)


@click.command(cls=Command)
@option(
    "--device", default="local", show_default=True, metavar="URL", help="The device: ssh://user@host, adb://serial."
)
@click.pass_context
def doctor(context: click.Context, device: str) -> None:
    """Check this machine or a device for missing software and disturbed measurements."""
    from edgedistill.deploy.doctor import examine_device, examine_kits

    kits, _ = surroundings(context)
    for finding in (*examine_device(device), *examine_kits(kits, device)):
        click.echo(finding)
