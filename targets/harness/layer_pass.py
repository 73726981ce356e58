"""The layer pass: each layer's latency and precision, from the engine's profiler."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any, Dict, List

import loading
import process
import sampling
from kit import EngineError, OwnProgram, Session, engine_errors, load_engine

FEWEST, MOST = 20, 500
"""Inferences to profile: many, as profilers count in microseconds; but each adds its layers to the log."""


def run(spec: Dict[str, Any]) -> Dict[str, Any]:
    """Return the layers in execution order, and the latency with the profiler on and off, in nanoseconds."""
    engine = load_engine(spec["kit"], Path(spec["kit_dir"]))
    if engine.profile is None:
        raise EngineError(f"{spec['kit']}: the kit has no profiler")
    with engine_errors(spec["kit"]):
        engine.describe()
    process.wait_for_own_children()
    head = loading.recorded(Path(spec["head"]))
    with engine_errors(spec["kit"]):
        plain = engine.load(Path(spec["entry"]), spec["precision"], spec["threads"])
        profiled = engine.profile(Path(spec["entry"]), spec["precision"], spec["threads"])
        requests = loading.requests_for(plain, head, spec["kit"])
        plain_ns = _timed(plain, requests, spec["window"])
        profiled_ns = _timed(profiled, requests, spec["window"])
        layers: List[Dict[str, Any]] = profiled.layers()
    return {"layers": layers, "profiled_ns": profiled_ns, "plain_ns": plain_ns}


def _timed(session: Session, requests: List[loading.Request], seconds: float) -> float:
    """Return the median latency of an inference after a warm-up."""
    sampling.warm_up(session, requests, seconds)
    if isinstance(session, OwnProgram):
        return float(median(session.run_for(seconds)[0]))
    samples: List[int] = []
    end = time.perf_counter_ns() + int(seconds * 1e9)
    while len(samples) < FEWEST or (len(samples) < MOST and time.perf_counter_ns() < end):
        session.set(requests[len(samples) % len(requests)])
        begin = time.perf_counter_ns()
        session.infer()
        samples.append(time.perf_counter_ns() - begin)
    return float(median(samples))
