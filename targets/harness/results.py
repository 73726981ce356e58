"""Build a measurement, schema edgedistill.measurement/2, from raw samples, and write its files."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import extra
import numpy as np
import stats
from extra import Extra
from job import Arm

SCHEMA = "edgedistill.measurement/2"


class ProcessResult(NamedTuple):
    """The answer of one timed process and its samples; `engine` has latencies by the engine's own clock, if it has one.

    `lead` has the first inferences of the bursts, which are no samples.
    """

    answer: Dict[str, Any]
    samples: stats.Samples
    warmup_ns: np.ndarray
    engine: Optional[stats.Samples]
    lead: stats.Samples

    @classmethod
    def read(cls, answer: Dict[str, Any], path: Path) -> "ProcessResult":
        """Read the arrays that a process wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            preempted, burst = arrays["preempted"], arrays["burst"][: None if answer["bursts"] else 0]
            samples = stats.Samples(arrays["latency_ns"], preempted, burst, arrays["waited_ns"])
            engine = stats.Samples(arrays["engine_ns"], preempted, burst) if "engine_ns" in arrays.files else None
            lead = stats.Samples(arrays["lead_ns"], np.zeros(len(arrays["lead_ns"]), dtype=bool), arrays["lead_burst"])
            return cls(answer, samples, arrays["warmup_ns"], engine, lead)

    @property
    def p50_ns(self) -> float:
        """The median over the samples that were not preempted, or over all samples if all were preempted."""
        return float(np.median(self._kept))

    @property
    def _kept(self) -> np.ndarray:
        return self.samples.clean if len(self.samples.clean) else self.samples.latency_ns

    def record(self) -> Dict[str, Any]:
        """Return the ProcessSample of this process."""
        percentiles, intervals = stats.order_statistics(self._kept)
        return dict(
            self.answer,
            n=len(self.samples.latency_ns),
            n_clean=len(self.samples.clean),
            p50_ns=self.p50_ns,
            percentiles_ns=percentiles,
            ci95_ns=intervals,
            drift=stats.drift(self.samples),
        )


def ratios(processes: List[ProcessResult], others: List[ProcessResult]) -> List[Optional[float]]:
    """Return the latency of an arm over that of another one in each set; None where the two share no round."""
    return [stats.ratio(one.samples, other.samples) for one, other in zip(processes, others)]


def measurement(arm: Arm, checked: Dict[str, Any], processes: List[ProcessResult], more: Extra) -> Dict[str, Any]:
    """Assemble the measurement of one arm; fields that could not be measured are None, with a reason."""
    samples, answers = [process.samples for process in processes], [process.answer for process in processes]
    latency, contaminated, reasons = stats.latency_summary(samples)
    engine = [process.engine for process in processes if process.engine is not None]
    per_second = [len(process.samples.latency_ns) / (process.answer["wall_ns"] / 1e9) for process in processes]
    fields = {
        "schema": SCHEMA,
        "created": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "model": arm.model,
        "target": arm.target,
        "kit": arm.kit,
        "device": checked["device"],
        "precision": {"requested": arm.precision, "executed": checked["executed"]},
        "threads": arm.threads,
        "settings": checked["settings"],
        "processes": [process.record() for process in processes],
        "latency_ns": latency,
        "engine_latency_ns": stats.latency_summary(engine)[0] if engine else None,
        "throughput_per_s": float(np.median(per_second)),
        "load_ns": _median(answers, "load_ns"),
        "first_inference_ns": _median(answers, "first_inference_ns"),
        "memory_bytes": extra.memory(answers, more.null_bytes),
        **more.fields(arm.watts, latency["mean"]),
        "accuracy": checked["accuracy"],
        "parity": checked["parity"],
        "details": checked.get("details"),
        "longest": checked.get("longest"),
        "size_bytes": arm.size_bytes,
        "contaminated": contaminated,
        "samples": f"{arm.name}.npz",
    }
    if fields["memory_bytes"] is None:
        reasons["memory_bytes"] = (
            "not measured: this needs Linux's /proc/self, a peak that can be reset, and an engine in the measured process"
        )
    if not all(answer["steady"] for answer in answers):
        reasons["processes"] = "a process did not reach a steady state in its warm-up"
    doubts = dict(extra.disturbances(answers, samples), **extra.throttled(more.environment))
    return dict(fields, reasons={**reasons, **doubts, **checked["reasons"], **more.reasons})


