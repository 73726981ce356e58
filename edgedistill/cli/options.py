"""Options that several commands share, and the one place that refuses an option which the command would not read.

Only click is imported, so that `--help` is fast.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click
from click.core import ParameterSource

from edgedistill.errors import ConfigError, nearest
from edgedistill.records.stage_names import STAGE_NAMES

if TYPE_CHECKING:
    from edgedistill.kits.kits import Kit
    from edgedistill.runtime.progress import Reporter

STAGES: Final = f"{', '.join(STAGE_NAMES[:-1])} or {STAGE_NAMES[-1]}"
"""The names of the stages in their order, in words."""
FILE = click.Path(path_type=Path)
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Condition(NamedTuple):
    """A condition under which an option is read.

    `scope` completes the sentence "--option only applies ..."; `holds` takes the parameters of the command; options with
    this condition have their own section, `title`, in the help.
    """

    scope: str
    holds: Callable[[Mapping[str, Any]], bool]
    title: str = "Options"


def is_onnx(parameters: Mapping[str, Any]) -> bool:
    """Whether the input of a command is an ONNX file, not a configuration."""
    return parameters["model_or_config"].suffix.lower() == ".onnx"


ONNX: Final = Condition("to .onnx files", is_onnx, "Options for .onnx files")
CONFIG: Final = Condition("to configurations", lambda given: not is_onnx(given), "Options for configurations")
TARGET: Final = Condition("with --target KIT", lambda given: bool(given["kit_names"]))

Only = Mapping[Condition, str]
"""The conditions of an option, each with what the user should do where the condition does not hold."""


class Option(click.Option):
    """An option of a `Command`; `only` says when it is read."""

    def __init__(self, *declarations: Any, only: Only | None = None, **settings: Any) -> None:
        super().__init__(*declarations, **settings)
        self.only: Only = only or {}


class Command(click.Command):
    """A command that refuses options which it would not read, and shows them in sections of the help."""

    def invoke(self, ctx: click.Context) -> Any:
        """Refuse unread options, then run the command."""
        for message in unread(ctx):
            raise ConfigError(message)
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, those with a condition in a section of their own."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                sections.setdefault(_title(parameter), []).append(record)
        for title, records in sorted(sections.items(), key=lambda item: item[0] == "Options"):
            with formatter.section(title):
                formatter.write_dl(records)


def unread(context: click.Context) -> Iterator[str]:
    """Yield a message for each option that was given and that the command would not read."""
    for parameter in context.command.params:
        if isinstance(parameter, Option) and is_given(context, parameter.name):
            failed = [one for one in parameter.only if not one.holds(context.params)]
            for condition in failed[:1]:
                instead = parameter.only[condition].format(**context.params)
                yield f"{max(parameter.opts, key=len)} only applies {condition.scope}; {instead}"


def is_given(context: click.Context, name: str | None) -> bool:
    """Whether the user gave a value for a parameter."""
    return name is not None and context.get_parameter_source(name) is not ParameterSource.DEFAULT


def command_line(context: click.Context, without: str) -> list[str]:
    """Return the words of the command that runs, as a user types them, except one option."""
    words = (
        ["edgedistill"] if context.parent is None else [*command_line(context.parent, without), str(context.info_name)]
    )
    for parameter in context.command.params:
        given = context.params.get(str(parameter.name))
        flag = max(parameter.opts, key=len)
        if context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE and flag != without:
            values = given if isinstance(given, tuple) else (given,)
            is_flag = isinstance(parameter, click.Option) and parameter.is_flag
            start = [flag] if isinstance(parameter, click.Option) else []
            words += start if is_flag else [word for value in values for word in (*start, str(value))]
    return words


def _title(parameter: click.Parameter) -> str:
    titles = [condition.title for condition in parameter.only] if isinstance(parameter, Option) else []
    return titles[0] if titles else "Options"


def option(*declarations: str, **settings: Any) -> Decorator:
    """Declare an option that may have conditions, as `only`."""
    return click.option(*declarations, cls=Option, **settings)


def options(*decorators: Decorator) -> Decorator:
    """Combine declarations of options into one decorator, in their order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def stage_option(*declarations: str, **settings: Any) -> Decorator:
    """Declare an option that takes the name of a stage."""
    return option(*declarations, metavar="STAGE", callback=_known_stage, **settings)


def _known_stage(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:  # noqa: ARG001 - click's signature
    """Return the name of a stage as it is; raise ConfigError with the nearest name for an unknown one."""
    if value is not None and value not in STAGE_NAMES:
        raise ConfigError(f"{parameter.opts[0]}: unknown stage '{value}'{nearest(value, STAGE_NAMES)}")
    return value


AS_JSON: Final[Decorator] = option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
DRY_RUN: Final[Decorator] = option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")


def run_dir_option(only: Only | None = None, default: str = "runs/NAME") -> Decorator:
    """Declare --run-dir."""
    return option("--run-dir", type=FILE, metavar="DIR", only=only, help=f"The run folder.  [default: {default}]")


def set_option(only: Only | None = None) -> Decorator:
    """Declare --set."""
    return option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE", only=only,
        help="Override a key, e.g. distill.epochs=3 or target.pc.threads=2. Repeatable.",
    )  # fmt: skip


def from_option(only: Only | None = None) -> Decorator:
    """Declare --from."""
    return stage_option("--from", "start", only=only, help=f"Run this stage and all later stages again: {STAGES}.")


def skip_bad_option(only: Only | None = None) -> Decorator:
    """Declare --skip-bad."""
    return option("--skip-bad", is_flag=True, only=only, help="Leave out images and WAV files that cannot be read.")


def overrides_of(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys of a configuration that the options --set and --skip-bad replace, as KEY=VALUE."""
    return (*options["overrides"], *(("data.skip_bad=true",) if options["skip_bad"] else ()))


run_options = options(run_dir_option(), set_option(), skip_bad_option(), from_option(), DRY_RUN, AS_JSON)
"""The options of commands that run the pipeline of a configuration."""


def quoted(path: Path) -> str:
    """Return an absolute path as a TOML string, for an override."""
    return json.dumps(str(path.resolve()), ensure_ascii=False)


def surroundings(context: click.Context) -> tuple[dict[str, Kit], Reporter]:
    """Return the available kits, including the user's own, and a progress reporter as verbose as the options ask for."""
    from edgedistill.kits.kits import find_kits
    from edgedistill.runtime import processes
    from edgedistill.runtime.progress import Reporter

    folders, quiet, verbose = context.obj
    return find_kits(folders), Reporter(quiet=quiet or not processes.is_main_process(), verbose=verbose)


def require_run(folder: Path) -> None:
    """Raise ConfigError unless a folder is a run folder."""
    if not (folder / "manifest.json").is_file():
        raise ConfigError(f"{folder}: not a run folder; it has no manifest.json")
