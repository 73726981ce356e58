"""The command `check`; heavy imports wait until it runs, so that `--help` is fast."""

from __future__ import annotations

from pathlib import Path

import click

from edgedistill.cli.options import AS_JSON, FILE, Command, option, require_run, surroundings


@click.command(cls=Command)
@click.argument("run_folder", metavar="RUN", type=FILE)
@click.argument("pictures", metavar="IMAGE...", nargs=-1, required=True, type=FILE)
@option(
    "--code", type=FILE, default=".", show_default=True, metavar="DIR", help="The folder of your own model's module."
)
@AS_JSON
@click.pass_context
def check(context: click.Context, run_folder: Path, pictures: tuple[Path, ...], code: Path, *, as_json: bool) -> None:
    """Answer raw picture files with the student of RUN in torch and in every artifact, and say where they part.

    The steps are the model's input, its outputs, and the answers: classes, masks, or boxes in pixels of the picture. Exit code 4:
    an artifact gives other answers than torch.
    """
    from edgedistill.check.command import check_run, lines, require_same
    from edgedistill.errors import ConfigError
    from edgedistill.runtime.folder import Run

    require_run(run_folder)
    for picture in pictures:
        if not picture.is_file():
            raise ConfigError(f"{picture}: no such file; name picture files")
    kits, report = surroundings(context)
    result = check_run(Run(run_folder), pictures, code.resolve(), kits, report)
    if as_json:
        click.echo(result.model_dump_json(indent=2, by_alias=True))
    else:
        for line in lines(result):
            click.echo(line)
    require_same(result)