def _median(answers: List[Dict[str, Any]], key: str) -> float:
    return float(np.median([answer[key] for answer in answers]))


def raw_samples(check: Path, processes: List[ProcessResult]) -> Dict[str, np.ndarray]:
    """Return the samples of all processes, each with the index of its process, and the check's arrays."""
    with np.load(check, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    latencies = [process.samples.latency_ns for process in processes]
    warm_ups = [process.warmup_ns for process in processes]
    arrays["latency_ns"] = np.concatenate(latencies)
    arrays["preempted"] = np.concatenate([process.samples.preempted for process in processes])
    arrays["process"] = np.repeat(np.arange(len(processes)), [len(samples) for samples in latencies])
    waited_ns = np.concatenate([process.samples.waited_ns for process in processes])
    if len(waited_ns):
        arrays["waited_ns"] = waited_ns
    engine = [process.engine.latency_ns for process in processes if process.engine is not None]
    if engine:
        arrays["engine_ns"] = np.concatenate(engine)
    arrays["burst"] = np.concatenate([process.samples.burst for process in processes])
    leads = [process.lead for process in processes]
    arrays["lead_ns"] = np.concatenate([lead.latency_ns for lead in leads])
    arrays["lead_burst"] = np.concatenate([lead.burst for lead in leads])
    arrays["lead_process"] = np.repeat(np.arange(len(leads)), [len(lead.latency_ns) for lead in leads])
    arrays["warmup_ns"] = np.concatenate(warm_ups)
    arrays["warmup_process"] = np.repeat(np.arange(len(processes)), [len(samples) for samples in warm_ups])
    return arrays


def write(
    folder: Path, name: str, measured: Dict[str, Any], arrays: Dict[str, np.ndarray], *, compressed: bool = True
) -> None:
    """Write the raw samples, then the measurement that names them, which gains their hash; each atomically.

    The file has the hash of its other fields, `sha256`, which shows whether it was changed since.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Their type hints mistake every array name for an option.
    save: Callable[..., None] = np.savez_compressed if compressed else np.savez
    _write_atomic(folder / f"{name}.npz", lambda file: save(file, **arrays))
    measured["samples_sha256"] = hashlib.sha256((folder / f"{name}.npz").read_bytes()).hexdigest()
    canonical = json.dumps(measured, sort_keys=True, separators=(",", ":"), allow_nan=False)
    sealed = dict(measured, sha256=hashlib.sha256(canonical.encode()).hexdigest())
    text = json.dumps(sealed, indent=2, allow_nan=False) + "\n"
    _write_atomic(folder / f"{name}.json", lambda file: file.write(text.encode()))


def discard(folder: Path, name: str) -> None:
    """Remove a measurement and its raw samples, and the folder if it is then empty; missing files are no error."""
    for path in (folder / f"{name}.json", folder / f"{name}.npz"):
        if path.exists():
            path.unlink()
    if folder.is_dir() and not folder.is_symlink() and not os.listdir(folder):
        folder.rmdir()


def _write_atomic(path: Path, fill: Callable[[Any], Any]) -> None:
    handle, scratch = tempfile.mkstemp(dir=str(path.parent), prefix=f".{path.name}.part-")
    try:
        with os.fdopen(handle, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(scratch, 0o666 & ~umask)
        os.replace(scratch, path)
    except BaseException as error:
        os.unlink(scratch)
        if isinstance(error, OSError):
            error.filename = str(path)  # a failed write does not name its file
        raise
