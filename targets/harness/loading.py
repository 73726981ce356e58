"""The first step of every fresh process: load the engine, the model, and the recorded requests."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import numpy as np
import process
from kit import Engine, EngineError, Session, engine_errors, load_engine

Request = Dict[str, np.ndarray]
LENGTHS = "lengths"
"""The recorded array (N,) with the length of the last axis of each request, where requests of several lengths are padded."""


class Loaded(NamedTuple):
    """A session with its requests, the loading time, and the memory in bytes before and after loading."""

    session: Session
    requests: List[Request]
    load_ns: int
    baseline_bytes: Optional[int]
    load_peak_bytes: Optional[int]


def load(spec: Dict[str, Any]) -> Loaded:
    """Import the engine, wait for the end of processes that it forked, load the model, and read the memory before and after.

    `baseline_bytes` contains the initial memory of the process and the engine's code; the rest belongs to the model.
    """
    engine = load_engine(spec["kit"], Path(spec["kit_dir"]))
    with engine_errors(spec["kit"]):
        engine.describe()
    process.wait_for_own_children()
    head = recorded(Path(spec["head"]))
    resettable = process.reset_peak()
    baseline = process.resident_bytes() if resettable else None
    with engine_errors(spec["kit"]):
        begin = time.perf_counter_ns()
        session = load_session(engine, spec)
        load_ns = time.perf_counter_ns() - begin
    load_peak = process.peak_bytes() if resettable else None
    return Loaded(session, requests_for(session, head, spec["kit"]), load_ns, baseline, load_peak)


def load_session(engine: Engine, spec: Dict[str, Any]) -> Session:
    """Load a model in exactly the requested precision and number of threads, or raise."""
    session = engine.load(Path(spec["entry"]), spec["precision"], spec["threads"])
    threads = session.threads()
    if threads not in (None, spec["threads"]):
        raise EngineError(f"{spec['kit']}: {spec['threads']} threads were requested, but the engine has {threads}")
    return session


def recorded(path: Path) -> Dict[str, np.ndarray]:
    """Read an archive of arrays."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def store(path: Path, arrays: Dict[str, np.ndarray]) -> None:
    """Write an archive of arrays."""
    write: Callable[..., None] = np.savez  # its type hints mistake every array name for an option
    write(path, **arrays)


def requests_for(session: Session, arrays: Dict[str, np.ndarray], kit: str) -> List[Request]:
    """Return the recorded requests as single contiguous arrays, as engines require, each at its own length."""
    inputs = inputs_for(session, arrays, kit)
    count = min((len(array) for array in inputs.values()), default=0)
    requests = [{name: np.asarray(array[i]) for name, array in inputs.items()} for i in range(count)]
    for request, length in zip(requests, arrays.get(LENGTHS, ())):
        request.update({name: array[..., :length] for name, array in request.items()})
    return [{name: np.asarray(array, order="C") for name, array in request.items()} for request in requests]


def inputs_for(session: Session, arrays: Dict[str, np.ndarray], kit: str) -> Request:
    """Return the recorded inputs that the compiled model has."""
    missing = [name for name in session.inputs if f"input.{name}" not in arrays]
    if missing:
        held = sorted(name[6:] for name in arrays if name.startswith("input."))
        raise EngineError(
            f"{kit}: the model needs input '{missing[0]}', but the recorded inputs are: {', '.join(held)}"
        )
    return {name: arrays[f"input.{name}"] for name in session.inputs}
