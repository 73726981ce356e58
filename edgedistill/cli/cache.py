"""Commands for the cache of soft labels; heavy imports wait until they run, so that `--help` is fast."""

from __future__ import annotations

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
    default=512,
    show_default=True,
    help="Number of entries to recompute.",
)
@run_dir_option()
@click.pass_context
def verify(context: click.Context, config: Path, samples: int, run_dir: Path | None) -> None:
    """Recompute a sample of the soft labels of CONFIG and compare it with the cache.

    Exit code 4: the cached soft labels differ.
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
    text = f"{result.compared} soft labels recomputed; largest difference {result.max_abs_diff:.3g}"
    if not result.holds:
        raise ParityError(f"{text}: too large; run 'edgedistill run {config} --from soft_labels'")
    click.echo(f"{text}: the cache is correct")


@cache.command("list", cls=Command)
def list_caches() -> None:
    """List the caches of soft labels and control students, with size and completeness."""
    from edgedistill.distill.cache import describe_caches, describe_controls

    for line in (*describe_caches(), describe_controls()):
        click.echo(line)
