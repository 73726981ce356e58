"""The command `search`; heavy imports wait until it runs, so that `--help` is fast."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgedistill.cli.options import (
    AS_JSON,
    FILE,
    Command,
    option,
    overrides_of,
    run_dir_option,
    set_option,
    skip_bad_option,
    surroundings,
)
from edgedistill.errors import GateError, UndecidedError
from edgedistill.records.stage_names import DATA

if TYPE_CHECKING:
    from rich.table import Table

    from edgedistill.config.training import StudentConfig
    from edgedistill.search.records import SearchResult, TargetResult


@click.command(cls=Command)
@click.argument("config_path", metavar="CONFIG", type=FILE)
@option(
    "--model",
    "models",
    multiple=True,
    metavar="SPEC",
    help="A model family to try: zoo:ds-cnn, your own function, prune, layers or width. Repeatable.  [default: all that accept the data]",
)
@option(
    "--epochs",
    metavar="N",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Epochs of distillation for the largest student of each family, to rank them; 0 trains nothing.",
)
@option(
    "--processes", metavar="N", type=click.IntRange(1), default=3, show_default=True, help="Fresh processes per model."
)
@option(
    "--seconds",
    metavar="S",
    type=click.FloatRange(0, min_open=True),
    default=0.5,
    show_default=True,
    help="Seconds of inference per process.",
)
@run_dir_option()
@set_option()
@skip_bad_option()
@AS_JSON
@click.pass_context
def search(context: click.Context, /, config_path: Path, **options: Any) -> None:
    """Find students within the budgets of CONFIG, by measuring untrained models.

    The models are measured on the devices of CONFIG.

    Exit code 3: no student fits. Exit code 6: no student is known to fit, because a limit could not be checked, or is inside the 95 % interval.
    """
    from edgedistill.config.load import load_config
    from edgedistill.pipeline.pipeline import Plan, run_pipeline
    from edgedistill.runtime.folder import Run
    from edgedistill.search.records import SearchOptions
    from edgedistill.search.search import require_budget
    from edgedistill.search.search import search as search_students

    kits, report = surroundings(context)
    config = load_config(config_path, overrides_of(options))
    require_budget(config)
    run = Run(options["run_dir"] or Path("runs") / config.name)
    job = run_pipeline(config, run, kits, report, Plan(DATA))
    chosen = SearchOptions(**{name: options[name] for name in ("models", "epochs", "processes", "seconds")})
    result = search_students(job, chosen)
    if options["as_json"]:
        click.echo(result.to_json())
    else:
        _print(result)
    if result.fitting:
        return
    if any(one.unknown for candidate in result.candidates for one in candidate.measured):
        raise UndecidedError(
            "no student is known to fit: some limits could not be checked or decided, for the reasons above"
        )
    raise GateError("no student fits; raise a budget, or try another family with --model")


def _print(result: SearchResult) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_table(result))
    for line in (*_notes(result), *(f"left out: {text}" for text in result.left_out)):
        console.print(line, markup=False)
    if result.fitting:
        best = result.fitting[0]
        title = (
            "largest of the sizes tried that fits"
            if best.val_accuracy is None
            else f"best on validation after {result.epochs} epochs"
        )
        console.print(f"\n{title}, for the configuration:\n{_section(best.student)}", markup=False)


def _table(result: SearchResult) -> Table:
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
        *(["val. %"] if result.epochs else []),
    ):
        table.add_column(column, justify="right" if column in ("params", "p95 ms", "size", "val. %") else "left")
    trained = {one.name: one.val_accuracy for one in result.fitting}
    for candidate in sorted(result.candidates, key=lambda one: (str(one.student.model), one.parameters)):
        for row, target in enumerate(dict.fromkeys(one.target for one in candidate.measured)):
            named = [candidate.name.removeprefix("zoo:"), f"{candidate.parameters:,}"] if row == 0 else ["", ""]
            cells = [*named, *_cells(candidate.best_on(target))]
            if result.epochs:
                cells.append(_percent(trained.get(candidate.name)) if row == 0 else "")
            table.add_row(*cells, style="bold" if candidate.name in trained else None)
    return table


def _cells(one: TargetResult) -> list[str]:
    from edgedistill.compare import formatting

    if one.problem is not None:
        return [one.target, one.precision, formatting.DASH, formatting.DASH, "failed"]
    p95 = formatting.DASH if one.p95_ns is None else formatting.milliseconds(one.p95_ns)
    size = formatting.DASH if one.size_bytes is None else formatting.size(one.size_bytes)
    over = ", ".join(text.split(" ", 1)[0] for text in one.exceeded)
    return [one.target, one.precision, p95, size, f"over {over}" if over else "unknown" if one.unknown else "fits"]


def _percent(accuracy: float | None) -> str:
    from edgedistill.compare import formatting

    return "" if accuracy is None else formatting.percent(accuracy)


def _notes(result: SearchResult) -> Iterator[str]:
    """Yield each unchecked limit and each failure once, with the first student and target that had it."""
    first: dict[str, str] = {}
    for candidate in result.candidates:
        for one in candidate.measured:
            for text in (*one.unknown, *([one.problem] if one.problem else [])):
                first.setdefault(text, f"{candidate.name}, {one.target} {one.precision}")
    yield from (f"{where}: {text}" for text, where in first.items())


def _section(student: StudentConfig) -> str:
    given = student.model_dump(exclude_defaults=True)
    lines = [f"{key} = {value!r}".replace("'", '"') for key, value in given.items()]
    return "\n".join(["[student]", *lines])
