"""The base of every energy source: readings over time, and the energy between two times."""

from __future__ import annotations

import time
from typing import List, NamedTuple, Protocol, Sequence

import numpy as np

GAP = 0.1
"""The longest permitted gap between readings, as a fraction of the window."""


class NoSourceError(Exception):
    """Energy cannot be read on this device, or the readings are insufficient; the text gives the reason."""


class AbsentError(NoSourceError):
    """The device has no source of this kind, which is normal; the text names the kind."""


class Reading(NamedTuple):
    """Power in milliwatts, or an increasing counter in microjoules, at a monotonic time."""

    time_ns: int
    value: float


class Source(Protocol):
    """A source of readings. `name` labels the figures, `scope` describes the covered parts of the device.

    `counts` is true for energy counters and false for power, and `settle_s` is the time until power shows a new state only.
    """

    name: str
    scope: str
    counts: bool
    settle_s: float

    def readings(self) -> List[Reading]:
        """Return the readings since the last call, or raise NoSourceError."""

    def close(self) -> None:
        """Close the source, and end the processes that it started."""


class Series(NamedTuple):
    """All readings of a pass: values (N,) at rising times (N,)."""

    time_ns: np.ndarray
    value: np.ndarray
    counts: bool

    @classmethod
    def of(cls, readings: Sequence[Reading], *, counts: bool) -> "Series":
        """Join readings, in the order of their times."""
        ordered = sorted(readings)
        times = np.array([reading.time_ns for reading in ordered], dtype=np.int64)
        return cls(times, np.array([reading.value for reading in ordered], dtype=np.float64), counts)


def now(value: float) -> List[Reading]:
    """Return one reading at the current time."""
    return [Reading(time.monotonic_ns(), value)]


def used_uj(series: Series, begin_ns: int, end_ns: int) -> float:
    """Return the energy between two times in microjoules: a counter's increase, or the integral of power by trapezoids.

    Raises NoSourceError where the readings do not cover that time, or have a gap in it.
    """
    times = series.time_ns
    if len(times) < 2 or times[0] > begin_ns or times[-1] < end_ns:
        raise NoSourceError("the readings do not cover the whole measurement")
    first, last = np.searchsorted(times, begin_ns, "right") - 1, np.searchsorted(times, end_ns, "left")
    steps = np.diff(times[first : last + 1])
    if (
        series.counts
    ):  # counters lose nothing in a gap, but a gap at either end mixes in the energy used before or after
        steps = steps[[0, -1]][[times[first] < begin_ns, times[last] > end_ns]]
    longest_ns = int(steps.max(initial=0))
    if longest_ns > GAP * (end_ns - begin_ns):
        raise NoSourceError(
            f"no reading for {longest_ns / 1e9:.2f} s within a window of {(end_ns - begin_ns) / 1e9:.2f} s"
        )
    if series.counts:
        begin_uj, end_uj = np.interp([begin_ns, end_ns], times, series.value)
        return float(end_uj - begin_uj)
    inside = times[first + 1 : last]
    at = np.concatenate([[begin_ns], inside, [end_ns]])
    power_mw = np.interp(at, times, series.value)
    return float(((power_mw[1:] + power_mw[:-1]) / 2 * np.diff(at)).sum() / 1e6)
