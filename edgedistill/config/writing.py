"""Write a configuration as TOML: the keys that were given, with the values that were used."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from edgedistill.config.schema import Config


def to_toml(config: Config) -> str:
    """Return the TOML text that `load_config` reads as the same configuration; paths in it stay relative to its folder."""
    table = config.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    return "\n".join(_lines(table, ())).strip() + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """Yield the lines of a table: its values, then its tables and its arrays of tables."""
    for key, value in table.items():
        if not _is_table(value) and not _is_array_of_tables(value):
            yield f"{_key(key)} = {_value(value)}"
    for key, value in table.items():
        name = ".".join(map(_key, (*path, key)))
        if _is_table(value):
            yield from ("", f"[{name}]", *_lines(value, (*path, key)))
        elif _is_array_of_tables(value):
            for one in value:
                yield from ("", f"[[{name}]]", *_lines(one, (*path, key)))


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_array_of_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_table, value))


def _key(key: str) -> str:
    is_bare = key.replace("-", "").replace("_", "").isalnum() and key.isascii()
    return key if is_bare else _value(key)


def _value(value: Any) -> str:
    """Return a value; strings are written as in JSON, whose escapes TOML has too, except that DEL must be escaped."""
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)
