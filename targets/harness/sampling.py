"""The timed loop: warm up until steady, then sample in bursts, and tag samples that other work preempted."""

from __future__ import annotations

import gc
import math
import time
from array import array
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import environment
import numpy as np
from constants import BURSTS, SAMPLING, WARM_UP
from kit import EngineClock, EngineError, OwnProgram, Session
from process import Waiting, preemptions

LEAST_CLEARED = 1 << 26
"""Bytes to write over where the size of the caches is not known."""
REHEARSALS = 3
"""The number of bursts that are timed to choose how many are measured."""
FEW = 10
"""In bursts of more inferences, hardly ever all are preempted, so nothing is read about the threads that waited for a CPU."""


class Buffers(NamedTuple):
    """Buffers for samples, written once in advance so that filling them does not grow the measured process.

    `engine_ns` has latencies by the engine's own clock, and stays unused if the engine has no clock. `waited_ns` is how long the
    engine's thread waited for a CPU, 0 where that is not read. `lead` marks the first inferences of a burst, which are no samples, and
    `burst` has the number of the round.
    """

    latency_ns: "array[int]"
    engine_ns: "array[int]"
    waited_ns: "array[int]"
    preempted: bytearray
    lead: bytearray
    burst: "array[int]"

    @classmethod
    def of(cls, capacity: int) -> "Buffers":
        """Allocate buffers for `capacity` inferences."""
        numbers, flags = array("q", [1]), bytearray(b"\1")
        latency_ns, engine_ns, waited_ns = (numbers * capacity for _ in range(3))
        preempted, lead = flags * capacity, flags * capacity
        return cls(latency_ns, engine_ns, waited_ns, preempted, lead, array("i", [1]) * capacity)

    def arrays(self, count: int, *, with_engine: bool) -> Dict[str, np.ndarray]:
        """Return the first `count` inferences as arrays (N,): the samples, and under "lead_..." those that are none."""
        lead = np.frombuffer(self.lead, dtype=np.uint8)[:count].astype(bool)
        latency, burst = (
            np.frombuffer(self.latency_ns, dtype=np.int64)[:count],
            np.frombuffer(self.burst, dtype=np.int32),
        )
        found = {
            "latency_ns": latency[~lead],
            "waited_ns": np.frombuffer(self.waited_ns, dtype=np.int64)[:count][~lead],
            "preempted": np.frombuffer(self.preempted, dtype=np.uint8)[:count][~lead].astype(bool),
            "burst": burst[:count][~lead],
            "lead_ns": latency[lead],
            "lead_burst": burst[:count][lead],
        }
        if with_engine:
            found["engine_ns"] = np.frombuffer(self.engine_ns, dtype=np.int64)[:count][~lead]
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


def process_s(seconds: float, inference_s: float) -> float:
    """Estimate the seconds of a process of an undisturbed model without its start: the shortest warm-up, and the bursts."""
    samples = max(BURSTS.least, math.ceil(BURSTS.least_s / inference_s))
    burst_s = max(BURSTS.lead_s, inference_s) + samples * inference_s
    shortest, longest = WARM_UP.bounds_s(seconds)
    warm_up_s = min(longest, max(shortest, 2 * WARM_UP.window * inference_s))
    return warm_up_s + burst_s * (REHEARSALS + _bursts_of(seconds, burst_s, samples))


def _bursts_of(seconds: float, burst_s: float, samples: int) -> int:
    """Return how many bursts of `burst_s` and some samples take `seconds`, or the least number of samples, within constants.Sampling."""
    for_samples = math.ceil(SAMPLING.least / max(1, samples))
    return max(1, math.ceil(seconds / burst_s), min(for_samples, math.ceil(seconds * SAMPLING.most_times / burst_s)))


