"""The tasks of a bench's fresh processes: check outputs, time inferences, or run a pass from another module."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable, Dict, Optional

import check
import energy_pass
import facts
import layer_pass
import loading
import longest
import null_model
import numpy as np
import picture_pass
import process
import sampling
import soak
import throughput
from kit import (
    Conditions,
    DeviceMemory,
    DeviceRoom,
    EngineClock,
    EngineError,
    OwnProgram,
    Session,
    engine_errors,
    load_engine,
)
from turns import Parent

Spec = Dict[str, Any]


def run(spec: Spec) -> Dict[str, Any]:
    """Do one worker's task and return its JSON answer; arrays go to `spec["arrays"]`."""
    if spec["task"] != "throughput":  # its streams are bound one by one
        process.pin(spec["threads"], spec["kit"])
    return TASKS[spec["task"]](spec)


def _check(spec: Spec) -> Dict[str, Any]:
    """Run every request, compare outputs, and keep the first requests in a small file for the timed processes."""
    engine = load_engine(spec["kit"], Path(spec["kit_dir"]))
    with engine_errors(spec["kit"]):
        described = engine.describe()
        session = loading.load_session(engine, spec)
        executed, remark = session.executed()
        settings = session.settings() if isinstance(session, Conditions) else None
    loaded_bytes = process.peak_bytes()
    refuse_downgrade(spec["kit"], spec["precision"], executed)
    recorded = {name: array[: spec["first"]] for name, array in loading.recorded(Path(spec["io"])).items()}
    inputs = loading.inputs_for(session, recorded, spec["kit"])
    outputs, fastest_ns = check.infer_all(session, loading.requests_for(session, recorded, spec["kit"]), spec["kit"])
    criteria = check.Criteria(**{field: spec[field] for field in check.Criteria._fields})
    answer, arrays = check.compare(outputs, recorded, criteria)
    loading.store(Path(spec["arrays"]), arrays)
    head = {f"input.{name}": array[: spec["head_requests"]] for name, array in inputs.items()}
    if loading.LENGTHS in recorded:
        head[loading.LENGTHS] = recorded[loading.LENGTHS][: spec["head_requests"]]
        answer["longest"] = longest.time_longest(session, recorded, spec["kit"])
    loading.store(Path(spec["head"]), head)
    if remark:
        answer["reasons"]["precision.executed"] = remark
    device = dict(facts.device_facts(), address=spec["address"], engine=described)
    found = {"executed": executed, "settings": settings, "fastest_ns": fastest_ns, "runs_on": engine.runs_on}
    with engine_errors(spec["kit"]):
        room = session.free_device_bytes() if isinstance(session, DeviceRoom) else None
    found.update(loaded_bytes=loaded_bytes, device_bytes=_device_bytes(session, spec["kit"]), device_room=room)
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
    """Load once, warm up, and time inferences in the bursts that the parent asks for.

    Memory is that of this process minus the engine's baseline.
    """
    parent = Parent()
    room = sampling.Buffers.of(spec["capacity"])
    clear = sampling.cache_clearer() if spec["caches"] == "cold" else sampling.keep_caches
    loaded = loading.load(spec)
    session, requests = loaded.session, loaded.requests
    elsewhere = isinstance(session, OwnProgram)
    with engine_errors(spec["kit"]):
        session.set(requests[0])
        begin = time.perf_counter_ns()
        session.infer()
        first_ns = time.perf_counter_ns() - begin
        warm = sampling.warm_up(session, requests, spec["seconds"])
        sampler = sampling.Sampler(session, requests, room, clear)
        bursts = None if elsewhere else sampler.bursts_for(spec["seconds"])
        parent.tell({"bursts": bursts, "affinity": process.affinity()})
        own = OwnTime()
        for number in parent.turns():
            sampler.run_program(spec["seconds"]) if elsewhere else sampler.burst(number)
        spent = own.so_far()
    peak = None if loaded.baseline_bytes is None or elsewhere else process.peak_bytes()
    steady = None if elsewhere else process.resident_bytes()
    arrays = room.arrays(sampler.n, with_engine=isinstance(session, EngineClock))
    loading.store(Path(spec["arrays"]), dict(arrays, warmup_ns=np.asarray(warm.latency_ns, dtype=np.int64)))
    answer = {
        "wall_ns": sampler.wall_ns,
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
        "bursts": None if elsewhere else sampler.bursts,
        "lead_n": len(arrays["lead_ns"]),
        **spent,
    }
    parent.tell(answer)
    return answer


class OwnTime:
    """How long this process used a CPU, and waited for one, since this object was made."""

    def __init__(self) -> None:
        self._cpu_s, self._waiting_ns = time.process_time(), process.waiting_ns()

    def so_far(self) -> Dict[str, Any]:
        """Return `cpu_s` in seconds, and `wait_ns`, None where the kernel does not report it."""
        waiting_ns, before_ns = process.waiting_ns(), self._waiting_ns
        waited = None if waiting_ns is None or before_ns is None else waiting_ns - before_ns
        return {"cpu_s": time.process_time() - self._cpu_s, "wait_ns": waited}


def _device_bytes(session: Session, kit: str) -> Optional[int]:
    """Return the model's memory on an accelerator, if the engine reports it."""
    if not isinstance(session, DeviceMemory):
        return None
    with engine_errors(kit):
        return session.device_bytes()


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
    "pictures": picture_pass.run,
    "energy": energy_pass.run,
    "soak": soak.run,
}
