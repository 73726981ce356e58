"""The command that writes a configuration; only click is imported, so that `--help` answers at once."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgedistill.cli.options import FILE, surroundings
from edgedistill.errors import ConfigError

if TYPE_CHECKING:
    from edgedistill.config.template import InitOptions
    from edgedistill.data.profile import DataProfile
    from edgedistill.kits.kits import Kit


@click.command()
@click.argument("folder", metavar="[DIR]", type=FILE, default=Path())
@click.option(
    "--data",
    type=FILE,
    metavar="PATH",
    help="A folder CLASS/IMAGE.png or CLASS/CLIP.wav, one with train/ and test/ in it, or an .npz file.",
)
@click.option("--test", type=FILE, metavar="PATH", help="The test set, where it does not lie beside the training data.")
@click.option("--target", "kit", metavar="KIT", default="openvino", show_default=True, help="The engine to run on.")
@click.option("--device", default="local", show_default=True, metavar="URL", help="Where it runs: ssh://user@host.")
@click.option("--p95-ms", type=click.FloatRange(0, min_open=True), help="Budget: the p95 of an inference.")
@click.option("--size-bytes", type=click.IntRange(1), help="Budget: the size of the model.")
@click.option("--accuracy", type=click.FloatRange(0, 1, max_open=True), help="Budget: the least accuracy, a fraction.")
@click.option("--epochs", type=click.IntRange(1), help="How long to train; by default as the amount of data wants.")
@click.option("--name", help="The run's name; by default the data's.")  # fmt: skip
@click.pass_context
def init(context: click.Context, /, folder: Path, data: Path | None, **options: Any) -> None:
    """Write an edgedistill.toml for data that it looks at. By default it goes here; one that is there is left alone.

    On a terminal it asks for what is not given. Elsewhere, without --data, it writes all keys with comments, to be edited.
    """
    from edgedistill.runtime.files import write_atomic

    path = folder / "edgedistill.toml"
    if path.exists():
        raise ConfigError(f"{path}: already there; move it away first")
    is_asking = data is None and sys.stdin.isatty() and sys.stdout.isatty()
    profile = (
        _ask_data(folder, options) if is_asking else None if data is None else _look(data, options["test"], folder)
    )
    if profile is None:
        write_atomic(path, (Path(__file__).parents[1] / "config" / "init.toml").read_text(encoding="utf-8"))
        click.echo(f"{path} written; edit [data], [teacher] and [student], then: edgedistill run {path}")
        return
    kits, _ = surroundings(context)
    if is_asking:
        options |= _ask_target(sorted(kits))
    _write(path, profile, _options(options | {"name": options["name"] or _name(profile, folder)}, kits))


def _write(path: Path, profile: DataProfile, chosen: InitOptions) -> None:
    from edgedistill.config.load import parse_text
    from edgedistill.config.template import render_config
    from edgedistill.runtime.files import write_atomic

    text = render_config(profile, chosen)
    parse_text(text, path)
    write_atomic(path, text)
    click.echo(f"Found {profile.summary}.")
    click.echo(f"{path} written. Next: edgedistill run {path}")
    if chosen.device != "local":
        click.echo(f"Before that: edgedistill doctor --device {chosen.device}")


def _look(data: Path, test: Path | None, folder: Path) -> DataProfile:
    from edgedistill.data.profile import profile_data

    return profile_data(data, test, folder)


def _ask_data(folder: Path, options: dict[str, Any]) -> DataProfile | None:
    """Ask for data until some can be learned from, and say what it is; None when there is none yet."""
    while True:
        text = click.prompt(
            "Data: a folder CLASS/IMAGE.png or CLASS/CLIP.wav, or an .npz (empty: a template to edit)",
            default="", show_default=False,
        )  # fmt: skip
        if not text:
            return None
        try:
            profile = _look(Path(text).expanduser(), options["test"], folder)
        except ConfigError as error:
            click.echo(f"  {error}")
            continue
        click.echo(f"  {profile.summary}")
        return profile


def _ask_target(kits: list[str]) -> dict[str, Any]:
    """Ask where it should run, and what it may cost there."""
    from edgedistill.deploy.devices.address import parse_address

    device = click.prompt("Device: local, or ssh://user@host", default="local", value_proc=_checked(parse_address))
    kit = click.prompt("Engine", type=click.Choice(kits), default="openvino" if "openvino" in kits else kits[0])
    limits = {
        "p95_ms": click.prompt(
            "Budget, p95 in ms (empty: none)", default="", show_default=False, value_proc=_number(float)
        ),
        "size_bytes": click.prompt(
            "Budget, size in bytes (empty: none)", default="", show_default=False, value_proc=_number(int)
        ),
    }
    return {"device": device.text, "kit": kit, **limits}


def _checked(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    """Let a prompt ask again where our own parser refuses."""

    def value(text: Any) -> Any:
        try:
            return parse(text) if isinstance(text, str) else text
        except ConfigError as error:
            raise click.UsageError(str(error)) from None

    return value


def _number(kind: type[float | int]) -> Callable[[str], Any]:
    def value(text: str) -> float | int | None:
        try:
            profile = kind(text) if text else None
        except ValueError:
            raise click.UsageError(f"'{text}' is no number") from None
        if profile is not None and not 0 < profile < float("inf"):
            raise click.UsageError(f"'{text}' is not above zero")
        return profile

    return value


def _options(options: dict[str, Any], kits: dict[str, Kit]) -> InitOptions:
    from edgedistill.config.schema import Budget
    from edgedistill.config.template import InitOptions
    from edgedistill.deploy.devices.address import parse_address
    from edgedistill.kits.kits import find_kit

    kit = find_kit(options["kit"], kits)
    limits = {name: options[name] for name in ("p95_ms", "size_bytes", "accuracy")}
    return InitOptions(
        name=options["name"], kit=kit.name, device=parse_address(options["device"]).text, epochs=options["epochs"],
        precisions=tuple(one for one in ("fp32", "int8") if one in kit.precisions), budget=Budget(**limits),
    )  # fmt: skip


def _name(profile: DataProfile, folder: Path) -> str:
    """Derive a run's name from where the data lies."""
    path = (folder / profile.keys["train"]).resolve()
    stem = path.parent.name if path.stem in ("train", "training") else path.stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._") or "my-model"
