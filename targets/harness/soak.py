"""The sustained run: minutes of inference in one process, while its parent watches clocks, temperatures and power.

The series are in bins of a second or more: raw samples of many minutes would exceed a small device's memory.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import energy
import environment
import loading
import numpy as np
import sampling
from child import Watch, run_worker
from constants import SOAK
from kit import engine_errors
from process import affinity, preemptions, spread

SMOOTH = 5
STAYS = 0.9
FIRST = 0.1
"""The fraction of the bins that counts as the beginning, and the same fraction as the end."""


class Bins(NamedTuple):
    """The series of inference: times in ns (monotonic), counts, and latencies in ns; all (N,)."""

    time_ns: np.ndarray
    n: np.ndarray
    n_clean: np.ndarray
    p50_ns: np.ndarray
    p95_ns: np.ndarray


def run(spec: Dict[str, Any]) -> Dict[str, Any]:
    """Infer for `spec["seconds"]` without a pause, and record the figures of each bin."""
    loaded = loading.load(spec)
    bin_ns = int(1e9 * max(spec["bin"], spec["seconds"] / SOAK.most_bins))
    rows: List[Tuple[float, ...]] = []
    with engine_errors(spec["kit"]):
        sampling.require_in_process(loaded.session)
        sampling.warm_up(loaded.session, loaded.requests, spec["warm_up"])
        begin_ns = time.monotonic_ns()
        while time.monotonic_ns() - begin_ns < spec["seconds"] * 1e9:
            rows.append(_bin(loaded, bin_ns))
        wall_ns = time.monotonic_ns() - begin_ns
    columns = dict(zip(Bins._fields, np.array(rows).T))
    times = np.array([row[0] for row in rows], dtype=np.int64)
    loading.store(Path(spec["arrays"]), dict(columns, time_ns=times))
    return {"n": int(sum(row[1] for row in rows)), "seconds": wall_ns / 1e9}


def _bin(loaded: loading.Loaded, bin_ns: int) -> Tuple[float, ...]:
    """Infer for one bin; return its time, counts, and percentiles without preempted samples, or of all if all were."""
    set_inputs, infer, clock = loaded.session.set, loaded.session.infer, time.perf_counter_ns
    latencies: List[int] = []
    clean: List[bool] = []
    began_ns = time.monotonic_ns()
    until_ns = clock() + bin_ns
    end = 0
    while end < until_ns:
        set_inputs(loaded.requests[len(latencies) % len(loaded.requests)])
        before = preemptions()
        begin = clock()
        infer()
        end = clock()
        latencies.append(end - begin)
        clean.append(preemptions() == before)
    kept = np.array(latencies)[clean] if any(clean) else np.array(latencies)
    p50, p95 = np.quantile(kept, [0.5, 0.95])
    return began_ns, len(latencies), sum(clean), p50, p95


class Recorder:
    """The parent's readings of the device during the run: its sensors, and power where there is a source."""

    def __init__(self, threads: int, source: Optional[energy.Source]) -> None:
        self._cpus = spread(affinity(), threads) if affinity() else []
        self._source = source
        self._times: List[int] = []
        self._rows: List[Dict[str, float]] = []
        self._readings: List[energy.Reading] = []
        self.power_reason: Optional[str] = None

    def look(self) -> None:
        """Read all sensors and the power source once."""
        self._times.append(time.monotonic_ns())
        self._rows.append(environment.sensors(environment.ROOT, self._cpus))
        if self._source is not None and self.power_reason is None:
            try:
                self._readings += self._source.readings()
            except energy.NoSourceError as reason:
                self.power_reason = str(reason)

    def series(self) -> Dict[str, np.ndarray]:
        """Return each sensor's series (T,), `time_ns`, and `power_mw` at `power_time_ns`; a missing reading is NaN."""
        names = sorted({name for row in self._rows for name in row})
        found = {name: np.array([row.get(name, np.nan) for row in self._rows]) for name in names}
        found["time_ns"] = np.array(self._times, dtype=np.int64)
        if self._source is not None and len(self._readings) > 1:
            found["power_time_ns"], found["power_mw"] = _power(
                energy.Series.of(self._readings, counts=self._source.counts)
            )
        return found


