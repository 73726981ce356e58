"""Commands that list kits and examine devices; heavy imports wait until they run, so that `--help` is fast."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from edgedistill.cli.options import (
    FILE,
    Command,
    Condition,
    option,
    overrides_of,
    run_dir_option,
    set_option,
    skip_bad_option,
    surroundings,
)
from edgedistill.cli.output import show_diagnosis
from edgedistill.errors import ConfigError

if TYPE_CHECKING:
    from edgedistill.kits.kits import Kit
    from edgedistill.runtime.progress import Reporter

WITH_CONFIG: Final = {
    Condition("with CONFIG", lambda given: given["config"] is not None, "Options with CONFIG"): "name a configuration"
}
MACHINE: Final = {
    Condition("without CONFIG", lambda given: given["config"] is None, "Options without CONFIG"): (
        "remove it: the devices of {config} are its targets"
    )
}


@click.command(cls=Command)
@click.pass_context
def targets(context: click.Context) -> None:
    """List the kits, and what is missing on this machine to use each."""
    from edgedistill.deploy.doctor import examine_kits
    from edgedistill.serve.runtime import describe_kit

    for finding in (*examine_kits(surroundings(context)[0]), describe_kit()):
        click.echo(finding)


@click.command(cls=Command)
@click.argument("config", required=False, type=FILE)
@option(
    "--device",
    default="local",
    show_default=True,
    metavar="URL",
    only=MACHINE,
    help="The device: ssh://user@host, adb://serial.",
)
@run_dir_option(only=WITH_CONFIG)
@set_option(only=WITH_CONFIG)
@skip_bad_option(only=WITH_CONFIG)
@option("--json", "as_json", is_flag=True, only=WITH_CONFIG, help="Print the result as JSON.")
@click.pass_context
def doctor(context: click.Context, /, config: Path | None, device: str, **options: Any) -> None:
    """Check a configuration, its data and its models, or check a device.

    With CONFIG, prints everything that 'edgedistill run CONFIG' would refuse or warn about, and what each stage will take. Trains and writes
    nothing. Exit code 2: there are errors.

    Without CONFIG, prints what software is missing, and what would disturb a measurement.
    """
    kits, report = surroundings(context)
    if config is not None:
        _diagnose(config, kits, report, options)
        return
    from edgedistill.deploy.doctor import examine_device, examine_kits

    for finding in (*examine_device(device), *examine_kits(kits, device)):
        click.echo(finding)


def _diagnose(config: Path, kits: dict[str, Kit], report: Reporter, options: dict[str, Any]) -> None:
    from edgedistill.pipeline.doctor import diagnose

    diagnosis = diagnose(config, overrides_of(options), options["run_dir"], kits, report)
    if options["as_json"]:
        click.echo(diagnosis.to_json())
    else:
        show_diagnosis(diagnosis)
    if diagnosis.errors:
        count = "1 error" if diagnosis.errors == 1 else f"{diagnosis.errors} errors"
        raise ConfigError(f"{config}: {count}, at which 'edgedistill run' would stop")
