"""The bench: check every arm, then time all arms in sets of fresh processes that take turns, and run the other passes."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple, Union

import duet
import environment
import facts
import passes
import results
from check import Criteria
from child import Member, run_worker
from constants import CHECK
from energy import NoSourceError
from extra import Extra
from job import Arm, Job, JobError
from kit import EngineError
from sampling import process_s

MAX_SAMPLES = 2_000_000
EMULATED = "{} emulates this processor: times, memory and energy would be those of the emulator"


def run(job: Job) -> List[Dict[str, Any]]:
    """Measure every arm of a job, write the files, and return a result or an error per arm, in the job's order.

    Raises JobError on an emulated processor, whose measurements would say nothing about a real processor.
    """
    emulated = facts.emulator()
    if emulated:
        raise JobError(f"bench: {EMULATED.format(emulated)}; use check, which compares outputs and measures no time")
    with tempfile.TemporaryDirectory(prefix="edgedistill-") as scratch:
        trials = [Trial(arm, job, Path(scratch) / str(i)) for i, arm in enumerate(job.arms)]
        for trial in trials:
            trial.attempt(trial.check)
        nulls = measure_null_models(trials) if "null_model" in job.passes else {}
        before = environment.snapshot()
        sound = [trial for trial in trials if "error" not in trial.result]
        if sound:
            announce(job, [trial.checked["fastest_ns"] / 1e9 for trial in sound])
        for group in duet.groups(trials):
            for number in range(job.processes):
                duet.run_set(group, number)
        surroundings = {"before": before, "after": environment.snapshot(), "drivers": environment.drivers()}
        for trial in trials:
            trial.set_shared(
                surroundings, nulls.get(trial.engine, "not measured: the job does not request the null model")
            )
            trial.attempt(trial.more_passes)
            trial.attempt(trial.write)
    return [trial.result for trial in trials]


def announce(job: Job, inferences_s: List[float]) -> None:
    """Say how long the arms will be timed, from the seconds of an inference of each: slow models are timed for longer than `job.seconds`."""
    seconds = job.processes * sum(process_s(job.seconds, one) for one in inferences_s)
    took = f"{seconds / 60:.0f} min" if seconds >= 120 else f"{max(1, seconds):.0f} s"
    models = "1 model" if len(inferences_s) == 1 else f"{len(inferences_s)} models"
    sys.stderr.write(f"bench: timing {models} takes at least {took}\n")
    sys.stderr.flush()


def check(job: Job) -> List[Dict[str, Any]]:
    """Check every arm of a job, and return a result or an error per arm, in the job's order."""
    with tempfile.TemporaryDirectory(prefix="edgedistill-") as scratch:
        trials = [Trial(arm, job, Path(scratch) / str(i)) for i, arm in enumerate(job.arms)]
        for trial in trials:
            trial.attempt(trial.check)
    return [
        trial.result or {"name": trial.arm.name, "check": labelled(trial.checked, trial.arm.target)} for trial in trials
    ]


def labelled(checked: Dict[str, Any], target: str) -> Dict[str, Any]:
    """Return the result of a check, under the name of the target that it is valid for."""
    keys = ("requests", "accuracy", "parity", "executed", "device", "reasons")
    found = {key: checked[key] for key in keys}
    if not found["device"]["emulated"]:
        return dict(found, target=target)
    reasons = dict(found["reasons"], latency_ns=EMULATED.format(found["device"]["emulated"]))
    arch = {"aarch64": "arm64"}.get(found["device"]["arch"], found["device"]["arch"])
    return dict(found, target=f"emulated-{arch}", latency_ns=None, reasons=reasons)


def measure_null_models(trials: "List[Trial]") -> "Dict[Tuple[str, int], Union[int, str]]":
    """Return per engine and number of threads the memory of a null model in bytes, or the reason why it is not known."""
    found: Dict[Tuple[str, int], Union[int, str]] = {}
    for trial in trials:
        if trial.engine not in found and "error" not in trial.result:
            try:
                found[trial.engine] = passes.null_increment_bytes(trial.spec("", ""), trial.scratch)
            except EngineError as error:
                found[trial.engine] = f"the null model failed: {error}"
    return found


