"""Sets of processes, one of each arm, that are alive together and take turns in bursts."""

from __future__ import annotations

import random
import time
import uuid
from functools import partial
from typing import TYPE_CHECKING, Dict, List, NamedTuple, Optional, Sequence

import cpustat
import environment
import turns

if TYPE_CHECKING:
    from bench import Trial

APART = "not measured in turns with other models: their processes do not fit in the device's memory together"
PROGRAM = "not measured in turns: the engine is a separate program, which is started for each run"


class Group(NamedTuple):
    """Arms that are measured together; `id` is the same in their measurements."""

    id: str
    trials: "List[Trial]"


def groups(trials: "Sequence[Trial]") -> List[Group]:
    """Divide the arms that can still be measured into those whose processes fit in memory together."""
    sound = [trial for trial in trials if "error" not in trial.result]
    memory = ("loaded_bytes", "device_bytes", "device_room")
    needs = [turns.Need(trial.engine, *(trial.checked[key] for key in memory)) for trial in sound]
    found = []
    for indices in turns.sets(needs, environment.available_bytes()):
        group = Group(uuid.uuid4().hex, [sound[i] for i in indices])
        for trial in group.trials:
            trial.group = group
            if len(group.trials) < len(sound):
                trial.extra.reasons["duet.ratios"] = APART
        found.append(group)
    return found


def run_set(group: Group, number: int) -> None:
    """Start one fresh process of each arm, let them take turns, and collect their samples; a failing arm stops no other."""
    trials = group.trials
    seed = f"{trials[0].job.seed}/{number}"
    try:
        for trial in random.Random(seed).sample(trials, len(trials)):  # noqa: S311 - a random order, not a secret
            trial.attempt(trial.start)
        running = [trial for trial in trials if trial.member is not None and "error" not in trial.result]
        contention = Contention(sorted({cpu for trial in running for cpu in trial.cpus}))
        for turn, index in turns.schedule([trial.bursts for trial in running], seed):
            running[index].burst(turn)
        for trial in running:
            trial.attempt(trial.run_alone)
            trial.attempt(trial.finish)
        disturbed = contention.so_far(sum(trial.cpu_s for trial in running))
        for trial in running:
            trial.attempt(partial(trial.keep_process, disturbed))
        for trial in running:
            trial.attempt(trial.keep_set)
    finally:
        for trial in trials:
            trial.stop()


class Contention:
    """The contention for some CPUs since this object was made."""

    def __init__(self, cpus: List[int]) -> None:
        self._cpus, self._before, self._start_s = cpus, cpustat.read(), time.monotonic()

    def so_far(self, own_s: float) -> Dict[str, Optional[float]]:
        """Return fractions of CPU time: taken by others than the processes that used `own_s`, by the host, on sibling threads."""
        after = cpustat.read()
        here = cpustat.use(self._before, after, self._cpus)
        beside = cpustat.use(self._before, after, environment.siblings(environment.ROOT, self._cpus))
        own = own_s / (time.monotonic() - self._start_s) / max(1, len(self._cpus))
        return {
            "others": None if here is None else max(0.0, here.busy - own),
            "stolen": None if here is None else here.stolen,
            "siblings_busy": None if beside is None else beside.busy,
        }
