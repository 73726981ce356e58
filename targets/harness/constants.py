"""The constants of measuring; constants.json contains the values for the harness, the web page and the phone runner.

After a change of that file, `python -m tests.support.constants` of the repository writes targets/web/constants.mjs and
targets/android/constants.h again.
"""

from __future__ import annotations

import json
import pkgutil
from typing import Any, Dict, List, NamedTuple, Tuple


class WarmUp(NamedTuple):
    """A warm-up ends when the medians of the last two windows of `window` inferences differ by at most the fraction `agreement`.

    The minimum is `least_s` seconds, or the fraction `least_share` of the measured time if that is shorter; the maximum is
    `most_s` seconds, or `most_times` times the measured time if that is shorter.
    """

    window: int
    agreement: float
    least_s: float
    least_share: float
    most_s: float
    most_times: float

    def bounds_s(self, seconds: float) -> Tuple[float, float]:
        """Return the shortest and the longest warm-up before a measurement of some seconds."""
        return min(self.least_s, self.least_share * seconds), min(self.most_s, self.most_times * seconds)


class Sampling(NamedTuple):
    """The requested seconds and at least `least` samples are timed, for at most `most_times` the requested seconds.

    368 samples are the fewest that bound a 99th percentile with 95 % confidence.
    """

    least: int
    most_times: float


class Bursts(NamedTuple):
    """Processes of several models take turns in bursts.

    A burst begins with `lead_s` seconds, and at least one inference, which refill the caches and are no samples; the samples
    follow for `least_s` seconds and at least `least` inferences. A burst is undisturbed if its median is within the fraction
    `near` of the fastest bursts; the device has modes if less than the fraction `modes` of the bursts is undisturbed.
    """

    lead_s: float
    least_s: float
    least: int
    near: float
    modes: float


class Duet(NamedTuple):
    """A difference of models that took turns is real above the fraction `noise`, and if its interval excludes 0.

    There is none if the whole interval is within the fraction `same`. The interval needs `least_sets`; `t975` has the 97.5 % points of Student's t for 1, 2, ... degrees of freedom.
    """

    noise: float
    same: float
    least_sets: int
    t975: List[float]


class Latency(NamedTuple):
    """The reported percentiles, and the fractions above which latencies are doubtful.

    `least_clean` inferences must not have been preempted. `contaminated` is the preempted fraction, `drifted`
    the relative change from the first to the last third of a process, and `siblings_busy` and `stolen` are fractions of CPU time.
    """

    percentiles: Dict[str, float]
    least_clean: int
    contaminated: float
    drifted: float
    siblings_busy: float
    stolen: float


class Check(NamedTuple):
    """The number of requests that timed processes cycle through, and of resamples for a bootstrap interval."""

    timed_requests: int
    resamples: int


class Energy(NamedTuple):
    """`windows` of inference of at least `window_s` seconds; idle power before and after may differ by `idle_agreement`.

    Monitors average over half a second and counters change in steps, so shorter windows give no meaningful energy.
    """

    window_s: float
    windows: int
    warm_up_s: float
    idle_agreement: float


class Soak(NamedTuple):
    """A sustained run is recorded in bins of `bin_s` seconds, or in longer bins if there would be more than `most_bins`.

    The device slowed down if inferences take `slower` times as long as at the beginning; a clock fell if it is below the
    fraction `clock_fell` of its first value.
    """

    bin_s: float
    most_bins: int
    warm_up_s: float
    slower: float
    clock_fell: float


def _read() -> Dict[str, Any]:
    content = pkgutil.get_data(__name__, "constants.json")  # the harness may be inside a zip
    if content is None:
        raise ImportError("constants.json is missing beside constants.py")
    table: Dict[str, Any] = json.loads(content.decode("utf-8"))
    return table


_TABLE = _read()
WARM_UP = WarmUp(**_TABLE["warm_up"])
SAMPLING = Sampling(**_TABLE["sampling"])
BURSTS = Bursts(**_TABLE["bursts"])
DUET = Duet(**_TABLE["duet"])
LATENCY = Latency(**_TABLE["latency"])
CHECK = Check(**_TABLE["check"])
ENERGY = Energy(**_TABLE["energy"])
SOAK = Soak(**_TABLE["soak"])
