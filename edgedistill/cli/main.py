"""The command line: each command parses, calls, and prints.

Only click is imported here, so that `--help` answers at once; everything else is imported by the command that needs it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgedistill import __version__
from edgedistill.cli.card import card, replay
from edgedistill.cli.compare import compare
from edgedistill.cli.init import init
from edgedistill.cli.mobile import mobile
from edgedistill.cli.options import (
    FILE,
    STAGE_COMMANDS,
    UNTIL,
    bench_options,
    file_options,
    refuse_file_options,
    run_options,
    surroundings,
)
from edgedistill.cli.output import print_comparison, show_job, show_plan
from edgedistill.cli.search import search
from edgedistill.cli.serve import serve
from edgedistill.errors import ConfigError, DeviceError, EdgedistillError

if TYPE_CHECKING:
    from edgedistill.export.onnx_file import Order, Result
    from edgedistill.records.base import Activations


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="edgedistill")
@click.option("--targets", "kit_folders", type=FILE, multiple=True, envvar="EDGEDISTILL_TARGETS",
              help="A folder of your own kits; may be given several times.")  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="Print results and errors only.")
@click.option("-v", "--verbose", is_flag=True, help="Print every step, and why a stage runs again.")
@click.pass_context
def cli(context: click.Context, *, kit_folders: tuple[Path, ...], quiet: bool, verbose: bool) -> None:
    """Distil a small student, quantize it, compile it per target, and measure it on the device.

    Start with 'edgedistill demo', or 'edgedistill init' for a configuration of your own.
    """
    context.obj = (kit_folders, quiet, verbose)


@cli.command()
@click.argument("config", type=FILE)
@click.option(
    "--until", type=click.Choice(list(UNTIL)), default="report", show_default=True, help="Stop after this stage."
)
@run_options
@click.pass_context
def run(context: click.Context, /, config: Path, until: str, **options: Any) -> None:
    """Run the whole pipeline of CONFIG, an edgedistill.toml. What is done already is not done again."""
    _pipeline(context, config, UNTIL[until], options)


def _stage_command(name: str, until: str, text: str) -> click.Command:
    @click.argument("config", type=FILE)
    @run_options
    @click.pass_context
    def command(context: click.Context, /, config: Path, **options: Any) -> None:
        _pipeline(context, config, until, options)

    return click.command(name, help=text)(command)


for _name in ("teacher", "distill", "compile"):
    cli.add_command(_stage_command(_name, *STAGE_COMMANDS[_name]))


@cli.command()
@click.argument("model_or_config", type=FILE)
@file_options
@click.option("--skip", multiple=True, metavar="NODE", help="A layer of an ONNX file to leave in float.")
@click.option(
    "--activations",
    type=click.Choice(["signed", "unsigned"]),
    help="Of an ONNX file: unsigned is finer and faster behind a ReLU, not for TensorRT or x86 without VNNI.",
)
@run_options
@click.pass_context
def quantize(
    context: click.Context,
    /,
    model_or_config: Path,
    skip: tuple[str, ...],
    activations: Activations | None,
    **options: Any,
) -> None:
    """Quantize a configuration's student, or any float ONNX file with --data FILE.npz."""
    if model_or_config.suffix != ".onnx":
        refuse_file_options(model_or_config, options | {"skip": skip, "activations": activations})
        _pipeline(context, model_or_config, "quantize", options)
        return
    from edgedistill.export.onnx_file import quantize_file

    order = _order(context, model_or_config, options)
    _show_files(quantize_file(order, skip, activations=activations or "signed"), as_json=options["as_json"])


@cli.command()
@click.argument("model_or_config", type=FILE)
@file_options
@click.option("--precision", type=click.Choice(["fp32", "fp16", "int8"]), help="The precision of an ONNX file.")
@run_options
@click.pass_context
def export(context: click.Context, /, model_or_config: Path, precision: str | None, **options: Any) -> None:
    """Export a configuration's models, or any ONNX file as a --target KIT takes it."""
    if model_or_config.suffix != ".onnx":
        refuse_file_options(model_or_config, options | {"precision": precision})
        _pipeline(context, model_or_config, "export", options)
        return
    from edgedistill.export.onnx_file import export_file

    if precision is None or not options["kit_names"]:
        raise ConfigError(f"{model_or_config}: name a kit with --target, and a --precision: fp32, fp16 or int8")
    _show_files(export_file(_order(context, model_or_config, options), precision), as_json=options["as_json"])


def _order(context: click.Context, model: Path, options: dict[str, Any]) -> Order:
    from edgedistill.export.onnx_file import Order
    from edgedistill.graphs.shapes import parse_shapes
    from edgedistill.kits.kits import find_kit

    kits, _ = surroundings(context)
    chosen = tuple(find_kit(name, kits) for name in dict.fromkeys(options["kit_names"]))
    given = {name: options[name] for name in ("data", "arch", "output")}
    return Order(model=model, kits=chosen, shapes=parse_shapes(options["shapes"]), **given)


def _show_files(result: Result, *, as_json: bool) -> None:
    for line in [result.to_json()] if as_json else result.lines():
        click.echo(line)


