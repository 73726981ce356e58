"""The tasks of a bench's fresh processes: check outputs, time inferences, or run a pass from another module."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable, Dict, Optional

import check
import cpustat
import energy_pass
import environment
import facts
import layer_pass
import loading
import null_model
import numpy as np
import process
import sampling
import soak
import throughput
from kit import Conditions, DeviceMemory, EngineClock, EngineError, OwnProgram, Session, engine_errors, load_engine

Spec = Dict[str, Any]


def run(spec: Spec) -> Dict[str, Any]:
    """Do one worker's task and return its JSON answer; arrays go to `spec["arrays"]`."""
    if spec["task"] != "throughput":  # its streams are bound one by one
        process.pin(spec["threads"], spec["kit"])
    return TASKS[spec["task"]](spec)


def _check(spec: Spec) -> Dict[str, Any]:
    """Run every request, compare outputs, and keep the first requests in a small file for the timed processes."""
    recorded = {name: array[: spec["first"]] for name, array in loading.recorded(Path(spec["io"])).items()}
    engine = load_engine(spec["kit"], Path(spec["kit_dir"]))
    with engine_errors(spec["kit"]):
        described = engine.describe()
        session = loading.load_session(engine, spec)
        executed, remark = session.executed()
        settings = session.settings() if isinstance(session, Conditions) else None
    refuse_downgrade(spec["kit"], spec["precision"], executed)
    inputs = loading.inputs_for(session, recorded, spec["kit"])
    outputs, fastest_ns = check.infer_all(session, inputs, spec["kit"])
    criteria = check.Criteria(**{field: spec[field] for field in check.Criteria._fields})
    answer, arrays = check.compare(outputs, recorded, criteria)
    loading.store(Path(spec["arrays"]), arrays)
    head = {f"input.{name}": array[: spec["head_requests"]] for name, array in inputs.items()}
    loading.store(Path(spec["head"]), head)
    if remark:
        answer["reasons"]["precision.executed"] = remark
    device = dict(facts.device_facts(), address=spec["address"], engine=described)
    found = {"executed": executed, "settings": settings, "fastest_ns": fastest_ns, "runs_on": engine.runs_on}
    found["requests"] = len(next(iter(outputs.values())))
    return dict(answer, device=device, **found)


def refuse_downgrade(kit: str, requested: str, executed: "Dict[str, int] | None") -> None:
    """Raise EngineError if the engine ran the model in another precision than requested."""
    if executed is None:
        return
    if requested in {"int8", "fp16"} and not executed.get(requested):
        raise EngineError(
            f"{kit}: {requested} was requested, but no layer runs in {requested}; layers by precision: {executed}"
        )
    lower = sorted(set(executed) & {"bf16", "fp16"})
    if requested == "fp32" and lower:
        raise EngineError(f"{kit}: fp32 was requested, but layers run in {lower[0]}; layers by precision: {executed}")


def _latency(spec: Spec) -> Dict[str, Any]:
    """Load once, warm up, and time inferences; memory is that of this process minus the engine's baseline."""
    room = sampling.Buffers.of(spec["capacity"])
    loaded = loading.load(spec)
    session, requests = loaded.session, loaded.requests
    with engine_errors(spec["kit"]):
        session.set(requests[0])
        begin = time.perf_counter_ns()
        session.infer()
        first_ns = time.perf_counter_ns() - begin
        warm = sampling.warm_up(session, requests, spec["seconds"])
        contention = Contention()
        n, wall_ns = sampling.sample(session, requests, spec["seconds"], room)
        disturbed = contention.so_far()
    elsewhere = isinstance(session, OwnProgram)
    peak = None if loaded.baseline_bytes is None or elsewhere else process.peak_bytes()
    steady = None if elsewhere else process.resident_bytes()
    arrays = room.arrays(n, with_engine=isinstance(session, EngineClock))
    loading.store(Path(spec["arrays"]), dict(arrays, warmup_ns=np.asarray(warm.latency_ns, dtype=np.int64)))
    return {
        "wall_ns": wall_ns,
        "load_ns": loaded.load_ns,
        "first_inference_ns": first_ns,
        "warmup_n": len(warm.latency_ns),
        "steady": warm.steady,
        "threads": session.threads(),
        "affinity": process.affinity(),
        "peak_bytes": peak,
        "baseline_bytes": None if peak is None else loaded.baseline_bytes,
        "load_peak_bytes": None if peak is None else loaded.load_peak_bytes,
        "steady_bytes": steady,
        "device_bytes": _device_bytes(session, spec["kit"]),
        **disturbed,
    }


def _device_bytes(session: Session, kit: str) -> Optional[int]:
    """Return the model's memory on an accelerator, if the engine reports it."""
    if not isinstance(session, DeviceMemory):
        return None
    with engine_errors(kit):
        return session.device_bytes()


class Contention:
    """The contention for the CPUs of this process since this object was made."""

    def __init__(self) -> None:
        self._cpus = process.affinity()
        self._before = cpustat.read()
        self._own_s, self._wall_s = time.process_time(), time.monotonic()
        self._waiting_ns = process.waiting_ns()

    def so_far(self) -> Dict[str, Optional[float]]:
        """Return how long this process waited, and fractions of CPU time: taken by others, by the host, on sibling threads."""
        after, waited_ns = cpustat.read(), process.waiting_ns()
        here = cpustat.use(self._before, after, self._cpus)
        beside = cpustat.use(self._before, after, environment.siblings(environment.ROOT, self._cpus))
        own = (time.process_time() - self._own_s) / (time.monotonic() - self._wall_s) / max(1, len(self._cpus))
        return {
            "wait_ns": None if waited_ns is None or self._waiting_ns is None else waited_ns - self._waiting_ns,
            "others": None if here is None else max(0.0, here.busy - own),
            "stolen": None if here is None else here.stolen,
            "siblings_busy": None if beside is None else beside.busy,
        }


def _null(spec: Spec) -> Dict[str, Any]:
    """Compile the null model, in a separate process: memory for compiling must not count as memory for running."""
    engine = load_engine(spec["kit"], Path(spec["kit_dir"]))
    with engine_errors(spec["kit"]):
        entry = null_model.compile_null(engine, Path(spec["entry"]), spec["threads"])
    loading.store(Path(spec["head"]), null_model.requests())
    return {"entry": str(entry)}


TASKS: Dict[str, Callable[[Spec], Dict[str, Any]]] = {
    "check": _check,
    "latency": _latency,
    "null": _null,
    "throughput": throughput.run,
    "layers": layer_pass.run,
    "energy": energy_pass.run,
    "soak": soak.run,
}
