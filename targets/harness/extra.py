"""The parts of a measurement beside latency: memory, energy, throughput, layers, pictures, the sustained run, the device's state."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

import numpy as np
import passes
import stats
from constants import LATENCY


class Extra:
    """The results of one arm's passes so far; `reasons` has the reason for each field that is None."""

    def __init__(self) -> None:
        self.environment: Optional[Dict[str, Any]] = None
        self.null_bytes: Optional[int] = None
        self.throughput: Optional[Dict[str, Any]] = None
        self.layers: Optional[Dict[str, Any]] = None
        self.pictures: Optional[Dict[str, Any]] = None
        self.energy: Optional[Dict[str, Any]] = None
        self.soak: Optional[Dict[str, Any]] = None
        self.duet: Optional[Dict[str, Any]] = None
        self.arrays: Dict[str, np.ndarray] = {}
        self.reasons: Dict[str, str] = {"energy_uj": "not measured: the energy pass did not run"}

    def fields(self, watts: Optional[float], mean_ns: float) -> Dict[str, Any]:
        """Return the fields that come from passes; the user's power figure replaces missing energy by an estimate."""
        energy = self.energy
        if energy is None and watts is not None:
            energy = passes.estimated(watts, mean_ns)
        if energy is not None and energy.get("reason"):
            self.reasons["energy_uj.idle_subtracted"] = energy["reason"]
        return {
            "energy_uj": None if energy is None else {key: energy[key] for key in energy if key != "reason"},
            "throughput": self.throughput,
            "layers": self.layers,
            "pictures": self.pictures,
            "soak": self.soak,
            "environment": self.environment,
            "duet": self.duet,
        }


def memory(answers: List[Dict[str, Any]], null_bytes: Optional[int]) -> Optional[Dict[str, Optional[int]]]:
    """Return medians over processes, in bytes; `net` is the increment minus a null model's. None where nothing was read."""
    if any(answer["peak_bytes"] is None or answer["baseline_bytes"] is None for answer in answers):
        return None
    increment = int(np.median([answer["peak_bytes"] - answer["baseline_bytes"] for answer in answers]))
    return {
        "peak": _median(answers, "peak_bytes"),
        "increment": increment,
        "net": None if null_bytes is None else increment - null_bytes,
        "null_increment": null_bytes,
        "load_peak": _median(answers, "load_peak_bytes"),
        "steady": _median(answers, "steady_bytes"),
        "device": _median(answers, "device_bytes"),
    }


def _median(answers: List[Dict[str, Any]], key: str) -> Optional[int]:
    known = [answer[key] for answer in answers if answer[key] is not None]
    return int(np.median(known)) if known else None


def disturbances(answers: List[Dict[str, Any]], samples: List[stats.Samples]) -> Dict[str, str]:
    """Return the reasons to doubt the latencies of processes: shared hardware threads, time taken by a host, drift."""
    found: Dict[str, str] = {}
    siblings = _highest(answers, "siblings_busy")
    if siblings > LATENCY.siblings_busy:
        found["siblings"] = f"the sibling hardware thread of a timed core was busy for up to {siblings:.0%} of the time"
    stolen = _highest(answers, "stolen")
    if stolen > LATENCY.stolen:
        found["stolen"] = f"the host of this virtual machine took up to {stolen:.0%} of the CPU's time"
    drifts = [drift for drift in map(stats.drift, samples) if drift is not None]
    drifted = [drift for drift in drifts if abs(drift - 1) > LATENCY.drifted]
    if 2 * len(drifted) > len(drifts):
        low, high = f"{min(drifted):.2f}x", f"{max(drifted):.2f}x"
        found["drift"] = (
            f"latency drifted in {len(drifted)} of {len(drifts)} processes: the last third ran at "
            f"{low if low == high else f'{low} to {high}'} the first third"
        )
    return found


def throttled(environment: Optional[Dict[str, Any]]) -> Dict[str, str]:
    """Return the reason to doubt the figures if the device throttled during the measurement."""
    if environment is None:
        return {}
    before, after = environment["before"], environment["after"]
    signs = [
        f"{name} rose by {count - before['throttle_counts'].get(name, 0)}"
        for name, count in after["throttle_counts"].items()
        if count > before["throttle_counts"].get(name, 0)
    ]
    signs += [f"{name} is on" for name in sorted({*before["throttling"], *after["throttling"]})]
    return {"throttled": f"the device throttled: {', '.join(signs)}"} if signs else {}


def _highest(answers: List[Dict[str, Any]], key: str) -> float:
    return max((answer[key] for answer in answers if answer[key] is not None), default=0.0)
