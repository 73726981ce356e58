"""Energy from a counter of the device; one small module per vendor, each with a `find` that says why it has none."""

from __future__ import annotations

import time
from typing import Any, Callable, Dict

from energy import rapl
from energy.source import NoSourceError, Source

Work = Callable[[int], int]
"""Infers until the clock (perf_counter_ns) reaches a time; returns the number of inferences."""

IDLE_AGREEMENT = 0.05


def find_source() -> Source:
    """Return this device's energy counter, or raise NoSourceError with every vendor's reason."""
    return rapl.find()


def meter(source: Source, work: Work, seconds: float) -> Dict[str, Any]:
    """Return microjoules per inference over a window of `seconds`, with idle of a quarter of it before and after."""
    before_mw = _idle_mw(source, seconds / 4)
    begin_uj, begin_ns = source.read_uj(), time.perf_counter_ns()
    n = work(begin_ns + int(seconds * 1e9))
    used_uj = source.used_uj(begin_uj, source.read_uj())
    window_s = (time.perf_counter_ns() - begin_ns) / 1e9
    after_mw = _idle_mw(source, seconds / 4)
    subtracted, reason = subtract_idle(used_uj, window_s, before_mw, after_mw)
    return {
        "per_inference": used_uj / n,
        "idle_subtracted": None if subtracted is None else subtracted / n,
        "source": source.name,
        "reason": reason,
    }


def subtract_idle(
    used_uj: float, window_s: float, before_mw: float, after_mw: float
) -> "tuple[float | None, str | None]":
    """Return the energy above idle, or why the idle power cannot be subtracted."""
    if abs(before_mw - after_mw) > IDLE_AGREEMENT * before_mw:
        return None, f"idle power was {before_mw:.0f} mW before and {after_mw:.0f} mW after, more than 5 % apart"
    above = used_uj - (before_mw + after_mw) / 2 * 1000 * window_s
    if above <= 0:
        return None, "the device drew no more than when idle"
    return above, None


def _idle_mw(source: Source, seconds: float) -> float:
    begin_uj, begin_ns = source.read_uj(), time.perf_counter_ns()
    time.sleep(seconds)
    used_uj = source.used_uj(begin_uj, source.read_uj())
    return used_uj / ((time.perf_counter_ns() - begin_ns) / 1e9) / 1000


__all__ = ["NoSourceError", "Source", "find_source", "meter", "subtract_idle"]
