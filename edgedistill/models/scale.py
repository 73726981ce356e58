"""Depth multipliers: how often a layout repeats its blocks."""

from __future__ import annotations

from edgedistill.errors import ConfigError


def repeats(base: int, depth: float) -> int:
    """Return `base` blocks times `depth`, rounded; raises ConfigError when none is left."""
    count = round(base * depth)
    if count < 1:
        raise ConfigError(f"depth {depth} leaves none of {base} block{'s' if base > 1 else ''}; use a larger depth")
    return count
