"""The bench: check every arm, then time it in fresh processes that take turns with the other arms'."""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List

import energy
import results
from child import run_worker
from job import Arm, Job
from kit import EngineError

REQUESTS = 32  # that the timed processes cycle through: the whole test set would fill their memory
MAX_SAMPLES = 2_000_000
START_S = 600.0  # an engine may take minutes to load a model on a small device


def run(job: Job) -> List[Dict[str, Any]]:
    """Measure every arm of a job, write the files, and return a result or an error per arm, in the job's order."""
    with tempfile.TemporaryDirectory(prefix="edgedistill-") as scratch:
        trials = [Trial(arm, job, Path(scratch) / str(i)) for i, arm in enumerate(job.arms)]
        for trial in trials:
            trial.attempt(trial.check)
        for turn in range(job.processes):
            order = random.Random(f"{job.seed}/{turn}")  # noqa: S311 - an order, not a secret
            for trial in order.sample(trials, len(trials)):
                trial.attempt(trial.time_one_process)
        for trial in trials:
            trial.attempt(trial.meter_energy)
            trial.attempt(trial.write)
    return [trial.result for trial in trials]


class Trial:
    """One arm on its way through a job: what its processes answered so far, or the error that ended it."""

    def __init__(self, arm: Arm, job: Job, scratch: Path) -> None:
        self.arm, self.job, self.scratch = arm, job, scratch
        self.checked: Dict[str, Any] = {}
        self.energy: Dict[str, Any] = {}
        self.processes: List[results.ProcessResult] = []
        self.result: Dict[str, Any] = {}
        scratch.mkdir()

    def attempt(self, step: Callable[[], None]) -> None:
        """Take one step unless an earlier one failed; a failing arm does not stop the others."""
        if "error" in self.result:
            return
        try:
            step()
        except EngineError as error:
            self.result = {"name": self.arm.name, "error": str(error)}
            self._say(f"failed: {error}")

    def check(self) -> None:
        """Compare outputs with labels and recorded outputs."""
        spec = self._spec("check", arrays="check.npz", head="head.npz")
        spec.update(requests=REQUESTS, io=str(self.arm.io), expected=self.arm.expected, metric=self.arm.metric)
        spec.update(reasons=self.arm.reasons, address=self.arm.address)
        self.checked = run_worker(spec, self.scratch, START_S + 3600)
        accuracy = self.checked["accuracy"]
        self._say("check" + (f" {accuracy['metric']} {accuracy['value']:.4f}" if accuracy else " done"))

    def time_one_process(self) -> None:
        """Time inferences in one fresh process."""
        number = len(self.processes) + 1
        # Twice what the check's fastest inference fits: a buffer that filled up would end the pass early.
        capacity = 1000 + int(2e9 * self.job.seconds / self.checked["fastest_ns"])
        spec = self._spec("latency", arrays=f"process-{number}.npz", head="head.npz")
        spec.update(seconds=self.job.seconds, capacity=min(MAX_SAMPLES, capacity))
        answer = run_worker(spec, self.scratch, START_S + 40 * self.job.seconds)
        self.processes.append(results.ProcessResult.read(answer, Path(spec["arrays"])))
        self._keep(self.job.out / "partial", {"processes": f"{number} of {self.job.processes} processes were measured"})
        p50_ms = self.processes[-1].p50_ns / 1e6
        self._say(f"process {number}/{self.job.processes} p50 {p50_ms:.3f} ms")

    def meter_energy(self) -> None:
        """Meter energy in a pass of its own, where the device has a counter."""
        try:
            energy.find_source()
        except energy.NoSourceError as reason:
            self.energy = {"reason": str(reason)}
            return
        window = max(10.0, self.job.seconds)
        spec = self._spec("energy", arrays="", head="head.npz")
        spec.update(seconds=self.job.seconds, window=window)
        self.energy = run_worker(spec, self.scratch, START_S + 40 * window)
        self._say("energy done")

    def write(self) -> None:
        """Write the measurement and its raw samples, in place of what was kept on the way to them."""
        measurement = self._keep(self.job.out, {})
        results.discard(self.job.out / "partial", self.arm.name)
        self.result = {"name": self.arm.name, "measurement": measurement}

    def _keep(self, folder: Path, reasons: Dict[str, str]) -> Dict[str, Any]:
        """Write what the processes so far say, and return it: a job that is cut short has measured something."""
        energy = self.energy or {"reason": "the job has not come to that"}
        measurement = results.measurement(self.arm, self.checked, self.processes, energy)
        measurement["reasons"].update(reasons)
        arrays = results.raw_samples(self.scratch / "check.npz", self.processes)
        results.write(folder, self.arm.name, measurement, arrays)
        return measurement

    def _spec(self, task: str, arrays: str, head: str) -> Dict[str, Any]:
        return {
            "task": task,
            "kit": self.arm.kit,
            "kit_dir": str(self.arm.kit_dir),
            "entry": str(self.arm.entry),
            "precision": self.arm.precision,
            "threads": self.arm.threads,
            "arrays": str(self.scratch / arrays),
            "head": str(self.scratch / head),
        }

    def _say(self, what: str) -> None:
        sys.stderr.write(f"bench {self.arm.name} {what}\n")
        sys.stderr.flush()
