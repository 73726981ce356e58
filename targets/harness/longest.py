"""The latency at the longest request, where requests have several lengths."""

from __future__ import annotations

import time
from statistics import median
from typing import Any, Dict, List, Optional

import loading
import numpy as np
from kit import OwnProgram, Session, engine_errors

SECONDS = 1.0
LEAST, MOST = 30, 1000
"""The bounds of the number of timed inferences; a sixth as many are not timed before them."""


def time_longest(session: Session, recorded: Dict[str, np.ndarray], kit: str) -> Optional[Dict[str, Any]]:
    """Return the length of the longest request, the median latency of it in nanoseconds, and the number of inferences.

    None for an engine that is a separate program: its start would be measured too.
    """
    if isinstance(session, OwnProgram):
        return None
    at = int(recorded[loading.LENGTHS].argmax())
    (request,) = loading.requests_for(session, {name: array[at : at + 1] for name, array in recorded.items()}, kit)
    samples: List[int] = []
    with engine_errors(kit):
        session.set(request)
        end = time.perf_counter() + SECONDS
        while len(samples) < LEAST or (len(samples) < MOST and time.perf_counter() < end):
            begin = time.perf_counter_ns()
            session.infer()
            samples.append(time.perf_counter_ns() - begin)
    timed = samples[len(samples) // 6 :]
    return {"length": int(recorded[loading.LENGTHS][at]), "p50_ns": float(median(timed)), "n": len(timed)}
