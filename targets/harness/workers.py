"""The fresh processes of a bench: one checks outputs, several time inferences, one meters energy."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Dict, List

import check
import energy
import facts
import numpy as np
import process
import sampling
from kit import EngineError, engine_errors, load_engine


def run(spec: Dict[str, Any]) -> Dict[str, Any]:
    """Do one worker's task and return its JSON answer; arrays go to `spec["arrays"]`."""
    process.pin(spec["threads"], spec["kit"])
    return {"check": _check, "latency": _latency, "energy": _energy}[spec["task"]](spec)


def _check(spec: Dict[str, Any]) -> Dict[str, Any]:
    """Run every request, compare outputs, and keep the first requests in a small file for the timed processes."""
    recorded = _recorded(Path(spec["io"]))
    engine = load_engine(spec["kit"], Path(spec["kit_dir"]))
    with engine_errors(spec["kit"]):
        described = engine.describe()
        session = _load(engine, spec)
        executed, unknown = session.executed()
    refuse_downgrade(spec["kit"], spec["precision"], executed)
    inputs = _inputs(recorded, session, spec["kit"])
    outputs, fastest_ns = check.infer_all(session, inputs, spec["kit"])
    answer, arrays = check.compare(outputs, recorded, spec)
    np.savez(spec["arrays"], **arrays)
    np.savez(spec["head"], **{f"input.{name}": array[: spec["requests"]] for name, array in inputs.items()})
    if unknown:
        answer["reasons"]["precision.executed"] = unknown
    device = dict(facts.device_facts(), address=spec["address"], engine=described)
    return dict(answer, device=device, executed=executed, fastest_ns=fastest_ns)


def refuse_downgrade(kit: str, requested: str, executed: "Dict[str, int] | None") -> None:
    """Refuse an engine that ran the model in another precision than was asked for."""
    if executed is None:
        return
    if requested == "int8" and not executed.get("int8"):
        raise EngineError(f"{kit}: int8 was asked for, and no layer runs in int8; layers by precision: {executed}")
    lower = sorted(set(executed) & {"bf16", "fp16"})
    if requested == "fp32" and lower:
        raise EngineError(f"{kit}: fp32 was asked for, and layers run in {lower[0]}; layers by precision: {executed}")


def _latency(spec: Dict[str, Any]) -> Dict[str, Any]:
    """Load once, warm up, and time inferences; memory is this process's own, less the engine's baseline."""
    engine = load_engine(spec["kit"], Path(spec["kit_dir"]))
    with engine_errors(spec["kit"]):
        engine.describe()
    process.wait_for_own_children()
    recorded, room = _recorded(Path(spec["head"])), sampling.Buffers.of(spec["capacity"])
    resettable = process.reset_peak()
    baseline = process.resident_bytes()
    with engine_errors(spec["kit"]):
        begin = time.perf_counter_ns()
        session = _load(engine, spec)
        load_ns = time.perf_counter_ns() - begin
    requests = _requests(_inputs(recorded, session, spec["kit"]))
    with engine_errors(spec["kit"]):
        session.set(requests[0])
        begin = time.perf_counter_ns()
        session.infer()
        first_ns = time.perf_counter_ns() - begin
        warm = sampling.warm_up(session, requests, spec["seconds"])
        n, wall_ns = sampling.sample(session, requests, spec["seconds"], room)
        threads = session.threads()
    peak = process.peak_bytes() if resettable else None
    arrays = {
        "latency_ns": np.frombuffer(room.latency_ns, dtype=np.int64)[:n],
        "preempted": np.frombuffer(room.preempted, dtype=np.uint8)[:n].astype(bool),
        "warmup_ns": np.asarray(warm.latency_ns, dtype=np.int64),
    }
    np.savez(spec["arrays"], **arrays)
    return {
        "wall_ns": wall_ns,
        "load_ns": load_ns,
        "first_inference_ns": first_ns,
        "warmup_n": len(warm.latency_ns),
        "steady": warm.steady,
        "threads": threads,
        "affinity": process.affinity(),
        "peak_bytes": peak,
        "baseline_bytes": baseline if peak is not None else None,
    }


def _energy(spec: Dict[str, Any]) -> Dict[str, Any]:
    try:
        return energy_of(spec, energy.find_source())
    except energy.NoSourceError as reason:
        return {"reason": str(reason)}


def energy_of(spec: Dict[str, Any], source: energy.Source) -> Dict[str, Any]:
    """Meter a window of steady inference with idle before and after, in a pass of its own."""
    recorded = _recorded(Path(spec["head"]))
    engine = load_engine(spec["kit"], Path(spec["kit_dir"]))
    with engine_errors(spec["kit"]):
        session = _load(engine, spec)
    requests = _requests(_inputs(recorded, session, spec["kit"]))
    with engine_errors(spec["kit"]):
        sampling.warm_up(session, requests, spec["seconds"])
    return energy.meter(source, _looped(session, requests, spec["kit"]), spec["window"])


def _looped(session: Any, requests: List[Dict[str, np.ndarray]], kit: str) -> energy.Work:
    def work(until_ns: int) -> int:
        n = 0
        with engine_errors(kit):
            while time.perf_counter_ns() < until_ns:
                session.set(requests[n % len(requests)])
                session.infer()
                n += 1
        return n

    return work


def _load(engine: Any, spec: Dict[str, Any]) -> Any:
    return engine.load(Path(spec["entry"]), spec["precision"], spec["threads"])


def _recorded(path: Path) -> Dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _inputs(recorded: Dict[str, np.ndarray], session: Any, kit: str) -> Dict[str, np.ndarray]:
    """Return the recorded requests for the inputs that the compiled model has."""
    missing = [name for name in session.inputs if f"input.{name}" not in recorded]
    if missing:
        held = sorted(name[6:] for name in recorded if name.startswith("input."))
        raise EngineError(
            f"{kit}: the model wants an input '{missing[0]}', and the recorded ones are: {', '.join(held)}"
        )
    return {name: recorded[f"input.{name}"] for name in session.inputs}


def _requests(inputs: Dict[str, np.ndarray]) -> List[Dict[str, np.ndarray]]:
    """Split the arrays into single requests, each contiguous as an engine wants it."""
    count = min((len(array) for array in inputs.values()), default=0)
    return [{name: np.asarray(array[i], order="C") for name, array in inputs.items()} for i in range(count)]