class Trial:
    """One arm of a running job: the results of its processes so far, or the error that ended it."""

    def __init__(self, arm: Arm, job: Job, scratch: Path) -> None:
        self.arm, self.job, self.scratch = arm, job, scratch
        self.checked: Dict[str, Any] = {}
        self.extra = Extra()
        self.processes: List[results.ProcessResult] = []
        self.result: Dict[str, Any] = {}
        self.group: Optional[duet.Group] = None
        self.member: Optional[Member] = None
        self.bursts, self.cpu_s = 0, 0.0
        self.cpus: List[int] = []
        self._answer: Dict[str, Any] = {}
        scratch.mkdir()

    @property
    def engine(self) -> Tuple[str, int]:
        """The engine and number of threads that a null model is measured for."""
        return str(self.arm.kit_dir), self.arm.threads

    def attempt(self, step: Callable[[], None]) -> None:
        """Run one step unless an earlier one failed; a failing arm does not stop the others."""
        if "error" in self.result:
            return
        try:
            step()
        except EngineError as error:
            self.result = {"name": self.arm.name, "error": str(error)}
            self._say(f"failed: {error}")

    def check(self) -> None:
        """Compare outputs with labels and recorded outputs."""
        spec = dict(self.spec("check.npz", "head.npz"), task="check")
        spec.update(head_requests=CHECK.timed_requests, first=self.job.requests, io=str(self.arm.io))
        spec.update(Criteria.of(self.arm)._asdict(), address=self.arm.address)
        self.checked = run_worker(spec, self.scratch, passes.START_S + 3600)
        accuracy = self.checked["accuracy"]
        self._say("check" + (f" {accuracy['metric']} {accuracy['value']:.4f}" if accuracy else " done"))

    def start(self) -> None:
        """Start the process of the next set, and wait until it is ready for its first burst."""
        # More than the check's fastest inferences that fit, with the first ones of bursts: a full buffer would end a burst.
        capacity = 1000 + int(3e9 * self.job.seconds / self.checked["fastest_ns"])
        spec = dict(self.spec(f"process-{len(self.processes) + 1}.npz", "head.npz"), task="latency")
        spec.update(seconds=self.job.seconds, capacity=min(MAX_SAMPLES, capacity), caches=self.job.caches)
        self.member = Member(spec, self.scratch)
        ready = self.member.ready(self._limit_s)
        self.bursts, self.cpus = ready["bursts"] or 0, ready["affinity"]
        if ready["bursts"] is None:
            self.extra.reasons["duet"] = duet.PROGRAM

    def burst(self, turn: int) -> None:
        """Let the process infer for one burst, unless it failed."""
        self.attempt(lambda: self._running.burst(turn, self._limit_s))

    def run_alone(self) -> None:
        """Let an engine that is a separate program run once, after the turns of the others."""
        if not self.bursts:
            self._running.burst(0, self._limit_s)

    def finish(self) -> None:
        """Let the process write its samples and end."""
        self._answer = self._running.finish(self._limit_s)
        self.cpu_s = self._answer.pop("cpu_s")

    def keep_process(self, disturbed: Dict[str, Optional[float]]) -> None:
        """Keep the samples of the set's process, with what disturbed the set."""
        path = self.scratch / f"process-{len(self.processes) + 1}.npz"
        self.processes.append(results.ProcessResult.read(dict(self._answer, **disturbed), path))

    def keep_set(self) -> None:
        """Write the measurement so far, when all arms have the samples of the set."""
        number = len(self.processes)
        self._keep(self.job.partial, {"processes": f"{number} of {self.job.processes} processes were measured"})
        p50_ms = self.processes[-1].p50_ns / 1e6
        self._say(f"process {number}/{self.job.processes} p50 {p50_ms:.3f} ms")

    def stop(self) -> None:
        """Kill the process if it still runs."""
        if self.member is not None:
            self.member.stop()
            self.member = None

    @property
    def _running(self) -> Member:
        assert self.member is not None
        return self.member

    @property
    def _limit_s(self) -> float:
        return passes.START_S + 40 * self.job.seconds

    def _duet(self) -> Optional[Dict[str, Any]]:
        """Return the ratios to the other arms of the group; None for an engine that takes no turns."""
        if self.group is None or "duet" in self.extra.reasons:
            return None
        sound = [
            trial for trial in self.group.trials if "error" not in trial.result and "duet" not in trial.extra.reasons
        ]
        return {
            "id": self.group.id,
            "arm": self.arm.name,
            "caches": self.job.caches,
            "ratios": {
                other.arm.name: results.ratios(self.processes, other.processes) for other in sound if other is not self
            },
        }

    def set_shared(self, surroundings: Dict[str, Any], null_bytes: "Union[int, str]") -> None:
        """Store the device's state and the null model's memory, which the arms of a job share."""
        self.extra.environment = surroundings
        if isinstance(null_bytes, str):
            self.extra.reasons["memory_bytes.net"] = null_bytes
        else:
            self.extra.null_bytes = null_bytes

    def more_passes(self) -> None:
        """Run the passes beside latency; the result of a failed pass is null with its reason, and the arm continues."""
        self.extra.reasons["energy_uj"] = "not measured: the job does not request energy"
        runs_on, spec = self.checked["runs_on"], self.spec("", "head.npz")
        if "throughput" in self.job.passes:
            with self._reason_for("throughput"):
                self.extra.throughput = passes.throughput(spec, self.scratch, self.job.seconds)
                many = self.extra.throughput["concurrency"]
                self._say(
                    f"throughput {self.extra.throughput['per_s']:.1f}/s, {'one' if many == 1 else many} at a time"
                )
        if "layers" in self.job.passes:
            with self._reason_for("layers"):
                self.extra.layers = passes.layers(spec, self.scratch, self.job.seconds)
        if "pictures" in self.job.passes:
            with self._reason_for("pictures"):
                self.extra.pictures = passes.pictures(spec, self.scratch, self.arm, self.job.seconds)
        if "energy" in self.job.passes:
            with self._reason_for("energy_uj"):
                self.extra.energy = passes.metered(spec, self.scratch, self.job, runs_on)
                del self.extra.reasons["energy_uj"]
                self._say(f"energy {self.extra.energy['per_inference']:.0f} uJ")
        if self.job.soak_seconds > 0:
            with self._reason_for("soak"):
                self.extra.soak, self.extra.arrays = passes.soaked(spec, self.scratch, self.job, runs_on)
                self._say(f"soak p50 {self.extra.soak['p50_end_ns'] / 1e6:.3f} ms at the end")

    @contextlib.contextmanager
    def _reason_for(self, field: str) -> Iterator[None]:
        try:
            yield
        except (EngineError, NoSourceError) as reason:
            self.extra.reasons[field] = str(reason)

    def write(self) -> None:
        """Write the measurement and its raw samples in place of the intermediate ones."""
        measurement = self._keep(self.job.out, {})
        results.discard(self.job.partial, self.arm.name)
        self.result = {"name": self.arm.name, "measurement": measurement}

    def _keep(self, folder: Path, reasons: Dict[str, str]) -> Dict[str, Any]:
        """Write and return the measurement of the processes so far, so that an interrupted job has a result."""
        self.extra.duet = self._duet()
        measurement = results.measurement(self.arm, self.checked, self.processes, self.extra)
        measurement["reasons"].update(reasons)
        arrays = results.raw_samples(self.scratch / "check.npz", self.processes)
        # The outputs of a segmenter are 140 MB, and take seconds to compress: too long after every set of processes.
        compressed = folder != self.job.partial
        results.write(folder, self.arm.name, measurement, dict(arrays, **self.extra.arrays), compressed=compressed)
        return measurement

    def spec(self, arrays: str, head: str) -> Dict[str, Any]:
        """Return the common settings of all processes of this arm; its files are in the scratch folder."""
        return {
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
