"""The command line: each command parses its options, calls the package, and prints the result.

Only click is imported at first, so that `--help` is fast; each command imports the rest when it runs.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import click

from edgedistill.cli.cache import cache
from edgedistill.cli.card import card, replay
from edgedistill.cli.check import check
from edgedistill.cli.compare import compare
from edgedistill.cli.doctor import doctor, targets
from edgedistill.cli.file import bench, export, lint, quantize
from edgedistill.cli.init import init
from edgedistill.cli.options import FILE
from edgedistill.cli.pack import bundle, mobile
from edgedistill.cli.run import STAGE_HELP, demo, report, run, stage_command
from edgedistill.cli.search import search
from edgedistill.cli.serve import serve
from edgedistill.errors import EdgedistillError
from edgedistill.runtime.signals import end_as_interrupted, received, was_signalled
from edgedistill.runtime.version import VERSION


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="edgedistill")
@click.option("--targets", "kit_folders", type=FILE, multiple=True, envvar="EDGEDISTILL_TARGETS", metavar="DIR",
              help="A folder with your own kits. Repeatable.")  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="Print results and errors only.")
@click.option(
    "-v", "--verbose", is_flag=True, help="Print every step, why a stage runs again, and tracebacks of your own code."
)
@click.pass_context
def cli(context: click.Context, *, kit_folders: tuple[Path, ...], quiet: bool, verbose: bool) -> None:
    """Distil a small student, quantize it, compile it for each target, and measure it on the device.

    Start with 'edgedistill demo', or with 'edgedistill init' for your own data.
    """
    context.obj = (kit_folders, quiet, verbose)
    if verbose:
        import logging

        logging.basicConfig(format="%(message)s")
        logging.getLogger("edgedistill").setLevel(logging.DEBUG)


for _command in (
    *(run, demo, report, *map(stage_command, STAGE_HELP)),
    *(quantize, export, bench, lint),
    *(init, search, compare, card, replay, check, serve, bundle, mobile, cache, targets, doctor),
):
    cli.add_command(_command)


def main() -> None:
    """Run the command line; an error of the user is one message and an exit code, never a traceback."""
    end_as_interrupted()
    try:
        cli(standalone_mode=False)
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # keeps Python from reporting the broken pipe again at exit
        sys.exit(141)
    except Exception as error:  # noqa: BLE001 - each error becomes a message and an exit code
        sys.exit(_report(error))


def _report(error: Exception) -> int:
    """Print what ended the command, and return the exit code."""
    if isinstance(error, click.exceptions.Abort) or was_signalled():
        # A library may replace the interruption by another error, as torch does while it reads weights.
        number = received()
        click.echo(
            f"edgedistill: interrupted by {signal.Signals(number).name}; run the same command again to continue",
            err=True,
        )
        return 128 + number
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if isinstance(error, EdgedistillError):
        click.echo(f"edgedistill: {error}", err=True)
        return error.exit_code
    return _report_unexpected(error)


def _report_unexpected(error: Exception) -> int:
    import logging

    from edgedistill.runtime.failures import bug_report, failure_of

    logging.getLogger("edgedistill").debug("", exc_info=error)
    failure = failure_of(error)
    if failure is None:
        click.echo(bug_report(error), err=True)
        return 1
    click.echo(f"edgedistill: {failure}", err=True)
    return failure.exit_code


if __name__ == "__main__":
    main()
