"""Explain why a cached stage is stale."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

SHOWN = 3
"""The number of differences to list; further differences are only counted."""


def explain_stale(
    entry: Mapping[str, Any] | None,
    settings: Mapping[str, Any],
    parents: Mapping[str, str],
    versions: Mapping[str, str],
) -> str:
    """Return, in one line, the differences between a stage's manifest entry and its current settings, parents and versions."""
    if entry is None:
        return "not run yet"
    differences = list(_differences("", entry.get("config", {}), json.loads(json.dumps(settings))))
    differences += [f"a new {name}" for name, made in parents.items() if entry.get("parents", {}).get(name) != made]
    differences += list(_differences("", entry.get("versions", {}), versions))
    if not differences:
        return "an output file is missing or was changed"
    more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
    return "; ".join(differences[:SHOWN]) + more


def _differences(name: str, before: Any, after: Any) -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys((*before, *after)):
            yield from _differences(f"{name}.{key}" if name else str(key), before.get(key), after.get(key))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for place, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _differences(f"{name}.{place}", old, new)
    elif before != after:
        shown = _short(before), _short(after)
        yield f"{name} {shown[0]} \u2192 {shown[1]}" if None not in shown else f"{name} changed"


def _short(value: Any) -> str | None:
    """Return a value as text, or None for hashes, tables and long lists, which a person cannot read."""
    text = "not set" if value is None else str(value)
    return text if isinstance(value, (str, int, float, type(None))) and len(text) <= 30 else None
