"""The passes beside latency, each in separate processes: a null model's memory, throughput, layers, pictures, energy, a soak."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import energy
import energy_pass
import null_model
import numpy as np
import soak
from child import Member, run_worker
from constants import ENERGY, SOAK
from job import Arm, Job
from kit import EngineError

START_S = 600.0
"""The time limit for loading: an engine may need minutes for a model on a small device."""

Spec = Dict[str, Any]


def null_increment_bytes(spec: Spec, scratch: Path) -> int:
    """Return the memory that the null model adds to a process of this engine; raises EngineError if the engine refuses it."""
    folder = scratch / "null"
    spec = dict(spec, precision=null_model.PRECISION, head=str(scratch / "null-head.npz"), entry=str(folder))
    made = run_worker(dict(spec, task="null"), scratch, START_S)
    timed = dict(
        spec,
        task="latency",
        entry=made["entry"],
        arrays=str(scratch / "null.npz"),
        seconds=0.2,
        capacity=20_000,
        caches="warm",
    )
    answer = _alone(timed, scratch)
    if answer["peak_bytes"] is None:
        raise EngineError(f"{spec['kit']}: peak memory cannot be reset on this device")
    return int(answer["peak_bytes"] - answer["baseline_bytes"])


def _alone(spec: Spec, scratch: Path) -> Dict[str, Any]:
    """Return the answer of a latency worker that takes no turns with others."""
    member = Member(spec, scratch)
    try:
        for number in range(member.ready(START_S)["bursts"] or 1):
            member.burst(number, START_S)
        return member.finish(START_S)
    finally:
        member.stop()


def throughput(spec: Spec, scratch: Path, seconds: float) -> Dict[str, Any]:
    """Return throughput by concurrency, each over windows of a quarter of `seconds`, at most one second."""
    window = min(1.0, seconds / 4)
    return run_worker(dict(spec, task="throughput", window=window), scratch, 4 * START_S)


def layers(spec: Spec, scratch: Path, seconds: float) -> Dict[str, Any]:
    """Return the time of each layer, from a process with the engine's profiler on."""
    return run_worker(dict(spec, task="layers", window=min(1.0, seconds / 4)), scratch, 4 * START_S)


def pictures(spec: Spec, scratch: Path, arm: Arm, seconds: float) -> Dict[str, Any]:
    """Return the time of whole pictures, from a separate process; raises EngineError with the reason where there are none."""
    if arm.contract is not None and arm.contract["picture"] is None:
        raise EngineError(f"not measured: {arm.contract['reason']}")
    if arm.contract is None or arm.pictures is None:
        raise EngineError("not measured: the job has no pictures with a contract")
    spec = dict(spec, contract=arm.contract, pictures=str(arm.pictures))
    return run_worker(dict(spec, task="pictures", window=min(1.0, seconds / 4)), scratch, START_S)


def metered(spec: Spec, scratch: Path, job: Job, runs_on: str) -> Dict[str, Any]:
    """Return energy per inference, or raise NoSourceError with the reason why it is unknown."""
    source = energy.find_source(runs_on, job.meter)
    try:
        window = max(ENERGY.window_s, job.seconds)
        return energy_pass.metered(source, dict(spec, seconds=ENERGY.warm_up_s, window=window), scratch, START_S)
    finally:
        source.close()


def estimated(watts: float, mean_ns: float) -> Dict[str, Any]:
    """Return an energy estimate from the user's power figure and the mean latency, labelled as an estimate."""
    return {
        "per_inference": watts * mean_ns / 1000,
        "idle_subtracted": None,
        "source": f"estimated from {watts:g} W, the user's figure",
        "provenance": "estimated",
    }


def soaked(spec: Spec, scratch: Path, job: Job, runs_on: str) -> Tuple[Dict[str, Any], Dict[str, np.ndarray]]:
    """Return the summary and the series of a sustained run, with power where there is a source."""
    source: Optional[energy.Source] = None
    reason = None
    try:
        source = energy.find_source(runs_on, job.meter)
    except energy.NoSourceError as error:
        reason = str(error)
    try:
        spec = dict(spec, seconds=job.soak_seconds, warm_up=SOAK.warm_up_s)
        summary, arrays = soak.soaked(spec, scratch, source, START_S)
    finally:
        if source is not None:
            source.close()
    return dict(summary, power_reason=reason or summary["power_reason"]), arrays