class Sampler:
    """Times the inferences of one session in bursts; `n` inferences have been timed, the samples among them in `wall_ns`."""

    def __init__(
        self, session: Session, requests: List[Dict[str, Any]], room: Buffers, clear: Callable[[], None]
    ) -> None:
        self.n, self.wall_ns, self.bursts = 0, 0, 0
        self._session, self._requests, self._room, self._clear = session, requests, room, clear
        self._waited_ns = no_waiting
        gc.collect()
        gc.disable()  # a garbage collection inside a burst would count as the engine's time

    def burst(self, number: int) -> None:
        """Time one burst: first inferences that refill the caches, then samples, within the bounds of constants.Bursts."""
        set_inputs, infer, clock = self._session.set, self._session.infer, time.perf_counter_ns
        room, clear, waited_ns = self._room, self._clear, self._waited_ns
        engine_ns = self._session.engine_ns if isinstance(self._session, EngineClock) else None
        lead_ns, least_ns = int(BURSTS.lead_s * 1e9), int(BURSTS.least_s * 1e9)
        n, leading, samples = self.n, clear is keep_caches, 0
        first = (
            BURSTS.least * number
        )  # models that take turns start with the same request, which may be longer than others
        start = clock()
        while n < len(room.latency_ns):
            set_inputs(self._requests[(first + samples) % len(self._requests)])
            clear()
            waited, before = waited_ns(), preemptions()
            begin = clock()
            infer()
            end = clock()
            room.latency_ns[n] = end - begin
            room.preempted[n], room.waited_ns[n] = preemptions() != before, waited_ns() - waited
            room.lead[n], room.burst[n] = leading, number
            if engine_ns is not None:
                room.engine_ns[n] = engine_ns()
            n += 1
            if leading:
                if end - start >= lead_ns:
                    leading, start = False, clock()
                continue
            samples += 1
            if samples >= BURSTS.least and end - start >= least_ns:
                break
        self.wall_ns += clock() - start
        self.n, self.bursts = n, self.bursts + 1

    def bursts_for(self, seconds: float) -> int:
        """Return how many bursts take `seconds`, or the least number of samples, within the bounds of constants.Sampling.

        Some bursts are timed and then forgotten; other work may have lengthened all but the fastest.
        """
        wall_s, samples = min(self._rehearse() for _ in range(REHEARSALS))
        # With several threads, or on a GPU, a thread may wait while others go on, so its waiting is no part of the latency.
        if samples <= FEW and self._session.threads() == 1:
            self._waited_ns = Waiting().so_far_ns
        return _bursts_of(seconds, wall_s, samples)

    def _rehearse(self) -> Tuple[float, int]:
        """Time a burst and forget it; return its seconds and its number of samples."""
        begin = time.perf_counter()
        self.burst(0)
        wall_s, samples = time.perf_counter() - begin, self.n - sum(self._room.lead[: self.n])
        self.n, self.wall_ns, self.bursts = 0, 0, 0
        return wall_s, samples

    def run_program(self, seconds: float) -> None:
        """Take the samples from one run of the engine's own program; the wall time is the sum of its inferences."""
        assert isinstance(self._session, OwnProgram)
        latency_ns, engine_ns = self._session.run_for(seconds)
        self.n = min(len(latency_ns), len(self._room.latency_ns))
        for i in range(self.n):
            self._room.latency_ns[i], self._room.engine_ns[i] = int(latency_ns[i]), int(engine_ns[i])
            self._room.preempted[i], self._room.lead[i], self._room.burst[i] = False, False, 0
            self._room.waited_ns[i] = 0
        self.wall_ns, self.bursts = int(latency_ns[: self.n].sum()), 1


def no_waiting() -> int:
    """Return 0: how long threads waited for a CPU is not read."""
    return 0


def keep_caches() -> None:
    """Leave the caches as they are: the first inferences of a burst refill them."""


def cache_clearer() -> Callable[[], None]:
    """Return a function that writes over more memory than the CPU's caches hold; its memory is in use from now on."""
    buffer = np.ones(max(LEAST_CLEARED, 2 * environment.largest_cache_bytes()), dtype=np.uint8)

    def clear() -> None:
        np.add(buffer, 1, out=buffer)

    return clear


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
