"""The command that looks for a student before one is trained; only click is imported, so that `--help` answers at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgedistill.cli.options import FILE, surroundings
from edgedistill.errors import GateError, UndecidedError

if TYPE_CHECKING:
    from rich.table import Table

    from edgedistill.config.training import StudentConfig
    from edgedistill.search.search import Found, OnTarget


@click.command()
@click.argument("config_path", metavar="CONFIG", type=FILE)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="SPEC",
    help="A family to look in: zoo:ds-cnn, your own function, or prune. By default all that take the data.",
)
@click.option(
    "--epochs",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Then distil the largest of each family for so long, and rank them.",
)
@click.option(
    "--processes", type=click.IntRange(1), default=3, show_default=True, help="Fresh processes for each model."
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=0.5,
    show_default=True,
    help="Seconds of steady inference in each.",
)
@click.option("--run-dir", type=FILE, help="The run folder; by default runs/NAME.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, e.g. data.size=64.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
def search(context: click.Context, /, config_path: Path, overrides: tuple[str, ...], **options: Any) -> None:
    """Find students that fit CONFIG's budgets, measured on its devices before they are trained.

    Exit code 3: no student fits; 6: none is known to, as a limit could not be checked.
    """
    from edgedistill.config.load import load_config
    from edgedistill.pipeline.pipeline import Plan, run_pipeline
    from edgedistill.runtime.folder import Run
    from edgedistill.search.search import Wishes, require_budget
    from edgedistill.search.search import search as search_students

    kits, report = surroundings(context)
    config = load_config(config_path, overrides)
    require_budget(config)
    run = Run(options["run_dir"] or Path("runs") / config.name)
    job = run_pipeline(config, run, kits, report, Plan("data"))
    wishes = Wishes(**{name: options[name] for name in ("models", "epochs", "processes", "seconds")})
    found = search_students(job, wishes)
    if options["as_json"]:
        click.echo(found.to_json())
    else:
        _print(found)
    if found.fitting:
        return
    if any(one.unknown for candidate in found.candidates for one in candidate.measured):
        raise UndecidedError("no student is known to fit: not every limit could be checked, for the reasons given")
    raise GateError("no student fits: raise a budget, or name another family with --model")


def _print(found: Found) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_table(found))
    for line in (*_notes(found), *(f"left out: {text}" for text in found.left_out)):
        console.print(line, markup=False)
    if found.fitting:
        how = f"best on validation after {found.epochs} epochs" if found.epochs else "largest that fits"
        console.print(f"\n{how}, for the configuration:\n{_section(found.fitting[0].student)}", markup=False)


def _table(found: Found) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    for column in (
        "student",
        "params",
        "target",
        "",
        "p95 ms",
        "size",
        "budget",
        *(["val. %"] if found.epochs else []),
    ):
        table.add_column(column, justify="right" if column in ("params", "p95 ms", "size", "val. %") else "left")
    trained = {one.name: one.val_accuracy for one in found.fitting}
    for candidate in sorted(found.candidates, key=lambda one: (str(one.student.model), one.parameters)):
        for place, target in enumerate(dict.fromkeys(one.target for one in candidate.measured)):
            named = [candidate.name.removeprefix("zoo:"), f"{candidate.parameters:,}"] if place == 0 else ["", ""]
            cells = [*named, *_cells(candidate.best_on(target))]
            if found.epochs:
                cells.append(_percent(trained.get(candidate.name)) if place == 0 else "")
            table.add_row(*cells, style="bold" if candidate.name in trained else None)
    return table


def _cells(one: OnTarget) -> list[str]:
    from edgedistill.compare import figures

    if one.problem is not None:
        return [one.target, one.precision, figures.NONE, figures.NONE, "failed"]
    p95 = figures.NONE if one.p95_ns is None else figures.milliseconds(one.p95_ns)
    size = figures.NONE if one.size_bytes is None else figures.size(one.size_bytes)
    over = ", ".join(text.split(" ", 1)[0] for text in one.exceeded)
    return [one.target, one.precision, p95, size, f"over {over}" if over else "unknown" if one.unknown else "fits"]


def _percent(accuracy: float | None) -> str:
    from edgedistill.compare import figures

    return "" if accuracy is None else figures.percent(accuracy)


def _notes(found: Found) -> Iterator[str]:
    """Yield each limit that was not checked and each failure once, with where it was met first."""
    said: dict[str, str] = {}
    for candidate in found.candidates:
        for one in candidate.measured:
            for text in (*one.unknown, *([one.problem] if one.problem else [])):
                said.setdefault(text, f"{candidate.name}, {one.target} {one.precision}")
    yield from (f"{where}: {text}" for text, where in said.items())


def _section(student: StudentConfig) -> str:
    given = student.model_dump(exclude_defaults=True)
    lines = [f"{key} = {value!r}".replace("'", '"') for key, value in given.items()]
    return "\n".join(["[student]", *lines])