@cli.command()
@click.argument("model_or_config", type=FILE)
@bench_options
@run_options
@click.pass_context
def bench(context: click.Context, /, model_or_config: Path, **options: Any) -> None:
    """Measure a configuration's targets, or any ONNX file with --target KIT."""
    if model_or_config.suffix != ".onnx":
        if options["kit_names"]:
            raise ConfigError(f"--target is for an ONNX file; {model_or_config} names its targets itself")
        given = {"soak_minutes": options["soak_minutes"], "meter": options["meter"] and options["meter"].resolve()}
        more = tuple(f"bench.{key}={value}" for key, value in given.items() if value is not None)
        _pipeline(context, model_or_config, "bench", options | {"overrides": (*options["overrides"], *more)})
        return
    _bench_file(context, model_or_config, options)


def _bench_file(context: click.Context, model: Path, options: dict[str, Any]) -> None:
    from edgedistill.compare.comparison import compare as set_against
    from edgedistill.deploy.devices.address import parse_address
    from edgedistill.deploy.onnx_file import BenchOptions, bench_on_kits, prepare_onnx
    from edgedistill.graphs.shapes import parse_shapes
    from edgedistill.kits.kits import find_kit

    kits, report = surroundings(context)
    device = parse_address(options["device"]).text
    if not options["kit_names"]:
        raise ConfigError(f"name a kit for {model.name} with --target; the kits are {', '.join(sorted(kits))}")
    chosen = [find_kit(name, kits) for name in dict.fromkeys(options["kit_names"])]
    folder = options["run_dir"] or Path("runs") / model.stem
    prepared = prepare_onnx(model, folder / "onnx", parse_shapes(options["shapes"]))
    for choice in prepared.choices:
        report.line(choice)
    numbers = {name: options[name] for name in ("threads", "processes", "seconds", "meter")}
    how = BenchOptions(device=device, soak_minutes=options["soak_minutes"] or 0.0, **numbers)
    results = bench_on_kits(prepared, chosen, how, folder, report.line)
    failed = [f"{kit}: {result}" for kit, result in results if isinstance(result, str)]
    measured = [result for _, result in results if not isinstance(result, str)]
    if measured:
        print_comparison(set_against(measured[0], measured[1:]), "json" if options["as_json"] else None)
    if failed:
        raise DeviceError("\n".join(failed))


def _pipeline(context: click.Context, config_path: Path, until: str, options: dict[str, Any]) -> None:
    from edgedistill.config.load import load_config
    from edgedistill.pipeline.pipeline import Plan, dry_run, run_pipeline
    from edgedistill.runtime.folder import Run

    kits, report = surroundings(context)
    config = load_config(config_path, options["overrides"])
    run_folder = Run(options["run_dir"] or Path("runs") / config.name)
    plan = Plan(until, UNTIL[options["start"]] if options["start"] else None)
    if options["dry_run"]:
        show_plan(dry_run(config, run_folder, kits, report, plan), as_json=options["as_json"])
        return
    job = run_pipeline(config, run_folder, kits, report, plan)
    show_job(job, as_json=options["as_json"])


for _command in (init, compare, card, replay, search, serve, mobile):
    cli.add_command(_command)


@cli.command()
@click.argument("run_folder", metavar="RUN", type=FILE)
@click.option("--target", "kit_name", required=True, metavar="KIT", help="The kit that the device has the engine of.")
@click.option("-o", "--output", required=True, type=FILE, metavar="FILE.pyz", help="The file to write.")
@click.option("--precision", "precisions", multiple=True, help="Only this precision; may be given several times.")
@click.pass_context
def bundle(context: click.Context, run_folder: Path, kit_name: str, output: Path, precisions: tuple[str, ...]) -> None:
    """Pack RUN's student and all that measures it into one file, for a device without pip.

    There: python3 FILE.pyz bench > result.json
    """
    from edgedistill.deploy.bundle import write_bundle
    from edgedistill.kits.kits import find_kit
    from edgedistill.runtime.folder import Run

    if not (run_folder / "manifest.json").is_file():
        raise ConfigError(f"{run_folder}: not a run folder; it has no manifest.json")
    kits, _ = surroundings(context)
    kit = find_kit(kit_name, kits)
    manifest, sha256 = write_bundle(Run(run_folder), kit, precisions, output)
    held = [precision for precision in kit.precisions if precision in {model.precision for model in manifest.models}]
    click.echo(f"{output}: the student in {' and '.join(held)}, {output.stat().st_size:,} bytes, SHA-256 {sha256}")
    for precision in () if precisions else (one for one in kit.precisions if one not in held):
        click.echo(f"{precision} is left out: this run has none for '{kit.name}', as no [[target]] of it asked for one")
    click.echo(f"Copy it to the device, and there: python3 {output.name} bench > result.json")


@cli.command()
@click.argument("run_folder", metavar="RUN", type=FILE)
def report(run_folder: Path) -> None:
    """Write the HTML report of a run folder again."""
    from edgedistill.report.report import write_report

    if not (run_folder / "manifest.json").is_file():
        raise ConfigError(f"{run_folder}: not a run folder; it has no manifest.json")
    click.echo(f"Report: {write_report(run_folder)}")


