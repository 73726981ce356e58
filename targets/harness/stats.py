"""Statistics of samples taken in several processes, as pure functions; the process is the unit of sampling.

Inferences of one process are correlated: an interval over pooled samples contains almost none of the medians of other
processes, so the intervals here are over one value per process.
"""

from __future__ import annotations

import math
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from constants import BURSTS, DUET, LATENCY

Interval = Tuple[float, float]

_Z975 = 1.959964


class Samples(NamedTuple):
    """One process's latencies in nanoseconds, which of them were preempted, and the round of the burst of each.

    `burst` is empty for a process that took no turns. `waited_ns` is the part of each latency in which the engine's thread waited for a
    CPU, empty where that is not known.
    """

    latency_ns: np.ndarray
    preempted: np.ndarray
    burst: np.ndarray = np.zeros(0, dtype=np.int64)
    waited_ns: np.ndarray = np.zeros(0, dtype=np.int64)

    @property
    def clean(self) -> np.ndarray:
        """The latencies that were not preempted."""
        return self.latency_ns[~self.preempted]

    def burst_medians(self) -> Dict[int, float]:
        """Return the median of each burst by its round, without preempted samples unless all were preempted."""
        return self._medians(self.latency_ns)

    def running_medians(self) -> Dict[int, float]:
        """Return the same; where all samples of a burst were preempted, of the time in which the thread did not wait for a CPU."""
        if not len(self.waited_ns):
            return self.burst_medians()
        return self._medians(
            np.where(self.waited_ns < self.latency_ns, self.latency_ns - self.waited_ns, self.latency_ns)
        )

    def _medians(self, of_preempted: np.ndarray) -> Dict[int, float]:
        first = np.flatnonzero(np.diff(self.burst, prepend=-1))
        found = {}
        for begin, end in zip(first, [*first[1:], len(self.burst)]):
            clean = self.latency_ns[begin:end][~self.preempted[begin:end]]
            found[int(self.burst[begin])] = float(np.median(clean if len(clean) else of_preempted[begin:end]))
        return found


def t975(degrees: int) -> float:
    """Return the 97.5 % point of Student's t distribution; beyond the table, by a series around the normal distribution's point."""
    if degrees <= len(DUET.t975):
        return DUET.t975[degrees - 1]
    z = _Z975
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def min_samples(fraction: float) -> int:
    """Return the fewest samples whose extremes bound a percentile from both sides with 95 % confidence."""
    tail = max(fraction, 1 - fraction)
    return math.ceil(math.log(0.025) / math.log(tail))


def order_statistics(samples: np.ndarray) -> Tuple[Dict[str, Optional[float]], Dict[str, Optional[Interval]]]:
    """Return one process's percentiles with distribution-free 95 % intervals; None where n is too small.

    An interval runs from one order statistic to another, the binomial quantiles of the rank (Conover 1999, 3.2). It is valid
    for this process only: percentiles of other processes lie outside far more often, which `latency_summary` accounts for.
    """
    ordered = np.sort(samples)
    percentiles: Dict[str, Optional[float]] = {}
    intervals: Dict[str, Optional[Interval]] = {}
    for name, fraction in LATENCY.percentiles.items():
        enough = len(ordered) >= min_samples(fraction)
        percentiles[name] = float(np.quantile(ordered, fraction)) if enough else None
        intervals[name] = None
        if enough:
            low, high = ranks(len(ordered), fraction)
            intervals[name] = float(ordered[low - 1]), float(ordered[high - 1])
    return percentiles, intervals


def ranks(n: int, fraction: float) -> Tuple[int, int]:
    """Return the ranks, from 1, whose order statistics bound a percentile with 95 % confidence."""
    centre, spread = n * fraction, math.sqrt(n * fraction * (1 - fraction))
    first, last = max(0, math.floor(centre - 8 * spread - 8)), min(n, math.ceil(centre + 8 * spread + 8))
    k = np.arange(first, last)
    start = math.lgamma(n + 1) - math.lgamma(first + 1) - math.lgamma(n - first + 1)
    start += first * math.log(fraction) + (n - first) * math.log(1 - fraction)
    steps = np.log((n - k) / (k + 1) * fraction / (1 - fraction))
    cumulative = np.cumsum(np.exp(start + np.concatenate([[0.0], np.cumsum(steps)])))
    low = first + int(np.searchsorted(cumulative, 0.025))
    high = first + int(np.searchsorted(cumulative, 0.975)) + 1
    return low, high


