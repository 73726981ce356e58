"""The command `check`; heavy imports wait until it runs, so that `--help` is fast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgedistill.cli.options import AS_JSON, FILE, Command, option, require_run, surroundings


@click.command(cls=Command)
@click.argument("run_folder", metavar="RUN", type=FILE)
@click.argument("pictures", metavar="IMAGE...", nargs=-1, required=True, type=FILE)
@option(
    "--code", type=FILE, default=".", show_default=True, metavar="DIR", help="The folder of your own model's module."
)
@option("--app", type=FILE, metavar="FILE.npz",
        help="What your app made of the pictures: arrays 'photo.jpg/input' and 'photo.jpg/answer'.")  # fmt: skip
@AS_JSON
@click.pass_context
def check(
    context: click.Context, /, run_folder: Path, pictures: tuple[Path, ...], *, as_json: bool, **given: Any
) -> None:
    """Answer picture files in torch and in every artifact of RUN, and say where they part.

    The steps are the model's input, its outputs, and the answers: classes, masks, or boxes in pixels of the picture. With
    --app, the arrays of your app are compared as well, and the likely fault is named. Exit code 4: an artifact gives other answers
    than torch, or the app differs.
    """
    from edgedistill.check.command import CheckOptions, check_run, lines, require_same
    from edgedistill.errors import ConfigError
    from edgedistill.runtime.folder import Run

    require_run(run_folder)
    for picture in pictures:
        if not picture.is_file():
            raise ConfigError(f"{picture}: no such file; name picture files")
    kits, report = surroundings(context)
    options = CheckOptions(files=pictures, code=given["code"].resolve(), app=given["app"])
    result = check_run(Run(run_folder), options, kits, report)
    if as_json:
        click.echo(result.model_dump_json(indent=2, by_alias=True))
    else:
        for line in lines(result):
            click.echo(line)
    require_same(result)
