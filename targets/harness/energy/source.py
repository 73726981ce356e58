"""What every vendor's energy counter has in common."""

from __future__ import annotations

from typing import Protocol, Sequence


class NoSourceError(Exception):
    """This device has no energy counter that can be read; the text is the reason."""


class Source(Protocol):
    """Cumulative energy counters of the whole device, in microjoules; `name` is what figures are labelled with."""

    name: str

    def read_uj(self) -> Sequence[int]:
        """Return the counters as they stand."""

    def used_uj(self, begin: Sequence[int], end: Sequence[int]) -> int:
        """Return the energy between two readings, a counter that wrapped around once put right."""
