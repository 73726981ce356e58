"""Options that several commands share; only click is imported, so that `--help` answers at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgedistill.errors import ConfigError

if TYPE_CHECKING:
    from edgedistill.kits.kits import Kit
    from edgedistill.runtime.progress import Reporter

FILE = click.Path(path_type=Path)
STAGE_COMMANDS = {
    "teacher": ("teacher", "Train or load the teacher."),
    "distill": ("student", "Distil the student, and what that needs."),
    "quantize": ("quantize", "Quantize the student, and what that needs."),
    "export": ("export", "Export ONNX models, and what that needs."),
    "compile": ("compile", "Compile for every target, and what that needs."),
    "bench": ("bench", "Measure every target, and what that needs."),
}
UNTIL = {"data": "data", "soft_labels": "soft_labels", "report": "report"} | {
    k: v[0] for k, v in STAGE_COMMANDS.items()
}


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of commands that run the pipeline."""
    options = (
        click.option("--run-dir", type=FILE, help="The run folder; by default runs/NAME."),
        click.option(
            "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, e.g. distill.epochs=3."
        ),
        click.option("--from", "start", type=click.Choice(list(UNTIL)), help="Run afresh from this stage on."),
        click.option("--dry-run", is_flag=True, help="Print the plan: what is cached, and what would run."),
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def bench_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say where and how an ONNX file is measured."""
    options = (
        click.option("--target", "kit_names", multiple=True, metavar="KIT", help="The kit to measure an ONNX file with."),
        click.option("--device", default="local", show_default=True, metavar="URL",
                     help="Where to measure an ONNX file: ssh://user@host."),
        click.option("--shape", "shapes", multiple=True, metavar="NAME=1x3x224x224",
                     help="Fix a dynamic input of an ONNX file."),
        click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads for an ONNX file."),
        click.option("--processes", type=click.IntRange(1), default=5, show_default=True,
                     help="Fresh processes for an ONNX file."),
        click.option("--seconds", type=click.FloatRange(0, min_open=True), default=2.0, show_default=True,
                     help="Seconds per process for an ONNX file."),
        click.option("--soak", "soak_minutes", type=click.FloatRange(0, min_open=True), metavar="MINUTES",
                     help="Then infer for so long without a pause: when the device throttles, and what it draws."),
        click.option("--meter", type=FILE, metavar="FILE.csv", help="A file that a power meter writes meanwhile."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def file_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of commands that take an ONNX file in place of a configuration."""
    options = (
        click.option("--data", type=FILE, metavar="FILE.npz", help="Real inputs for an ONNX file, and labels if any."),
        click.option("--target", "kit_names", multiple=True, metavar="KIT", help="A kit that an ONNX file is for."),
        click.option("--arch", help="The processor that it is for, e.g. aarch64; by default this machine's."),
        click.option(
            "--shape", "shapes", multiple=True, metavar="NAME=1x3x224x224", help="Fix a dynamic input of an ONNX file."
        ),
        click.option("-o", "output", type=FILE, help="Where to write; by default beside the ONNX file."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def refuse_file_options(config: Path, options: dict[str, Any]) -> None:
    """Raise ConfigError for an option of ONNX files that is given with a configuration."""
    for name in ("data", "kit_names", "arch", "shapes", "output", "skip", "activations", "precision"):
        if options.get(name):
            flag = {"kit_names": "--target", "shapes": "--shape", "output": "-o"}.get(name, f"--{name}")
            raise ConfigError(f"{flag} is for an ONNX file; {config} says such things itself")


def surroundings(context: click.Context) -> tuple[dict[str, Kit], Reporter]:
    """Return the kits that are found, the user's own among them, and the voice that the options ask for."""
    from edgedistill.kits.kits import find_kits
    from edgedistill.runtime import processes
    from edgedistill.runtime.progress import Reporter

    folders, quiet, verbose = context.obj
    return find_kits(folders), Reporter(quiet=quiet or not processes.is_first(), verbose=verbose)
