"""The command `check`; heavy imports wait until it runs, so that `--help` is fast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgedistill.cli.options import AS_JSON, FILE, Command, option, require_run, surroundings


@click.command(cls=Command)
@click.argument("run_folder", metavar="RUN", type=FILE)
@click.argument("given", metavar="SAMPLE...", nargs=-1, required=True)
@option(
    "--code",
    type=FILE,
    default=".",
    show_default=True,
    metavar="DIR",
    help="The folder of the configuration, where your own modules and the hf: folders are looked for.",
)
@option("--app", type=FILE, metavar="FILE.npz",
        help="The inputs and answers that your app computed: arrays 'photo.jpg/input' and 'photo.jpg/answer'.")  # fmt: skip
@AS_JSON
@click.pass_context
def check(
    context: click.Context, /, run_folder: Path, given: tuple[str, ...], *, as_json: bool, **options: Any
) -> None:
    """Compare the answers of each artifact of RUN with those of torch, for pictures or texts.

    SAMPLE is a picture file; for models of texts, it is a text, or a file with a text in each line, with a tab between the texts of a pair.
    The steps are the model's input, its outputs, and the answers: classes, vectors, masks, or boxes in pixels of the picture. With
    --app, the arrays of your app are compared as well, and the likely fault is named. Exit code 4: an artifact gives other answers
    than torch, or the app differs.
    """
    from edgedistill.check.command import CheckOptions, check_run, lines, require_same
    from edgedistill.runtime.folder import Run

    require_run(run_folder)
    kits, report = surroundings(context)
    wanted = CheckOptions(given=given, code=options["code"].resolve(), app=options["app"])
    result = check_run(Run(run_folder), wanted, kits, report)
    if as_json:
        click.echo(result.model_dump_json(indent=2, by_alias=True))
    else:
        for line in lines(result):
            click.echo(line)
    require_same(result)