def ratio(one: Samples, other: Samples) -> Optional[float]:
    """Return the median, over the rounds in which both have a burst, of the ratio of their medians; None without such a round.

    Waiting for a CPU does not count, because that is other work's doing: an inference that lasts longer than the time slices of the
    kernel is preempted each time on a busy machine.
    """
    medians, others = one.running_medians(), other.running_medians()
    found = [medians[turn] / others[turn] for turn in medians if turn in others]
    return float(np.median(found)) if found else None


def undisturbed(processes: Sequence[Samples]) -> Optional[Dict[str, float]]:
    """Return the p50 of the bursts in the fastest mode of the device and the fraction of such bursts; None if no modes show."""
    medians = np.array([median for process in processes for median in process.burst_medians().values()])
    if not len(medians):
        return None
    fast = medians[medians <= np.quantile(medians, 0.05) * (1 + BURSTS.near)]
    share = len(fast) / len(medians)
    return None if share >= BURSTS.modes else {"p50": float(np.median(fast)), "share": share}


def drift(process: Samples) -> Optional[float]:
    """Return the ratio of the last third's median to the first third's, without preempted samples; None below 90 samples."""
    third = len(process.clean) // 3
    if third < LATENCY.least_clean:
        return None
    return float(np.median(process.clean[-third:]) / np.median(process.clean[:third]))


def wilson(hits: int, n: int) -> Interval:
    """Return the 95 % Wilson interval of a proportion."""
    share, z2 = hits / n, _Z975**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z975 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def log_interval(values: Sequence[float]) -> Optional[Interval]:
    """Return the 95 % Student-t interval of the processes' typical value, on a log scale; None below 3 processes."""
    if len(values) < 3:
        return None
    logs = np.log(np.asarray(values, dtype=np.float64))
    half = t975(len(logs) - 1) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    return math.exp(float(logs.mean()) - half), math.exp(float(logs.mean()) + half)


def latency_summary(processes: Sequence[Samples]) -> Tuple[Dict[str, Any], bool, Dict[str, str]]:
    """Return the latency figures, whether the run is contaminated, and the reasons for what is missing."""
    total = sum(len(process.latency_ns) for process in processes)
    n_clean = sum(len(process.clean) for process in processes)
    contaminated = total - n_clean > LATENCY.contaminated * total
    reasons: Dict[str, str] = {}
    if contaminated:
        reasons["contaminated"] = f"{total - n_clean} of {total} inferences were preempted by other work on the device"
    used = [process.clean for process in processes]
    if n_clean < LATENCY.least_clean:
        used = [process.latency_ns for process in processes]
        reasons["latency_ns"] = (
            f"only {n_clean} of {total} inferences were not preempted; the figures are over all inferences, so other work slowed them"
        )
    summary, missing = _figures([samples for samples in used if len(samples)])
    summary["undisturbed"] = undisturbed(processes)
    reasons.update(missing)
    return summary, contaminated, reasons


def _figures(used: List[np.ndarray]) -> Tuple[Dict[str, Any], Dict[str, str]]:
    reasons: Dict[str, str] = {}
    values = {name: _per_process(used, fraction) for name, fraction in LATENCY.percentiles.items()}
    values["mean"] = [float(samples.mean()) for samples in used]
    for name, fraction in LATENCY.percentiles.items():
        if 2 * len(values[name]) <= len(used) and name != "p50":
            values[name] = []
            fewest = min(len(samples) for samples in used)
            reasons[f"latency_ns.{name}"] = (
                f"needs {min_samples(fraction)} samples per process for a 95 % interval; the shortest process has {fewest}"
            )
    if len(used) < 3:
        reasons["latency_ns.ci95"] = f"needs at least 3 processes; the job ran {len(used)}"
    summary: Dict[str, Any] = {name: float(np.median(found)) if found else None for name, found in values.items()}
    summary["min"] = float(min(samples.min() for samples in used))
    summary["ci95"] = {name: log_interval(found) for name, found in values.items()}
    summary["n"] = sum(len(samples) for samples in used)
    return summary, reasons


def _per_process(used: List[np.ndarray], fraction: float) -> List[float]:
    """Return each process's percentile, of the processes that can bound it; of all of them for the median."""
    enough = [samples for samples in used if len(samples) >= min_samples(fraction) or fraction == 0.5]
    return [float(np.quantile(samples, fraction)) for samples in enough]