@cli.command("lint")
@click.argument("model", type=FILE)
@click.option("--target", "kit_names", multiple=True, metavar="KIT", help="A kit that the model is meant for.")
@click.option("--arch", help="The processor that it is meant for, e.g. aarch64; by default this machine's.")
@click.option("--compile", is_flag=True, help="Ask TensorRT's own compiler too, on this CPU (extra trt-check).")
@click.option("--fix", is_flag=True, help="Write MODEL-fixed.onnx, repaired where that is exact.")
@click.option("-o", "output", type=FILE, help="Where --fix writes.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
def lint_model(context: click.Context, /, kit_names: tuple[str, ...], as_json: bool, **options: Any) -> None:  # noqa: FBT001 - click passes flags
    """Say what engines will refuse in an ONNX MODEL, or run in float. Exit code 4: there is an error."""
    from edgedistill.export.lint.command import Order, require_no_errors, run_lint, to_json
    from edgedistill.kits.kits import find_kit

    kits, _ = surroundings(context)
    chosen = tuple(find_kit(name, kits) for name in dict.fromkeys(kit_names))
    result = run_lint(Order(kits=chosen, others=() if chosen else tuple(kits.values()), **options))
    if as_json:
        click.echo(to_json(result))
    else:
        from rich.console import Console

        from edgedistill.export.lint.table import print_result

        print_result(result, Console(highlight=False))
    require_no_errors(result)


@cli.command()
@click.option("--run-dir", type=FILE, default=Path("runs/demo"), show_default=True, help="The run folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
def demo(context: click.Context, run_dir: Path, as_json: bool) -> None:  # noqa: FBT001 - click passes flags
    """Do the whole job on handwritten digits, in a minute or two: table, and report."""
    from edgedistill.config.load import load_config
    from edgedistill.pipeline.pipeline import Plan, run_pipeline
    from edgedistill.runtime.folder import Run

    kits, reporter = surroundings(context)
    config = load_config(Path(__file__).parents[1] / "config" / "demo.toml")
    show_job(run_pipeline(config, Run(run_dir), kits, reporter, Plan()), as_json=as_json)


@cli.command()
@click.pass_context
def targets(context: click.Context) -> None:
    """List the kits, and what each lacks here."""
    from edgedistill.deploy.doctor import examine_kits
    from edgedistill.serve.runtime import describe_kit

    for finding in (*examine_kits(surroundings(context)[0]), describe_kit()):
        click.echo(finding)


@cli.command()
@click.option(
    "--device", default="local", show_default=True, metavar="URL", help="The device to look at: ssh://user@host."
)
@click.pass_context
def doctor(context: click.Context, device: str) -> None:
    """Say what is missing here or on a device, and what would make a measurement worthless."""
    from edgedistill.deploy.doctor import examine_device, examine_kits

    kits, _ = surroundings(context)
    for finding in examine_device(device):
        click.echo(finding)
    for finding in examine_kits(kits, device):
        click.echo(finding)


@cli.group()
def cache() -> None:
    """Look after the soft labels that runs share."""


@cache.command()
@click.argument("config", type=FILE)
@click.option(
    "--samples", type=click.IntRange(1), default=512, show_default=True, help="How many entries to recompute."
)
@click.option("--run-dir", type=FILE, help="The run folder; by default runs/NAME.")
@click.pass_context
def verify(context: click.Context, config: Path, samples: int, run_dir: Path | None) -> None:
    """Recompute a sample of CONFIG's soft labels, and say whether they hold; exit code 4 when they do not."""
    from edgedistill.config.load import load_config
    from edgedistill.distill.soft_labels import verify_soft_labels
    from edgedistill.errors import ParityError
    from edgedistill.pipeline.pipeline import Plan, run_pipeline
    from edgedistill.runtime.folder import Run

    kits, reporter = surroundings(context)
    loaded = load_config(config)
    job = run_pipeline(loaded, Run(run_dir or Path("runs") / loaded.name), kits, reporter, Plan("soft_labels"))
    found = verify_soft_labels(job, samples)
    text = f"{found.compared} soft labels recomputed, the largest difference is {found.max_abs_diff:.3g}"
    if not found.holds:
        raise ParityError(f"{text}: they do not hold; run 'edgedistill run {config} --from soft_labels'")
    click.echo(f"{text}: they hold")


@cache.command("list")
def list_caches() -> None:
    """List the caches of soft labels, and the controls: folder, size, and whether each is complete."""
    from edgedistill.distill.cache import describe_caches, describe_controls

    for line in (*describe_caches(), describe_controls()):
        click.echo(line)


def main() -> None:
    """Run the command line; what a user can mend is one message and an exit code, never a traceback."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("edgedistill: interrupted; run the same command again to go on", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except EdgedistillError as error:
        click.echo(f"edgedistill: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that Python's own flush does not complain
        sys.exit(141)


if __name__ == "__main__":
    main()
