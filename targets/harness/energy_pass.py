"""The energy pass: one process goes from idle to inference and back to idle, while its parent reads the source."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Dict, List

import energy
import loading
import sampling
from child import Watch, run_worker
from constants import ENERGY
from kit import engine_errors

POLL_S = 0.1
LATE_S = 5.0
"""The longest delay until a meter writes its readings."""


def run(spec: Dict[str, Any]) -> Dict[str, Any]:
    """Stay idle, infer in windows without a pause, stay idle again; return the times and the numbers of inferences."""
    loaded = loading.load(spec)
    with engine_errors(spec["kit"]):
        sampling.warm_up(loaded.session, loaded.requests, spec["seconds"])
        before = _idle(spec)
        sampling.infer_until(loaded.session, loaded.requests, time.monotonic_ns() + int(spec["settle"] * 1e9))
        windows, counts = [], []
        for _ in range(ENERGY.windows):
            begin_ns = time.monotonic_ns()
            until_ns = begin_ns + int(spec["window"] * 1e9)
            counts.append(sampling.infer_until(loaded.session, loaded.requests, until_ns))
            windows.append([begin_ns, time.monotonic_ns()])
    return {"before": before, "windows": windows, "counts": counts, "after": _idle(spec)}


def _idle(spec: Dict[str, Any]) -> List[int]:
    """Sleep until power has settled and for one more window, with the model loaded; return that window."""
    time.sleep(spec["settle"])
    begin_ns = time.monotonic_ns()
    time.sleep(spec["window"])
    end_ns = time.monotonic_ns()
    time.sleep(2 * spec["poll"])  # so that no reading at the end of the window covers the next state
    return [begin_ns, end_ns]


def metered(source: energy.Source, spec: Dict[str, Any], scratch: Path, start_s: float) -> Dict[str, Any]:
    """Run the pass in a fresh process and return its figures, labelled with their source.

    Raises NoSourceError if the source failed, and EngineError if the process failed.
    """
    found: List[energy.Reading] = []

    def poll() -> None:
        found.extend(source.readings())

    poll()
    spec = dict(spec, task="energy", settle=source.settle_s, poll=min(POLL_S, spec["window"] / 50))
    limit_s = start_s + 40 * (spec["window"] + source.settle_s)
    marks = energy.Marks.read(run_worker(spec, scratch, limit_s, Watch(poll, spec["poll"])))
    deadline = time.monotonic() + LATE_S
    while (not found or found[-1].time_ns < marks.after[1]) and time.monotonic() < deadline:
        time.sleep(POLL_S)
        poll()
    figures = energy.figures(energy.Series.of(found, counts=source.counts), marks)
    return dict(figures, source=source.name, scope=source.scope)
