"""The command `init`; heavy imports wait until it runs, so that `--help` is fast."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from edgedistill.cli.options import FILE, Command, Condition, Only, is_given, option, skip_bad_option, surroundings
from edgedistill.errors import ConfigError

if TYPE_CHECKING:
    from edgedistill.data.description import DataProfile
    from edgedistill.data.template import InitOptions
    from edgedistill.kits.kits import Kit


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


WITH_DATA: Final[Only] = {
    Condition("with --data PATH", lambda given: given["data"] is not None or _is_terminal()):
        "add --data, or edit the file that 'edgedistill init' writes without options"
}  # fmt: skip
"""The condition of options that only a configuration for data uses; on a terminal, `init` asks for the data."""


@click.command(cls=Command)
@click.argument("folder", metavar="[DIR]", type=FILE, default=Path())
@option(
    "--data",
    type=FILE,
    metavar="PATH",
    help="Training data: a folder CLASS/IMAGE.png or CLASS/CLIP.wav, a folder with train/ and test/, or an .npz file. With boxes: a COCO .json, "
    "a YOLO .yaml, or a Pascal VOC folder. With masks: a folder with images/ and masks/. Texts: a .tsv, .csv or .jsonl, or a folder CLASS/TEXT.txt.",
)
@option(
    "--test",
    type=FILE,
    metavar="PATH",
    only=WITH_DATA,
    help="The test set.  [default: found beside the training data, or split from it]",
)
@option(
    "--kind",
    type=click.Choice(["image", "signal", "tokens"]),
    only=WITH_DATA,
    metavar="KIND",
    help="The inputs of an .npz file: image, signal or tokens.  [default: chosen by their values]",
)
@option(
    "--task",
    type=click.Choice(["classification", "regression", "multi-label", "detection", "segmentation"]),
    only=WITH_DATA,
    metavar="TASK",
    help="The task of an .npz file: classification, regression or multi-label; detection or segmentation if a folder has boxes and masks.  "
    "[default: chosen by the labels]",
)
@option(
    "--teacher",
    only=WITH_DATA,
    metavar="hf:FOLDER",
    help="The encoder that texts start from, a Hugging Face folder; required for texts.",
)
@option(
    "--target",
    "kits",
    multiple=True,
    metavar="KIT",
    default=("openvino",),
    show_default=True,
    only=WITH_DATA,
    help="A kit to run on. Repeatable.",
)
@option(
    "--device",
    default="local",
    show_default=True,
    metavar="URL",
    only=WITH_DATA,
    help="The device: ssh://user@host, adb://serial.",
)
@option(
    "--p95-ms",
    type=click.FloatRange(0, min_open=True),
    metavar="MS",
    only=WITH_DATA,
    help="Budget: the largest 95th percentile of latency.",
)
@option(
    "--size-bytes", type=click.IntRange(1), metavar="N", only=WITH_DATA, help="Budget: the largest size of the model."
)
@option(
    "--accuracy",
    type=click.FloatRange(0, 1, max_open=True),
    metavar="FRACTION",
    only=WITH_DATA,
    help="Budget: the lowest accuracy.",
)
@option(
    "--epochs",
    type=click.IntRange(1),
    metavar="N",
    only=WITH_DATA,
    help="Epochs of training.  [default: chosen by the number of samples]",
)
@skip_bad_option(WITH_DATA)
@option("--name", only=WITH_DATA, metavar="NAME", help="The name of the run.  [default: the name of the data]")
@click.pass_context
def init(context: click.Context, /, folder: Path, data: Path | None, **options: Any) -> None:  # fmt: skip
    """Write an edgedistill.toml for your data.

    Writes ./edgedistill.toml, or DIR/edgedistill.toml; never overwrites an existing file. Without --data, asks on a terminal for the data, device and budget that no option
    gives; elsewhere, writes a template with all keys and comments.
    """
    from edgedistill.runtime.files import write_atomic

    path = folder / "edgedistill.toml"
    if path.exists():
        raise ConfigError(f"{path}: already exists; move it away first")
    asks = data is None and _is_terminal()
    profile = _ask_data(folder, options) if asks else None if data is None else _profile(data, options, folder)
    if profile is None:
        _require_no_options(context)
        write_atomic(path, (Path(__file__).parents[1] / "config" / "init.toml").read_text(encoding="utf-8"))
        click.echo(f"{path} written. Edit [data], [teacher] and [student], then: edgedistill run {path}")
        return
    kits, _ = surroundings(context)
    options |= _teacher(profile, options["teacher"], folder, asks=asks)
    if asks:
        options |= _ask_target(context, sorted(kits))
    _write(context, path, profile, _options(options | {"name": options["name"] or _name(profile, folder)}, kits))


def _teacher(profile: DataProfile, given: str | None, folder: Path, *, asks: bool) -> dict[str, Any]:
    """Return the teacher of texts, relative to the folder of the configuration, and its number of layers."""
    if profile.form != "texts":
        if given is not None:
            raise ConfigError("--teacher only applies to texts; edit [teacher] of the configuration instead")
        return {"layers": 0}
    from edgedistill.config.encoder import read_encoder_config
    from edgedistill.config.model_spec import parse_model_spec
    from edgedistill.data.places import relative
    from edgedistill.runtime.hub import hub_folder

    if given is None and not asks:
        raise ConfigError(
            "texts need an encoder to start from: add --teacher hf:FOLDER, the Hugging Face folder of a BERT or DistilBERT"
        )
    given = given or click.prompt("Teacher: hf:FOLDER, the Hugging Face folder of an encoder")
    try:
        spec = parse_model_spec(f"hf:{given.removeprefix('hf:')}")
    except ValueError as error:
        raise ConfigError(f"--teacher: {error}") from None
    if spec.hub is not None:
        return {"teacher": spec.text, "layers": read_encoder_config(hub_folder(*spec.hub)).layers}
    place = Path(spec.name)
    return {"teacher": f"hf:{relative(place, folder)}", "layers": read_encoder_config(place).layers}


def _require_no_options(context: click.Context) -> None:
    """Raise ConfigError for an option that the template, which is always the same, does not use."""
    for one in context.command.params:
        if one.name not in ("folder", "data") and is_given(context, one.name):
            raise ConfigError(f"{one.opts[0]} only applies with data; name the data, or edit the template instead")


def _write(context: click.Context, path: Path, profile: DataProfile, options: InitOptions) -> None:
    """Write the configuration once it passes the checks of `run`, and print what is odd about the data."""
    from edgedistill.config.load import parse_text
    from edgedistill.data.template import render_config
    from edgedistill.pipeline.checks import examine_config
    from edgedistill.runtime.files import write_atomic

    text = render_config(profile, options)
    kits, report = surroundings(context)
    examine_config(parse_text(text, path), kits, report)
    write_atomic(path, text)
    click.echo(f"Data: {profile.summary}.")
    click.echo(f"{path} written.")
    if options.device != "local":
        click.echo(f"Next: edgedistill doctor --device {options.device}")
    click.echo(f"{'Then' if options.device != 'local' else 'Next'}: edgedistill run {path}")


def _profile(data: Path, options: dict[str, Any], folder: Path) -> DataProfile:
    from edgedistill.data.profile import Choices, profile_data

    return profile_data(data, folder, Choices(**{name: options[name] for name in Choices._fields}))


def _ask_data(folder: Path, options: dict[str, Any]) -> DataProfile | None:
    """Ask for data until the answer is usable, and print its summary; None for an empty answer."""
    while True:
        text = click.prompt(
            "Data: a folder CLASS/IMAGE.png or CLASS/CLIP.wav, an .npz file, or a table of texts (empty: write a template)",
            default="", show_default=False,
        )  # fmt: skip
        if not text:
            return None
        try:
            profile = _ask_kind(Path(text).expanduser(), options, folder)
        except ConfigError as error:
            click.echo(f"  {error}")
            continue
        click.echo(f"  {profile.summary}")
        return profile


def _ask_kind(data: Path, options: dict[str, Any], folder: Path) -> DataProfile:
    """Inspect data, and ask for the kind of its inputs if their values do not tell."""
    from edgedistill.data.profile import UnknownKindError

    try:
        return _profile(data, options, folder)
    except UnknownKindError as error:
        click.echo(f"  {error}")
        kind = click.prompt(
            "Kind (empty: other data)", type=click.Choice([*error.possible, ""]), default="", show_default=False
        )
        if not kind:
            raise ConfigError("name other data") from None
        return _profile(data, options | {"kind": kind}, folder)


def _ask_target(context: click.Context, kits: list[str]) -> dict[str, Any]:
    """Ask for the device, kit and budget that no option gives."""
    from edgedistill.deploy.devices.address import parse_address

    def asked(name: str, text: str, **settings: Any) -> Any:
        return context.params[name] if is_given(context, name) else click.prompt(text, **settings)

    budget = {"default": "", "show_default": False}
    return {
        "device": asked(
            "device",
            "Device: local, ssh://user@host or adb://serial",
            default="local",
            value_proc=_checked(parse_address),
        ),
        "kits": asked("kits", "Kit", value_proc=_choice(kits), default="openvino" if "openvino" in kits else kits[0]),
        "p95_ms": asked("p95_ms", "Budget: p95 latency in ms (empty: none)", value_proc=_number(float), **budget),
        "size_bytes": asked("size_bytes", "Budget: size in bytes (empty: none)", value_proc=_number(int), **budget),
    }


def _choice(names: list[str]) -> Callable[[Any], tuple[str, ...]]:
    """Return a converter for a prompt, which asks again unless the answer is one of the names."""

    def value(text: Any) -> tuple[str, ...]:
        if text not in names:
            raise click.UsageError(f"'{text}' is none of {', '.join(names)}")
        return (text,)

    return value


def _checked(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    """Return a converter for a prompt, which asks again if `parse` raises ConfigError."""

    def value(text: Any) -> Any:
        try:
            parse(text)
        except ConfigError as error:
            raise click.UsageError(str(error)) from None
        return text

    return value


def _number(kind: type[float | int]) -> Callable[[str], Any]:
    """Return a converter for a prompt, which asks again unless the answer is a positive number or empty."""

    def value(text: str) -> float | int | None:
        try:
            number = kind(text) if text else None
        except ValueError:
            raise click.UsageError(f"'{text}' is not a number") from None
        if number is not None and not 0 < number < float("inf"):
            raise click.UsageError(f"'{text}' is not above zero")
        return number

    return value


def _options(options: dict[str, Any], kits: dict[str, Kit]) -> InitOptions:
    from edgedistill.config.schema import Budget
    from edgedistill.data.template import InitOptions
    from edgedistill.deploy.devices.address import parse_address
    from edgedistill.kits.kits import find_kit

    chosen = [find_kit(name, kits) for name in options["kits"]]
    precisions: dict[str, tuple[str, ...]] = {
        kit.name: tuple(one for one in ("fp32", "int8") if one in kit.precisions) for kit in chosen
    }
    limits = {name: options[name] for name in ("p95_ms", "size_bytes", "accuracy")}
    return InitOptions(
        name=options["name"], kits=precisions, device=parse_address(options["device"]).text, epochs=options["epochs"],
        budget=Budget(**limits), teacher=options["teacher"], layers=options["layers"],
    )  # fmt: skip


def _name(profile: DataProfile, folder: Path) -> str:
    """Return a name for the run, from the path of the training data."""
    path = (folder / profile.keys["train"]).resolve()
    plain = path.stem not in ("train", "training") and path.suffix not in (".json", ".yaml", ".yml", ".txt")
    folder = path.parent.parent if path.parent.name in ("train", "annotations") else path.parent
    stem = path.stem if plain else folder.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._") or "my-model"
