"""The timed loop: warm up until steady, then sample, and tag samples that other work preempted."""

from __future__ import annotations

import gc
import time
from array import array
from typing import Any, Dict, List, NamedTuple, Tuple

import numpy as np
from constants import SAMPLING, WARM_UP
from kit import EngineClock, EngineError, OwnProgram, Session
from process import preemptions


class Buffers(NamedTuple):
    """Buffers for samples, written once in advance so that filling them does not grow the measured process.

    `engine_ns` has latencies by the engine's own clock, and stays unused if the engine has no clock.
    """

    latency_ns: "array[int]"
    engine_ns: "array[int]"
    preempted: bytearray

    @classmethod
    def of(cls, capacity: int) -> "Buffers":
        """Allocate buffers for `capacity` samples."""
        return cls(array("q", [1]) * capacity, array("q", [1]) * capacity, bytearray(b"\1") * capacity)

    def arrays(self, count: int, *, with_engine: bool) -> Dict[str, np.ndarray]:
        """Return the first `count` samples as arrays (N,)."""
        found = {
            "latency_ns": np.frombuffer(self.latency_ns, dtype=np.int64)[:count],
            "preempted": np.frombuffer(self.preempted, dtype=np.uint8)[:count].astype(bool),
        }
        if with_engine:
            found["engine_ns"] = np.frombuffer(self.engine_ns, dtype=np.int64)[:count]
        return found


class WarmUp(NamedTuple):
    """The inferences before the sampled ones, in nanoseconds, and whether the last ones agreed."""

    latency_ns: List[int]
    steady: bool


def warm_up(session: Session, requests: List[Dict[str, Any]], seconds: float) -> WarmUp:
    """Infer until the last two windows agree, within the bounds of constants.WarmUp."""
    latencies: List[int] = []
    start = time.perf_counter()
    shortest, longest = WARM_UP.bounds_s(seconds)
    if isinstance(session, OwnProgram):
        session.set(requests[0])
        latencies = session.run_for(shortest)[0].tolist()
        return WarmUp(latencies, steady=_steady(latencies))
    while True:
        session.set(requests[len(latencies) % len(requests)])
        begin = time.perf_counter_ns()
        session.infer()
        latencies.append(time.perf_counter_ns() - begin)
        elapsed = time.perf_counter() - start
        if len(latencies) % WARM_UP.window == 0 and elapsed >= shortest and _steady(latencies):
            return WarmUp(latencies, steady=True)
        if elapsed >= longest:
            return WarmUp(latencies, steady=False)


def _steady(latencies: List[int]) -> bool:
    window = WARM_UP.window
    if len(latencies) < 2 * window:
        return False
    last, before = sorted(latencies[-window:])[window // 2], sorted(latencies[-2 * window : -window])[window // 2]
    return abs(last - before) <= WARM_UP.agreement * before


def sample(session: Session, requests: List[Dict[str, Any]], seconds: float, room: Buffers) -> Tuple[int, int]:
    """Fill `room` for `seconds`, within the bounds of constants.Sampling; return the count and the wall time in ns."""
    if isinstance(session, OwnProgram):
        return _sample_by_itself(session, seconds, room)
    set_inputs, infer, clock, capacity = session.set, session.infer, time.perf_counter_ns, len(room.latency_ns)
    engine_ns = session.engine_ns if isinstance(session, EngineClock) else None
    shortest, longest = int(seconds * 1e9), int(seconds * SAMPLING.most_times * 1e9)
    n = 0
    gc.collect()
    gc.disable()  # a garbage collection inside the loop would count as the engine's time
    start = clock()
    while n < capacity:
        set_inputs(requests[n % len(requests)])
        before = preemptions()
        begin = clock()
        infer()
        end = clock()
        room.latency_ns[n] = end - begin
        room.preempted[n] = preemptions() != before
        if engine_ns is not None:
            room.engine_ns[n] = engine_ns()
        n += 1
        elapsed = end - start
        if elapsed >= shortest and (n >= SAMPLING.least or elapsed >= longest):
            break
    wall = clock() - start
    gc.enable()
    return n, wall


def _sample_by_itself(session: OwnProgram, seconds: float, room: Buffers) -> Tuple[int, int]:
    """Fill `room` from a run of the engine's own program; the wall time is the sum of its inferences."""
    latency_ns, engine_ns = session.run_for(seconds)
    n = min(len(latency_ns), len(room.latency_ns))
    for i in range(n):
        room.latency_ns[i], room.engine_ns[i], room.preempted[i] = int(latency_ns[i]), int(engine_ns[i]), False
    return n, int(latency_ns[:n].sum())


def require_in_process(session: Session) -> None:
    """Raise EngineError for an engine in a separate program, whose start would dominate power and throughput."""
    if isinstance(session, OwnProgram):
        raise EngineError("not measured: the engine is a separate program, and its start would be measured too")


def infer_until(session: Session, requests: List[Dict[str, Any]], until_ns: int) -> int:
    """Infer until the monotonic clock reaches a time; return the number of inferences."""
    require_in_process(session)
    set_inputs, infer, clock = session.set, session.infer, time.monotonic_ns
    n = 0
    while clock() < until_ns:
        set_inputs(requests[n % len(requests)])
        infer()
        n += 1
    return n
