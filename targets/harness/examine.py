"""Examine a device before a measurement, for the warnings of `edgedistill doctor`."""

from __future__ import annotations

import time
from typing import Any, Dict

import cpustat
import energy
import environment
import process

LOOK_S = 0.5


def examine() -> Dict[str, Any]:
    """Return the device's state, its power modes, its current CPU load, and its energy source."""
    before = cpustat.read()
    time.sleep(LOOK_S)
    after = cpustat.read()
    chosen = process.spread(process.affinity(), 1)
    used = {cpu: cpustat.use(before, after, [cpu]) for cpu in sorted(after)}
    siblings = environment.siblings(environment.ROOT, chosen)
    return {
        "snapshot": environment.snapshot(),
        "drivers": environment.drivers(),
        "power_modes": [str(mode) for mode in environment.power_modes(environment.ROOT)],
        "cpus_busy": {str(cpu): use.busy for cpu, use in used.items() if use is not None},
        "timed_cpus": chosen,
        "siblings": siblings,
        "energy": {runs_on: _energy(runs_on) for runs_on in (energy.CPU, energy.GPU)},
    }


def _energy(runs_on: str) -> Dict[str, str]:
    try:
        source = energy.find_source(runs_on)
    except energy.NoSourceError as reason:
        return {"reason": str(reason)}
    source.close()
    return {"source": source.name, "scope": source.scope}
