"""The pass of whole pictures: the time of preprocessing, network and postprocessing as the contract says, apart and together."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Dict, List

import answers
import loading
import numpy as np
import process
from kit import EngineError, OwnProgram, engine_errors, load_engine

FEWEST, MOST = 10, 500
"""Pictures to time after one pass over all of them, which warms up."""


def run(spec: Dict[str, Any]) -> Dict[str, Any]:
    """Return the median nanoseconds of the three steps and of all of them, over pictures of their original size."""
    kit, contract = spec["kit"], spec["contract"]
    engine = load_engine(kit, Path(spec["kit_dir"]))
    with engine_errors(kit):
        engine.describe()
        session = loading.load_session(engine, spec)
    if isinstance(session, OwnProgram):
        raise EngineError(f"{kit}: not measured: the engine runs in a program that cannot take single pictures")
    process.wait_for_own_children()
    pictures = list(loading.recorded(Path(spec["pictures"])).values())
    answers.answer_all(session, pictures, contract, kit)
    taken: List[List[int]] = []
    end = time.perf_counter_ns() + int(spec["window"] * 1e9)
    while len(taken) < max(FEWEST, len(pictures)) or (len(taken) < MOST and time.perf_counter_ns() < end):
        (answered,) = answers.answer_all(session, [pictures[len(taken) % len(pictures)]], contract, kit)
        taken.append(answered.nanoseconds)
    return summary(np.array(taken), [[one.shape[1], one.shape[0]] for one in pictures])


def summary(taken: np.ndarray, sizes: List[List[int]]) -> Dict[str, Any]:
    """Return the medians of nanoseconds (n, 3), in steps and together; `sizes` are widths and heights of the pictures."""
    before, network, after = np.median(taken, axis=0).tolist()
    return {
        "preprocess_ns": before,
        "network_ns": network,
        "postprocess_ns": after,
        "total_ns": float(np.median(taken.sum(axis=1))),
        "n": len(taken),
        "sizes": sizes,
    }
