"""Reading `edgedistill.toml`: overrides, and errors that name the file, the key, and the nearest match."""

from __future__ import annotations

import sys
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from edgedistill.config.schema import Config
from edgedistill.errors import ConfigError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def load_config(path: Path, overrides: tuple[str, ...] = ()) -> Config:
    """Read a configuration, apply KEY=VALUE overrides (dotted keys, TOML values), and check it.

    Raises ConfigError that names the file, the key and, for a misspelt key, the nearest match.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; 'edgedistill init' writes one") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; name the .toml file in it") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    return parse_text(text, path, overrides)


def parse_text(text: str, path: Path, overrides: tuple[str, ...] = ()) -> Config:
    """Check the text of a configuration that is, or will be, at `path`; raises ConfigError as `load_config` does."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    for override in overrides:
        _apply(table, override)
    return parse_config(table, path.parent, str(path))


def parse_config(table: dict[str, Any], folder: Path, origin: str) -> Config:
    """Check a table read from `origin`; paths in it are relative to `folder`."""
    table.pop("folder", None)
    try:
        return Config.model_validate(table | {"folder": folder})
    except ValidationError as error:
        found = [dict(e) for e in error.errors()]
        # A misspelt key is also a missing one; saying so twice would only hide the first.
        misspelt = [e for e in found if e["type"] == "extra_forbidden"]
        lines = dict.fromkeys(_explain(e) for e in misspelt or found)
        raise ConfigError("\n".join(f"{origin}: {line}" for line in lines)) from None


def _apply(table: Any, override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override}: write KEY=VALUE, for example --set distill.epochs=3")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # an unquoted word is a string, as shells make quotes tedious
    for part in parts[:-1]:
        table = table[int(part)] if isinstance(table, list) and part.isdigit() else table.setdefault(part, {})
        if not isinstance(table, (dict, list)):
            raise ConfigError(f"--set {override}: '{part}' is a value, not a table")
    table[parts[-1]] = value


def _explain(error: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = _keys_beside(error["loc"])
        return f"unknown key '{where}'{nearest(str(error['loc'][-1]), known)}"
    if error["type"] == "missing":
        return f"key '{where}' is missing"
    message = error["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if where and error["type"] != "value_error":  # what a validator above raises says all of it
        message += f", not {error['input']!r}"
    return f"{where}: {message}" if where else message


def _keys_beside(location: tuple[int | str, ...]) -> set[str]:
    section: Any = Config
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        section = _section_of(_fields(section)[part].annotation)
    return set(_fields(section)) - {"folder"}


def _fields(section: Any) -> dict[str, Any]:
    return {field.alias or name: field for name, field in section.model_fields.items()}


def _section_of(annotation: Any) -> Any:
    if get_origin(annotation) in (tuple, Union, UnionType, Annotated):
        return next(found for part in get_args(annotation) if (found := _section_of(part)) is not None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
