"""Commands that run the pipeline of a configuration; heavy imports wait until they run, so that `--help` is fast."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from edgedistill.cli.options import (
    AS_JSON,
    FILE,
    STAGES,
    Command,
    from_option,
    option,
    overrides_of,
    require_run,
    run_options,
    stage_option,
    surroundings,
)
from edgedistill.cli.output import show_pipeline, show_plan
from edgedistill.errors import ConfigError
from edgedistill.records.stage_names import COMPILE, DISTILL, REPORT, STAGE_NAMES, TEACHER

EARLIER: Final = "runs the earlier stages first if needed."
STAGE_HELP: Final = {
    TEACHER: "Train or load the teacher.",
    DISTILL: f"Distil the student; {EARLIER}",
    COMPILE: f"Compile the exported models for every target; {EARLIER}",
}


@click.command(cls=Command)
@click.argument("config", type=FILE)
@stage_option("--until", default=REPORT, show_default=True, help=f"Stop after this stage: {STAGES}.")
@run_options
@click.pass_context
def run(context: click.Context, /, config: Path, until: str, **options: Any) -> None:
    """Run all stages of CONFIG, an edgedistill.toml or its folder.

    Stages that are up to date are reused.
    """
    run_config(context, config, until, options)


def stage_command(name: str) -> click.Command:
    """Return the command that runs the stages of a configuration up to the one of this name."""

    @click.argument("config", type=FILE)
    @run_options
    @click.pass_context
    def command(context: click.Context, /, config: Path, **options: Any) -> None:
        run_config(context, config, name, options)

    return click.command(name, cls=Command, help=STAGE_HELP[name])(command)


def run_config(context: click.Context, path: Path, until: str, options: dict[str, Any]) -> None:
    """Run the stages of a configuration up to `until`, or print the plan, as the options say."""
    from edgedistill.config.load import load_config
    from edgedistill.pipeline.pipeline import Plan, dry_run, run_pipeline
    from edgedistill.runtime.folder import Run

    start = options["start"]
    if start is not None and STAGE_NAMES.index(start) > STAGE_NAMES.index(until):
        raise ConfigError(f"--from {start}: '{start}' comes after '{until}', the last stage of this command")
    kits, report = surroundings(context)
    config = load_config(path, overrides_of(options))
    folder = Run(options["run_dir"] or Path("runs") / config.name)
    plan = Plan(until, start)
    if options["dry_run"]:
        show_plan(dry_run(config, folder, kits, report, plan), as_json=options["as_json"])
        return
    show_pipeline(run_pipeline(config, folder, kits, report, plan), as_json=options["as_json"])


@click.command(cls=Command)
@option("--run-dir", type=FILE, metavar="DIR", default=Path("runs/demo"), show_default=True, help="The run folder.")
@from_option()
@AS_JSON
@click.pass_context
def demo(context: click.Context, run_dir: Path, start: str | None, as_json: bool) -> None:  # noqa: FBT001 - click passes flags
    """Run all stages on pictures of handwritten digits, in about two minutes.

    A second demo prints the figures of the first; --from bench measures again.
    """
    from edgedistill.config.load import load_config
    from edgedistill.pipeline.pipeline import Plan, run_pipeline
    from edgedistill.runtime.folder import Run

    kits, reporter = surroundings(context)
    config = load_config(Path(__file__).parents[1] / "config" / "demo.toml")
    show_pipeline(run_pipeline(config, Run(run_dir), kits, reporter, Plan(start=start)), as_json=as_json)
    if not as_json:
        click.echo("Next:")
        for what, how in (
            ("see the report", f"open {run_dir / 'report.html'} in a browser"),
            ("measure on your phone", f"edgedistill serve {run_dir}, then scan the code"),
            ("use your own data", "edgedistill init job --data FOLDER"),
        ):
            click.echo(f"  {what}: {how}")


@click.command(cls=Command)
@click.argument("run_folder", metavar="RUN", type=FILE)
def report(run_folder: Path) -> None:
    """Write the HTML report of a run folder, or of a published result, again."""
    from edgedistill.report.report import write_report

    require_run(run_folder)
    click.echo(f"Report: {write_report(run_folder)}")
