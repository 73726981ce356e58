"""The constants of measuring. constants.json holds the numbers, for this harness, the page for phones and the runner for phones alike.

After a change of that file, `python -m tests.support.constants` of the repository writes targets/web/constants.mjs and
targets/android/constants.h again.
"""

from __future__ import annotations

import json
import pkgutil
from typing import Any, Dict, NamedTuple, Tuple


class WarmUp(NamedTuple):
    """A warm-up ends when the medians of the last two windows of `window` inferences differ by at most the fraction `agreement`.

    It takes at least `least_s` seconds, or the fraction `least_share` of the time that is measured if that is shorter; and at most
    `most_s` seconds, or `most_times` as long as what is measured if that is shorter.
    """

    window: int
    agreement: float
    least_s: float
    least_share: float
    most_s: float
    most_times: float

    def bounds_s(self, seconds: float) -> Tuple[float, float]:
        """Return the shortest and the longest warm-up before so many seconds are measured."""
        return min(self.least_s, self.least_share * seconds), min(self.most_s, self.most_times * seconds)


class Sampling(NamedTuple):
    """A process is timed for the seconds asked for and for at least `least` inferences, but not for `most_times` as long."""

    least: int
    most_times: float


class Latency(NamedTuple):
    """Which percentiles are given, and above which fractions latencies are doubtful.

    `least_clean` inferences must not have been preempted. `contaminated` is the fraction that was preempted, `drifted` how far the last
    third of a process is from the first, `siblings_busy` and `stolen` fractions of CPU time.
    """

    percentiles: Dict[str, float]
    least_clean: int
    contaminated: float
    drifted: float
    siblings_busy: float
    stolen: float


class Check(NamedTuple):
    """`timed_requests` are those that timed processes cycle through; `resamples` how many a bootstrap interval is made of."""

    timed_requests: int
    resamples: int


class Energy(NamedTuple):
    """`windows` of inference of at least `window_s` seconds; idle power before and after may differ by `idle_agreement`.

    Monitors average over half a second and counters move in steps, so that a shorter window means nothing.
    """

    window_s: float
    windows: int
    warm_up_s: float
    idle_agreement: float


class Soak(NamedTuple):
    """A sustained run is kept in bins of `bin_s` seconds, or in longer ones where there would be more than `most_bins`.

    The device slowed down where inferences take `slower` times as long as at the beginning; a clock fell to less than `clock_fell`.
    """

    bin_s: float
    most_bins: int
    warm_up_s: float
    slower: float
    clock_fell: float


def _read() -> Dict[str, Any]:
    content = pkgutil.get_data(__name__, "constants.json")  # the harness may lie in a zip
    if content is None:
        raise ImportError("constants.json is missing beside constants.py")
    table: Dict[str, Any] = json.loads(content.decode("utf-8"))
    return table


_TABLE = _read()
WARM_UP = WarmUp(**_TABLE["warm_up"])
SAMPLING = Sampling(**_TABLE["sampling"])
LATENCY = Latency(**_TABLE["latency"])
CHECK = Check(**_TABLE["check"])
ENERGY = Energy(**_TABLE["energy"])
SOAK = Soak(**_TABLE["soak"])
