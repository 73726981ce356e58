"""Throughput: several concurrent requests, each in a separate session, until throughput stops growing."""

from __future__ import annotations

import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, Dict, List, Tuple

import energy
import loading
import process
import sampling
from kit import Engine, EngineError, Session, engine_errors, load_engine

WINDOWS = 3
GAIN = 1.05
"""The throughput ratio that a step of concurrency must reach for the next step to be tried."""
MOST_ON_GPU = 16


def run(spec: Dict[str, Any]) -> Dict[str, Any]:
    """Return the best throughput, its concurrency, and the throughput at each tried concurrency."""
    engine = load_engine(spec["kit"], Path(spec["kit_dir"]))
    with engine_errors(spec["kit"]):
        engine.describe()
    process.wait_for_own_children()
    head = loading.recorded(Path(spec["head"]))
    streams: List[Stream] = []
    rates: Dict[int, float] = {}
    stopped = None
    cpus = len(process.affinity()) or os.cpu_count() or 1
    for level in levels(spec["threads"], engine.runs_on, cpus):
        try:
            streams += [Stream(engine, spec, head, i) for i in range(len(streams), level)]
            rates[level] = median(_rate(streams, spec["window"]) for _ in range(WINDOWS))
        except EngineError as error:
            if not rates:
                raise
            stopped = f"{level} at once: {error}"
            break
        if rates[level] < GAIN * max([rate for k, rate in rates.items() if k < level], default=0.0):
            break
    best = max(rates, key=lambda level: rates[level])
    return {"per_s": rates[best], "concurrency": best, "levels": {str(k): rates[k] for k in rates}, "stopped": stopped}


def levels(threads: int, runs_on: str, cpus: int) -> List[int]:
    """Return 1, 2, 4 and so on, up to the number of sessions that the CPUs have threads for; a GPU has no such bound."""
    most = MOST_ON_GPU if runs_on == energy.GPU else max(1, cpus // threads)
    return sorted({min(1 << i, most) for i in range(most.bit_length() + 1)})


class Stream:
    """A thread with its own session, bound to its own CPUs if there are enough."""

    def __init__(self, engine: Engine, spec: Dict[str, Any], head: loading.Request, index: int) -> None:
        self._kit, self._threads = spec["kit"], spec["threads"]
        self._pool = ThreadPoolExecutor(1)
        self._session, self._requests = self._pool.submit(self._load, engine, spec, head, index).result()

    def _load(
        self, engine: Engine, spec: Dict[str, Any], head: loading.Request, index: int
    ) -> Tuple[Session, List[loading.Request]]:
        # Threads that the engine starts for this session inherit the CPUs of the thread that loads it.
        allowed = process.affinity()
        mine = (
            [allowed[-1 - (index * self._threads + i) % len(allowed)] for i in range(self._threads)] if allowed else []
        )
        if mine:
            os.sched_setaffinity(0, mine)
        with engine_errors(self._kit):
            session = loading.load_session(engine, spec)
            requests = loading.requests_for(session, head, self._kit)
            sampling.warm_up(session, requests, spec["window"])
        return session, requests

    def start(self, until_ns: int) -> "Future[int]":
        """Start inferring until the clock reaches a time; the future returns the number of inferences."""
        return self._pool.submit(self._work, until_ns)

    def _work(self, until_ns: int) -> int:
        with engine_errors(self._kit):
            return sampling.infer_until(self._session, self._requests, until_ns)


def _rate(streams: List[Stream], seconds: float) -> float:
    """Return the inferences per second of all streams together."""
    begin_ns = time.monotonic_ns()
    started = [stream.start(begin_ns + int(seconds * 1e9)) for stream in streams]
    count = sum(future.result() for future in started)
    return count / ((time.monotonic_ns() - begin_ns) / 1e9)
