"""Commands that take an ONNX file, some of them a configuration instead; heavy imports wait until they run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from edgedistill.cli.options import (
    AS_JSON,
    CONFIG,
    DRY_RUN,
    FILE,
    ONNX,
    TARGET,
    Command,
    Condition,
    Only,
    from_option,
    is_onnx,
    option,
    options,
    quoted,
    run_dir_option,
    set_option,
    skip_bad_option,
    surroundings,
)
from edgedistill.cli.output import print_comparison
from edgedistill.cli.run import run_config
from edgedistill.errors import ConfigError, DeviceError

if TYPE_CHECKING:
    from edgedistill.compare.comparison import Comparison
    from edgedistill.deploy.bench_plan import BenchPlan
    from edgedistill.deploy.onnx_file import BenchOptions
    from edgedistill.export.detector_file import DetectorOptions
    from edgedistill.export.file_plan import FilePlan
    from edgedistill.export.file_records import FileOptions, FileResult
    from edgedistill.graphs.random_inputs import Shapes
    from edgedistill.kits.kits import Kit
    from edgedistill.records.measurement import Measurement

THREADS, PROCESSES, SECONDS = 1, 5, 1.0
"""How an ONNX file is measured by default: threads, fresh processes, and seconds of inference in each process."""

FIX: Final = Condition("with --fix", lambda given: bool(given["fix"]))
NO_KEYS: Final[Only] = {CONFIG: "remove it: {model_or_config} has no configuration keys"}
NO_FOLDERS: Final[Only] = {CONFIG: "remove it: no folder of samples is read for {model_or_config}"}
NO_STAGES: Final[Only] = {CONFIG: "remove it: {model_or_config} has no stages"}
ADD_TARGET: Final = "add --target, or remove --arch"


def key(name: str, value: str = "VALUE") -> Only:
    """Return the condition of an option for .onnx files that stands for a key of a configuration."""
    return {ONNX: f"set {name} in {{model_or_config}} instead, or use --set {name}={value}"}


pipeline_options = options(set_option(NO_KEYS), skip_bad_option(NO_FOLDERS), from_option(NO_STAGES), DRY_RUN, AS_JSON)
form_options = options(
    option("--data", type=FILE, metavar="FILE", help="Real inputs, with labels if you have them: an .npz, or pictures with boxes or masks.",
           only={ONNX: "set data.train in {model_or_config} instead"}),
    option("--target", "kit_names", multiple=True, metavar="KIT", help="A kit that will run the file. Repeatable.",
           only={ONNX: "add a [[target]] to {model_or_config} instead"}),
    option("--arch", metavar="NAME", help="The processor that will run the file, e.g. aarch64.  [default: this machine's]",
           only={ONNX: "remove it: {model_or_config} covers all processors of its kits",
                 TARGET: ADD_TARGET}),
    option("--shape", "shapes", multiple=True, metavar="NAME=1x3x224x224", help="The shape of a dynamic input. Repeatable.",
           only={ONNX: "remove it: the data in {model_or_config} sets the input shape"}),
    option("-o", "output", type=FILE, metavar="FILE", help="The file to write.  [default: beside the model]",
           only={ONNX: "use --run-dir instead"}),
    run_dir_option({CONFIG: "use -o FILE instead"}),
)  # fmt: skip
"""The options that say what an ONNX file is written for."""
DATA: Final = Condition("with --data FILE", lambda given: given["data"] is not None)
NO_FORMS: Final[Only] = {ONNX: "remove it: the task of {model_or_config} says how outputs are read",
                         DATA: "add --data FILE, or remove it"}  # fmt: skip
detector_options = options(
    option("--decode", metavar="FORM", help="The form of a detector's outputs, e.g. yolo; auto finds it.", only=NO_FORMS),
    option("--classes", type=FILE, metavar="FILE", help="A file with the names of the detector's classes, in its order, one in each line.", only=NO_FORMS),
    option("--view", "views", multiple=True, metavar="KEY=VALUE",
           help="How pictures become inputs: mean, std, channels, resize, padding, void. Repeatable.", only=NO_FORMS),
)  # fmt: skip
"""The options that say how a detector of any origin is used."""


@click.command(cls=Command)
@click.argument("model_or_config", type=FILE)
@form_options
@option("--skip", multiple=True, metavar="NODE", help="A layer to leave in float. Repeatable.",
        only=key("quantize.skip", "[...]"))  # fmt: skip
@option("--activations", type=click.Choice(["auto", "signed", "unsigned", "dynamic", "float"]),
        help="unsigned: uint8 after a ReLU, with 255 steps instead of 127; TensorRT does not support it. Only for ONNX files: dynamic, where dense "
        "layers compute the range of their input in each inference (for ort), and float, where only weights are int8.  "
        "[default: auto: unsigned if every target supports it; for a transformer, the fastest]",
        only=key("quantize.activations"))  # fmt: skip
@option("--weights", type=click.Choice(["auto", "full", "narrow"]),
        help="narrow: weights so small that no sum overflows on x86 without VNNI.  [default: auto: narrow if this machine needs it]",
        only=key("quantize.weights"))  # fmt: skip
@option("--no-ranking", is_flag=True, help="Do not rank layers by the error that each one causes alone.",
        only={ONNX: "set quantize.mode = \"ptq\" in {model_or_config} instead, which ranks no layers"})  # fmt: skip
@option("--test", type=FILE, metavar="FILE", help="Real inputs on which errors are measured.  [default: those of --data]",
        only={ONNX: "set data.test in {model_or_config} instead"})  # fmt: skip
@option("--max-class-drop", type=click.FloatRange(0), metavar="POINTS", help="Write no file in which a class or slice certainly loses more accuracy.",
        only={ONNX: "set gate.fail_if = [\"worst_class < -POINTS\"] in {model_or_config} instead"})  # fmt: skip
@option("--force", is_flag=True, help="Write the int8 file even if it loses a channel of an output, a class or a slice.",
        only={ONNX: "remove it: gates in {model_or_config} decide"})  # fmt: skip
@detector_options
@pipeline_options
@click.pass_context
def quantize(
    context: click.Context, /, model_or_config: Path, skip: tuple[str, ...], **options: Any
) -> None:  # fmt: skip
    """Quantize the student of a configuration, or a float .onnx file with --data FILE.npz.

    With a configuration, runs the earlier stages first if needed.
    """
    if not is_onnx(context.params):
        run_config(context, model_or_config, "quantize", options)
        return
    from edgedistill.deploy.stages import TIMERS
    from edgedistill.export.file_plan import plan_quantize
    from edgedistill.export.onnx_file import quantize_file

    integers = {name: options[name] or "auto" for name in ("activations", "weights")}
    integers["max_class_drop"] = options["max_class_drop"]
    integers["detector"] = _detector(options)
    order = _order(context, model_or_config, options, test=options["test"], force=options["force"], **integers)
    ranking = not options["no_ranking"]
    if options["dry_run"]:
        _show(plan_quantize(order, skip, ranking=ranking), as_json=options["as_json"])
        return
    report = surroundings(context)[1]
    made = quantize_file(order, skip, report=report, ranking=ranking, timers=TIMERS)
    _show(made, as_json=options["as_json"])
    if options["kit_names"] and options["arch"] is None and len(made.files) == 1 and not options["as_json"]:
        click.echo(f"next, to measure both in turns: {_bench_command(made, options)}")


@click.command(cls=Command)
@click.argument("model_or_config", type=FILE)
@form_options
@option("--precision", type=click.Choice(["fp32", "fp16", "int8"]), help="The precision to write.",
        only={ONNX: "set precisions of a [[target]] in {model_or_config} instead"})  # fmt: skip
@pipeline_options
@click.pass_context
def export(context: click.Context, /, model_or_config: Path, precision: str | None, **options: Any) -> None:
    """Export the models of a configuration, or an .onnx file for a kit with --target KIT.

    With a configuration, runs the earlier stages first if needed.
    """
    if not is_onnx(context.params):
        run_config(context, model_or_config, "export", options)
        return
    from edgedistill.export.file_plan import plan_export
    from edgedistill.export.onnx_file import export_file

    if precision is None or not options["kit_names"]:
        raise ConfigError(f"{model_or_config}: choose a kit with --target, and --precision fp32, fp16 or int8")
    order = _order(context, model_or_config, options)
    if options["dry_run"]:
        _show(plan_export(order, precision), as_json=options["as_json"])
        return
    _show(export_file(order, precision, surroundings(context)[1]), as_json=options["as_json"])


def _bench_command(made: FileResult, options: dict[str, Any]) -> str:
    """Return the command that measures a model and the file that was written from it."""
    given = [("--target", name) for name in options["kit_names"]]
    given += [
        ("--data", options["test"] or options["data"]),
        ("--decode", options["decode"]),
        ("--classes", options["classes"]),
    ]
    given += [(name, value) for name, key in (("--view", "views"), ("--shape", "shapes")) for value in options[key]]
    words = [str(word) for pair in given if pair[1] is not None for word in pair]
    return shlex.join(["edgedistill", "bench", str(made.model), *(str(one.file) for one in made.files), *words])


def _order(context: click.Context, model: Path, options: dict[str, Any], **more: Any) -> FileOptions:
    from edgedistill.export.file_records import FileOptions
    from edgedistill.graphs.shapes import parse_shapes
    from edgedistill.kits.kits import find_kit

    kits, _ = surroundings(context)
    chosen = tuple(find_kit(name, kits) for name in dict.fromkeys(options["kit_names"]))
    given = {name: options[name] for name in ("data", "arch", "output")}
    return FileOptions(model=model, kits=chosen, shapes=parse_shapes(options["shapes"]), **given, **more)


def _detector(options: dict[str, Any]) -> DetectorOptions:
    from edgedistill.data.pictures import parse_view
    from edgedistill.export.detector_file import DetectorOptions, read_names

    names = () if options["classes"] is None else read_names(options["classes"])
    return DetectorOptions(decode=options["decode"], classes=names, view=parse_view(options["views"]))


def _show(result: FileResult | FilePlan | BenchPlan, *, as_json: bool) -> None:
    for line in [result.to_json()] if as_json else result.lines():
        click.echo(line)


@click.command(cls=Command)
@click.argument("model_or_config", type=FILE)
@click.argument("candidates", type=FILE, nargs=-1, metavar="[MODEL]...")
@option("--target", "kit_names", multiple=True, metavar="KIT",
        help="A kit to measure with. Repeatable.  [default: every kit whose engine is installed]",
        only={ONNX: "add a [[target]] to {model_or_config} instead"})  # fmt: skip
@option("--data", type=FILE, metavar="FILE", help="Real inputs, with labels if you have them: an .npz, or pictures with boxes or masks.",
        only={ONNX: "set data.test in {model_or_config} instead"})  # fmt: skip
@detector_options
@option("--device", default="local", show_default=True, metavar="URL", help="The device: ssh://user@host, adb://serial.",
        only=key("target.NAME.device", "URL"))  # fmt: skip
@option("--shape", "shapes", multiple=True, metavar="NAME=1x3x224x224", help="The shape of a dynamic input. Repeatable.",
        only={ONNX: "remove it: the data in {model_or_config} sets the input shape"})  # fmt: skip
@option("--threads", metavar="N", type=click.IntRange(1), default=THREADS, show_default=True, help="Threads of the engine.",
        only=key("target.NAME.threads", "N"))  # fmt: skip
@option("--processes", metavar="N", type=click.IntRange(1),
        help=f"Fresh processes per model.  [default: {PROCESSES}, or bench.processes of the configuration]")  # fmt: skip
@option("--seconds", metavar="S", type=click.FloatRange(0, min_open=True),
        help=f"Seconds of inference per process.  [default: {SECONDS:g}, or bench.seconds of the configuration]")  # fmt: skip
@option("--caches", type=click.Choice(["warm", "cold"]),
        help="cold: empty the CPU's caches before each inference, as for a model that runs only now and then.  [default: warm, or bench.caches]")  # fmt: skip
@option("--soak", "soak_minutes", type=click.FloatRange(0, min_open=True), metavar="MINUTES",
        help="Then infer without a pause for this long, to find throttling and to measure power.")  # fmt: skip
@option(
    "--meter", type=FILE, metavar="FILE.csv", help="A file that an external power meter writes during the measurement."
)
@run_dir_option(default="runs/NAME, or runs/MODEL of an .onnx file")
@pipeline_options
@click.pass_context
def bench(context: click.Context, /, model_or_config: Path, candidates: tuple[Path, ...], **options: Any) -> None:
    """Measure the models of a configuration, or .onnx files.

    Several .onnx files are measured in turns, and compared with the first. With a configuration, runs the earlier stages
    first if needed.
    """
    if is_onnx(context.params):
        _bench_files(context, (model_or_config, *candidates), options)
        return
    if candidates:
        raise ConfigError(f"{model_or_config}: give one configuration, or only .onnx files")
    overrides = (*options["overrides"], *bench_overrides(options))
    run_config(context, model_or_config, "bench", options | {"overrides": overrides})


def bench_overrides(options: dict[str, Any]) -> tuple[str, ...]:
    """Return the options of `bench` that a configuration has keys for, as overrides of these keys."""
    values = {name: options[name] for name in ("processes", "seconds", "soak_minutes", "caches")}
    values |= {"meter": options["meter"] and quoted(options["meter"])}
    return tuple(f"bench.{name}={value}" for name, value in values.items() if value is not None)


def _bench_files(context: click.Context, given: tuple[Path, ...], options: dict[str, Any]) -> None:
    from edgedistill.deploy.bench_plan import plan_bench
    from edgedistill.graphs.shapes import parse_shapes

    if others := [path for path in given if path.suffix.lower() != ".onnx"]:
        raise ConfigError(f"{others[0]}: not an .onnx file; {given[0]} is compared only with .onnx files")
    models = _named(given)
    chosen = _chosen_kits(context, options)
    folder, shapes = options["run_dir"] or Path("runs") / "-".join(models), parse_shapes(options["shapes"])
    if options["dry_run"]:
        _show(plan_bench(models, chosen, _bench_options(options), folder, shapes), as_json=options["as_json"])
        return
    _measure(context, models, chosen, shapes, options | {"run_dir": folder})


def _chosen_kits(context: click.Context, options: dict[str, Any]) -> list[Kit]:
    """Return the kits of --target, or all whose engines the device has."""
    from edgedistill.deploy.devices.address import parse_address
    from edgedistill.deploy.identity import installed
    from edgedistill.kits.kits import find_kit

    kits, report = surroundings(context)
    if options["kit_names"]:
        return list({kit.name: kit for kit in (find_kit(name, kits) for name in options["kit_names"])}.values())
    address = parse_address(options["device"]).text
    found = installed(kits.values(), address)
    if not found:
        raise DeviceError(f"{options['device']}: has no engine; 'edgedistill doctor' says how to install one")
    report.info(f"engines: {', '.join(kit.name for kit in found)}, all that are installed; choose with --target")
    return list(found)


def _named(given: tuple[Path, ...]) -> dict[str, Path]:
    """Name each ONNX file by its stem; files with equal stems by the first part in which their paths differ."""
    from edgedistill.compare.load import names_of

    models = dict(zip(names_of(given), given, strict=True))
    if len(models) < len(given):
        raise ConfigError(
            f"{', '.join(map(str, given))}: two files have the same name; copy one of them under another name"
        )
    return models


def _failure(kit: str, reason: str) -> str:
    """Return why a kit failed with its name in front, which errors of an engine have already."""
    return reason if reason.startswith(f"{kit}: ") else f"{kit}: {reason}"


def _bench_options(options: dict[str, Any]) -> BenchOptions:
    from edgedistill.deploy.devices.address import parse_address
    from edgedistill.deploy.onnx_file import BenchOptions

    return BenchOptions(
        device=parse_address(options["device"]).text, threads=options["threads"], meter=options["meter"],
        processes=options["processes"] or PROCESSES, seconds=options["seconds"] or SECONDS, caches=options["caches"] or "warm",
        soak_minutes=options["soak_minutes"] or 0.0,
    )  # fmt: skip


def _measure(
    context: click.Context, models: dict[str, Path], kits: list[Kit], shapes: Shapes, options: dict[str, Any]
) -> None:
    """Measure ONNX files on kits, and print the comparison; raises DeviceError if a kit failed."""
    from edgedistill.deploy.onnx_file import BenchData, bench_on_kits, prepare_models

    how, report = _bench_options(options), surroundings(context)[1]
    data = None if options["data"] is None else BenchData(path=options["data"], detector=_detector(options))
    prepared = prepare_models(models, options["run_dir"] / "onnx", shapes, data)
    for one in prepared:
        for choice in one.choices:
            report.info(f"{one.name}: {choice}" if len(prepared) > 1 else choice)
    results = bench_on_kits(prepared, kits, how, options["run_dir"], report.info)
    several = len(prepared) > 1
    failed = [
        (f"{name}, " if several else "") + _failure(kit, result)
        for name, kit, result in results
        if isinstance(result, str)
    ]
    measured = [(kit, result) for _, kit, result in results if not isinstance(result, str)]
    if measured:
        print_comparison(_compared(measured, by_kit=several), "json" if options["as_json"] else None)
    if failed:
        raise DeviceError("\n".join(failed))


def _compared(measured: list[tuple[str, Measurement]], *, by_kit: bool) -> Comparison:
    """Compare all measurements with the first; `by_kit`, those of each kit with the first of this kit."""
    from edgedistill.compare.comparison import Comparison, compare

    together: dict[str, list[Measurement]] = {}
    for kit, one in measured:
        together.setdefault(kit if by_kit else "", []).append(one)
    groups = (compare(first, others).groups for first, *others in together.values())
    return Comparison(groups=tuple(group for found in groups for group in found))


@click.command(cls=Command)
@click.argument("model", type=FILE)
@option("--target", "kit_names", multiple=True, metavar="KIT", help="A kit that will run the model. Repeatable.")
@option("--arch", metavar="NAME", help="The processor that will run the model, e.g. aarch64.  [default: this machine's]",
        only={TARGET: ADD_TARGET})  # fmt: skip
@option("--compile", is_flag=True, help="Also compile the model with TensorRT on this CPU (extra trt-check).")
@option("--fix", is_flag=True, help="Repair the faults whose repair changes no output, and write MODEL-fixed.onnx.")
@option("-o", "output", type=FILE, metavar="FILE", help="The file to write.", only={FIX: "add --fix, or remove -o"})
@AS_JSON
@click.pass_context
def lint(context: click.Context, /, kit_names: tuple[str, ...], as_json: bool, **options: Any) -> None:  # noqa: FBT001 - click passes flags
    """Find operators of an ONNX MODEL that engines refuse, or run in float instead of int8.

    Exit code 4: the model has errors.
    """
    from edgedistill.export.lint.command import LintOptions, require_no_errors, run_lint, to_json
    from edgedistill.kits.kits import find_kit

    kits, _ = surroundings(context)
    chosen = tuple(find_kit(name, kits) for name in dict.fromkeys(kit_names))
    result = run_lint(LintOptions(kits=chosen, others=() if chosen else tuple(kits.values()), **options))
    if as_json:
        click.echo(to_json(result))
    else:
        from rich.console import Console

        from edgedistill.export.lint.table import print_result

        print_result(result, Console(highlight=False))
    require_no_errors(result)