def soaked(
    spec: Dict[str, Any], scratch: Path, source: Optional[energy.Source], start_s: float
) -> Tuple[Dict[str, Any], Dict[str, np.ndarray]]:
    """Run a sustained process and record the device; return the summary, and all series with times from the first bin on."""
    recorder = Recorder(spec["threads"], source)
    spec = dict(spec, task="soak", arrays=str(scratch / "soak.npz"), bin=SOAK.bin_s)
    watch = Watch(recorder.look, min(SOAK.bin_s, spec["seconds"] / 10))
    recorder.look()
    answer = run_worker(spec, scratch, start_s + 3 * spec["seconds"], watch)
    recorder.look()
    bins = Bins(**loading.recorded(Path(spec["arrays"])))
    seen = recorder.series()
    found = dict(answer, **summary(bins, seen), power_source=None if source is None else source.name)
    found["power_reason"] = recorder.power_reason
    arrays = {f"soak.{name}": array for name, array in {**bins._asdict(), **_renamed(seen)}.items()}
    return found, arrays


def _renamed(seen: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
    return {"sensor_time_ns" if name == "time_ns" else name: array for name, array in seen.items()}


def summary(bins: Bins, seen: Dict[str, np.ndarray]) -> Dict[str, Any]:
    """Return the summary of a sustained run: latency at both ends, the time of a slowdown, and throttling by the sensors."""
    ends = max(1, round(FIRST * len(bins.p50_ns)))
    start_ns, end_ns = float(np.median(bins.p50_ns[:ends])), float(np.median(bins.p50_ns[-ends:]))
    onset = slowed_at(bins.p50_ns, start_ns)
    onset_ns = None if onset is None else int(bins.time_ns[onset])
    return {
        "p50_start_ns": start_ns,
        "p50_end_ns": end_ns,
        "slowed_after_s": None if onset_ns is None else (onset_ns - int(bins.time_ns[0])) / 1e9,
        "throttling": throttling(seen, onset_ns),
        "sensors": {name: _ends(array) for name, array in seen.items() if not name.endswith("time_ns")},
    }


def slowed_at(p50_ns: np.ndarray, start_ns: float) -> Optional[int]:
    """Return the first bin from which on nine in ten smoothed bins are slower than the beginning; None if there is none."""
    if len(p50_ns) < 2 * SMOOTH:
        return None
    half = SMOOTH // 2
    smoothed = np.array([np.median(p50_ns[max(0, i - half) : i + half + 1]) for i in range(len(p50_ns))])
    slower = smoothed > SOAK.slower * start_ns
    for i in np.flatnonzero(slower):
        if len(slower) - i >= SMOOTH and slower[i:].mean() >= STAYS:
            return int(i)
    return None


def throttling(seen: Dict[str, np.ndarray], onset_ns: Optional[int]) -> Optional[str]:
    """Return which clock fell or which throttle counter rose, or None.

    If a model became slower while the clocks were constant, the cause is different, such as other work.
    """
    signs = [f"{name[15:]} rose by {array[-1] - array[0]:.0f}" for name, array in seen.items()
             if name.startswith("throttle_count.") and array[-1] > array[0]]  # fmt: skip
    if np.nanmax(seen.get("throttle_alarms", np.zeros(1))) > 0:
        signs.append("a throttle alarm was on")
    if onset_ns is not None:
        late = seen["time_ns"] >= onset_ns
        for name, array in seen.items():
            if name.startswith("clock_khz.") and late.any() and not late.all():
                before, after = np.nanmedian(array[~late]), np.nanmedian(array[late])
                if after < SOAK.clock_fell * before:
                    signs.append(f"{name[10:]} fell from {before / 1000:.0f} to {after / 1000:.0f} MHz")
    return "; ".join(signs) or None


def _ends(array: np.ndarray) -> Dict[str, Optional[float]]:
    """Return a series' first, last and largest value; None for an empty series."""
    known = array[np.isfinite(array)]
    if not len(known):
        return {"start": None, "end": None, "max": None}
    return {"start": float(known[0]), "end": float(known[-1]), "max": float(known.max())}


def _power(series: energy.Series) -> Tuple[np.ndarray, np.ndarray]:
    """Return times and power in milliwatts; for a counter, the mean power between consecutive readings."""
    if not series.counts:
        return series.time_ns, series.value
    return series.time_ns[1:], np.diff(series.value) / (np.diff(series.time_ns) / 1e9) / 1000
