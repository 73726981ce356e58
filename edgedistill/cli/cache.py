"""Commands for the cache of soft labels; heavy imports wait until they run, so that `--help` is fast."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from edgedistill.cli.options import FILE, Command, option, run_dir_option, surroundings
from edgedistill.records.stage_names import SOFT_LABELS


@click.group()
def cache() -> None:
    """List and check cached soft labels, which several runs share."""


@cache.command(cls=Command)
@click.argument("config", type=FILE)
@option(
    "--samples",
    metavar="N",
    type=click.IntRange(1),
    default=4096,
    show_default=True,
    help="Number of soft labels to recompute.",
)
@run_dir_option()
@click.pass_context
def verify(context: click.Context, config: Path, samples: int, run_dir: Path | None) -> None:
    """Recompute up to N soft labels of CONFIG and compare them with the cache.

    Exit code 4: the cached soft labels differ, and the cache is removed.
    """
    from edgedistill.config.load import load_config
    from edgedistill.errors import ParityError
    from edgedistill.pipeline.pipeline import Plan, run_pipeline
    from edgedistill.pipeline.verify import verify_cache
    from edgedistill.runtime.folder import Run

    kits, reporter = surroundings(context)
    loaded = load_config(config)
    pipeline = run_pipeline(loaded, Run(run_dir or Path("runs") / loaded.name), kits, reporter, Plan(SOFT_LABELS))
    result = verify_cache(pipeline, samples)
    share = f"{result.compared:,} of {result.entries:,} soft labels recomputed ({result.compared / result.entries:.1%})"
    text = f"{share}; largest difference {result.max_abs_diff:.3g}"
    if not result.holds:
        where = () if run_dir is None else ("--run-dir", str(run_dir))
        command = shlex.join(("edgedistill", "run", str(config), *where, "--from", "soft_labels"))
        raise ParityError(f"{text}: {result.wrong}; the cache is removed; to make it again, run: {command}")
    rest = "" if result.compared == result.entries else "; the hashes of all match"
    click.echo(f"{text}{rest}: the cache is correct")


@cache.command("list", cls=Command)
def list_caches() -> None:
    """List the caches of images, soft labels and control students, with their sizes."""
    from edgedistill.data.decoding import describe_decoded
    from edgedistill.data.webdataset import describe_lists
    from edgedistill.distill.cache import describe_caches, describe_controls

    for line in (*describe_caches(), describe_controls(), *describe_decoded(), describe_lists()):
        click.echo(line)
