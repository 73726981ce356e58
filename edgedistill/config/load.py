"""Read and check `edgedistill.toml`; errors name the file, the key and the nearest match."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgedistill.config.overrides import apply_override, keys_of
from edgedistill.config.schema import Config
from edgedistill.errors import ConfigError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


FILE_NAME = "edgedistill.toml"


def load_config(path: Path, overrides: tuple[str, ...] = ()) -> Config:
    """Read a configuration, apply KEY=VALUE overrides (dotted keys, TOML values), and check it.

    A folder stands for the edgedistill.toml in it.
    Raises ConfigError that names the file, the key and, for a misspelt key, the nearest match.
    """
    if path.is_dir():
        path = path / FILE_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; 'edgedistill init' writes one") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not a configuration: it is not text in UTF-8 ({error.reason})") from None
    return parse_text(text, path, overrides)


def parse_text(text: str, path: Path, overrides: tuple[str, ...] = ()) -> Config:
    """Check the text of the configuration at `path`, which need not exist yet; raises ConfigError as `load_config` does."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: its tables or lists are nested too deeply") from None
    wrong = [text for text in (_try_override(table, override) for override in overrides) if text is not None]
    if wrong:
        raise ConfigError("\n".join(wrong))
    return parse_config(table, path.parent, str(path))


def _try_override(table: dict[str, Any], override: str) -> str | None:
    """Apply an override, or return why it cannot be."""
    try:
        apply_override(table, Config, override)
    except ConfigError as error:
        return str(error)
    return None


def parse_config(table: dict[str, Any], folder: Path, origin: str) -> Config:
    """Check a table read from `origin`; paths in it are relative to `folder`."""
    table.pop("folder", None)
    try:
        return Config.model_validate(table | {"folder": folder})
    except ValidationError as error:
        errors: list[dict[str, Any]] = [dict(e) for e in error.errors()]
        # A misspelt key is often also reported as missing from its section; show only the misspelling.
        misspelt = {tuple(e["loc"][:-1]) for e in errors if e["type"] == "extra_forbidden"}
        shown = [e for e in errors if not misspelt or not _may_follow(e, misspelt)]
        lines = dict.fromkeys(_explain(e) for e in shown)
        raise ConfigError("\n".join(f"{origin}: {line}" for line in lines)) from None


def _may_follow(error: dict[str, Any], misspelt: set[tuple[int | str, ...]]) -> bool:
    """Tell whether an error may come from a misspelt key of its section; `misspelt` are the sections with misspelt keys."""
    if error["type"] == "missing":
        return tuple(error["loc"][:-1]) in misspelt
    return error["type"] == "value_error" and tuple(error["loc"]) in misspelt


def _explain(error: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = _keys_beside(error["loc"])
        return f"unknown key '{where}'{nearest(str(error['loc'][-1]), known)}"
    if error["type"] == "missing":
        return f"key '{where}' is missing"
    message = error["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if where and error["type"] != "value_error":  # our own validators write the whole message
        message += f", not {error['input']!r}"
    return f"{where}: {message}" if where else message


def _keys_beside(location: tuple[int | str, ...]) -> set[str]:
    """Return the known keys of the section that the last part of a location is in."""
    section: Any = Config
    parts = iter(location[:-1])
    for part in parts:
        if isinstance(part, str):
            section, holder = keys_of(section)[part]
            if holder == "names":
                next(parts)  # the name of a table, which the user chose
    return set(keys_of(section))
