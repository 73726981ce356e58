"""Overrides of single keys of a configuration by `--set`: KEY=VALUE with dotted keys."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import UnionType
from typing import Annotated, Any, Final, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

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
    is the index of a table or its `name`: target.0.threads, target.pc.threads. Names that the file lacks are added where a key
    holds tables of any name.

    Raises ConfigError for an unknown key, name or index, and for a value where the configuration has a table or vice versa.
    """
    try:
        parts, value = _split(override)
        _set(table, section, parts, value)
    except ConfigError as error:
        raise ConfigError(f"--set {override}: {error}") from None


class Key(NamedTuple):
    """The content of a key: a section, or a value if `section` is None; alone, in a list, or in tables of any name."""

    section: type[BaseModel] | None
    holder: Literal["alone", "list", "names"]


def keys_of(section: type[BaseModel]) -> dict[str, Key]:
    """Return the keys that a file may set in a section."""
    fields = {field.alias or name: field for name, field in section.model_fields.items()}
    return {name: _key(field) for name, field in fields.items() if name not in INTERNAL}


def _key(field: FieldInfo) -> Key:
    origins = {get_origin(part) for part in _alternatives(field.annotation)}
    holder: Literal["alone", "list", "names"] = "list" if tuple in origins else "names" if dict in origins else "alone"
    return Key(None if _is_parsed(field.metadata) else _section_of(field.annotation), holder)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the annotation itself."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _is_parsed(metadata: Iterable[Any]) -> bool:
    """Whether a validator makes the record from a value, so that the file has no table for it."""
    return any(isinstance(one, BeforeValidator) for one in metadata)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section in an annotation, None if there is none."""
    if get_origin(annotation) is Annotated and _is_parsed(annotation.__metadata__):
        return None
    if get_origin(annotation) in (tuple, dict, Union, UnionType, Annotated):
        return next((section for part in get_args(annotation) if (section := _section_of(part)) is not None), None)
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
    keys, shown = keys_of(section), f"{above}{name}"
    if name not in keys:
        raise ConfigError(f"unknown key '{shown}'{nearest(name, keys)}")
    inner, holder = keys[name]
    if inner is None:
        _require_value(shown, rest, value, is_list=holder == "list")
    elif not rest:
        _require_table(shown, keys[name], value)
    if inner is None or not rest:
        table[name] = value
        return
    held = table.setdefault(name, [] if holder == "list" and rest[0] not in keys_of(inner) else {})
    if holder == "list" and (isinstance(held, list) or rest[0].isdecimal()):
        held, shown = _chosen(held, inner, shown, rest[0]), f"{shown}.{rest.pop(0)}"
    elif holder == "names" and isinstance(held, dict):
        held, shown = held.setdefault(rest[0], {}), f"{shown}.{rest.pop(0)}"
    if not isinstance(held, dict):
        raise ConfigError(f"'{shown}' is a table, but the file gives it the value {held!r}")
    if not rest:
        raise ConfigError(f"'{shown}' is a table; set one key of it, for example {shown}.{next(iter(keys_of(inner)))}")
    _set(held, inner, rest, value, f"{shown}.")


def _require_value(shown: str, rest: list[str], value: Any, *, is_list: bool) -> None:
    if rest and is_list:
        raise ConfigError(f"'{shown}' is a list of values; set the whole list, for example {shown}=[...]")
    if rest:
        raise ConfigError(f"'{shown}' is a value; it has no key '{rest[0]}'")
    if isinstance(value, dict):
        raise ConfigError(f"'{shown}' takes a value, not a table")


def _require_table(shown: str, key: Key, value: Any) -> None:
    if isinstance(value, dict) or (key.holder == "list" and isinstance(value, list)):
        return
    assert key.section is not None
    what, part = {
        "alone": ("a table", ""),
        "list": ("a list of tables", ".0"),
        "names": ("a group of tables", ".NAME"),
    }[key.holder]
    example = f"{shown}{part}.{next(iter(keys_of(key.section)))}"
    raise ConfigError(f"'{shown}' is {what}; set one key of it, for example {example}")


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
