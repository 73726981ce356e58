"""Depth multipliers: the number of blocks of an architecture."""

from __future__ import annotations

from edgedistill.errors import ConfigError


def repeats(base: int, depth: float) -> int:
    """Return `base` blocks times `depth`, rounded; raises ConfigError if the result is 0."""
    count = round(base * depth)
    if count < 1:
        raise ConfigError(f"depth {depth} leaves none of {base} block{'s' if base > 1 else ''}; use a larger depth")
    return count
