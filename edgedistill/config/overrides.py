"""Overrides of single keys of a configuration: KEY=VALUE with dotted keys, as `--set` takes them."""

from __future__ import annotations

import sys
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel

from edgedistill.errors import ConfigError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

INTERNAL: Final = frozenset({"folder"})
"""Fields of the configuration that no file sets."""


def apply_override(table: dict[str, Any], section: type[BaseModel], override: str) -> None:
    """Set one key of a table, which was read from TOML and will be checked as `section`.

    The value is TOML; text that is not valid TOML is a string. In a list of tables, such as [[target]], a part of the key
    is the index of a table or its `name`: target.0.threads, target.pc.threads.

    Raises ConfigError for an unknown key, name or index, and for a value where the configuration has a table or vice versa.
    """
    try:
        parts, value = _split(override)
        _set(table, section, parts, value)
    except ConfigError as error:
        raise ConfigError(f"--set {override}: {error}") from None


def keys_of(section: type[BaseModel]) -> dict[str, Any]:
    """Return the annotation of each key that a file may set in a section."""
    fields = {field.alias or name: field.annotation for name, field in section.model_fields.items()}
    return {name: annotation for name, annotation in fields.items() if name not in INTERNAL}


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a key holds, alone or as a list of tables; None for a key that holds a value."""
    if get_origin(annotation) in (tuple, Union, UnionType, Annotated):
        return next((found for part in get_args(annotation) if (found := section_of(part)) is not None), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _split(override: str) -> tuple[list[str], Any]:
    """Return the parts of the key, and the value."""
    key, equals, text = override.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not key.strip():
        raise ConfigError("write KEY=VALUE, for example --set distill.epochs=3")
    if not all(parts):
        raise ConfigError(f"the key '{key}' has an empty part; write for example distill.epochs")
    try:
        return parts, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return parts, text.strip()  # an unquoted word is a string, because quotes are tedious in a shell


def _set(table: dict[str, Any], section: type[BaseModel], parts: list[str], value: Any, above: str = "") -> None:
    """Follow the parts of a key from a section, whose own key is `above`, to the last part, and set it."""
    name, *rest = parts
    keys, key = keys_of(section), f"{above}{name}"
    if name not in keys:
        raise ConfigError(f"unknown key '{key}'{nearest(name, keys)}")
    inner, is_list = section_of(keys[name]), _is_list(keys[name])
    if inner is None:
        _require_value(key, rest, value, is_list=is_list)
    elif not rest:
        _require_table(key, inner, value, is_list=is_list)
    if inner is None or not rest:
        table[name] = value
        return
    held = table.setdefault(name, {} if not is_list or rest[0] in keys_of(inner) else [])
    if is_list and (isinstance(held, list) or rest[0].isdecimal()):
        held, key = _chosen(held, inner, key, rest[0]), f"{key}.{rest.pop(0)}"
    if not isinstance(held, dict):
        raise ConfigError(f"'{key}' is a table, but the file gives it the value {held!r}")
    if not rest:
        raise ConfigError(f"'{key}' is a table; set one key of it, for example {key}.{next(iter(keys_of(inner)))}")
    _set(held, inner, rest, value, f"{key}.")


def _is_list(annotation: Any) -> bool:
    """Whether a key holds a list, of tables or of values."""
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return any(_is_list(part) for part in get_args(annotation))
    return get_origin(annotation) is tuple


def _require_value(shown: str, rest: list[str], value: Any, *, is_list: bool) -> None:
    if rest and is_list:
        raise ConfigError(f"'{shown}' is a list of values; set the whole list, for example {shown}=[...]")
    if rest:
        raise ConfigError(f"'{shown}' is a value; it has no key '{rest[0]}'")
    if isinstance(value, dict):
        raise ConfigError(f"'{shown}' takes a value, not a table")


def _require_table(shown: str, section: type[BaseModel], value: Any, *, is_list: bool) -> None:
    if isinstance(value, dict) or (is_list and isinstance(value, list)):
        return
    place = f"{shown}.0" if is_list else shown
    what = "a list of tables" if is_list else "a table"
    raise ConfigError(f"'{shown}' is {what}; set one key of it, for example {place}.{next(iter(keys_of(section)))}")


def _chosen(held: Any, section: type[BaseModel], key: str, part: str) -> Any:
    """Return the table that a part of a key names, by index or by the table's `name`; a single table has the index 0."""
    tables = held if isinstance(held, list) else [held]
    if not tables:
        raise ConfigError(f"the file has no [[{key}]]; add the table to the file")
    if part.isdecimal():
        if int(part) >= len(tables):
            raise ConfigError(f"there is no {key}.{part}; the indices of [[{key}]] are {_range(len(tables))}")
        return tables[int(part)]
    names = [str(one["name"]) for one in tables if isinstance(one, dict) and "name" in one]
    if names.count(part) > 1:
        raise ConfigError(f"{names.count(part)} [[{key}]] have the name '{part}'; use an index, {_range(len(tables))}")
    if part in names:
        return next(one for one in tables if one.get("name") == part)
    if part in keys_of(section):
        raise ConfigError(f"'{key}' is a list of tables; choose one of them: {key}.{names[0] if names else 0}.{part}")
    if not names:
        raise ConfigError(f"'{part}' is not an index of [[{key}]]; the indices are {_range(len(tables))}")
    raise ConfigError(f"no [[{key}]] has the name '{part}'{nearest(part, names)}")


def _range(count: int) -> str:
    return "0" if count == 1 else f"0 to {count - 1}"
