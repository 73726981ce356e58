"""Build a measurement and its raw samples from a page's upload, with the harness's statistics.

The host runs this in a fresh process with the harness's folder in PYTHONPATH: assemble.py SPEC.json ARRAYS.npz, where the
spec is a checked upload and the host's facts about the model, and the arrays are the model's outputs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Tuple

import check
import job
import loading
import numpy as np
import results
import soak
import stats
from extra import Extra
from job import Arm

NOT_REPORTED = "a browser does not report"
UNKNOWN = {
    "energy_uj": f"{NOT_REPORTED} the power of the device",
    "memory_bytes": f"{NOT_REPORTED} the memory of its process; browser.heap_bytes is WebAssembly's part of it",
    "precision.executed": "ONNX Runtime Web does not report which kernels it chose",
    "preempted": "a browser does not report when other work interrupted an inference; all samples are kept",
    "layers": "not measured: the page does not time single layers",
    "throughput": "not measured: the page runs one request at a time",
    "pictures": "not measured: the page times the network alone; its camera view shows the time of each step",
}
NOT_READ = ("affinity", "peak_bytes", "baseline_bytes", "load_peak_bytes", "steady_bytes", "device_bytes", "wait_ns", "others", "stolen", "siblings_busy")  # fmt: skip


def main(spec_path: Path, arrays_path: Path) -> None:
    """Write the measurement of a spec, and its samples beside it."""
    spec = json.loads(spec_path.read_text(encoding="utf-8"))
    upload, arm = spec["upload"], _arm(spec)
    with np.load(arrays_path, allow_pickle=False) as archive:
        outputs = {name: archive[name] for name in archive.files}
    checked, kept = _checked(spec, arm, outputs)
    processes = [_process(process) for process in upload["processes"]]
    more = Extra()
    more.duet = dict(upload["duet"], arm=spec["name"], caches="warm")
    more.reasons = dict(UNKNOWN, **_doubts(upload))
    if upload["alone"] is not None:
        more.reasons["duet.ratios"] = upload["alone"]
    if upload["soak"] is not None:
        more.soak, more.arrays = _soaked(upload["soak"])
    measured = results.measurement(arm, checked, processes, more)
    measured["browser"] = upload["browser"]
    measured["longest"] = upload["longest"]
    measured["throughput_per_s"] = _per_second(upload["processes"])
    check_file = arrays_path.with_name("check.npz")
    loading.store(check_file, kept)
    arrays = dict(results.raw_samples(check_file, processes), **more.arrays)
    results.write(Path(spec["out"]), arm.name, measured, arrays)


def _arm(spec: Dict[str, Any]) -> Arm:
    """Return the arm that the page ran; files that the page compiles and loads have no path here."""
    return job.read_arm(dict(spec["arm"], io=spec["io"], kit_dir="", entry=""), Path())


def _checked(
    spec: Dict[str, Any], arm: Arm, outputs: Dict[str, np.ndarray]
) -> "tuple[Dict[str, Any], Dict[str, np.ndarray]]":
    """Return parity, and accuracy where the page ran all test requests: accuracy on a part of them would not be comparable."""
    count, total = spec["count"], spec["total"]
    with np.load(spec["io"], allow_pickle=False) as archive:
        recorded = {name: archive[name][:count] for name in archive.files}
    reasons = {}
    if count < total:
        reasons["accuracy"] = (
            f"the page ran {count} of {total} test requests, so that it downloads less; parity covers only those"
        )
        recorded.pop("labels", None)
    found, kept = check.compare(outputs, recorded, check.Criteria.of(arm)._replace(reasons=reasons))
    return dict(found, device=spec["device"], executed=None, settings=None), kept


def _process(sent: Dict[str, Any]) -> results.ProcessResult:
    latency = np.array(sent["latency_ns"], dtype=np.float64)
    answer = {key: sent[key] for key in ("wall_ns", "load_ns", "first_inference_ns", "steady", "threads")}
    answer.update(dict.fromkeys(NOT_READ), affinity=[], warmup_n=len(sent["warmup_ns"]))
    answer.update(bursts=len(sent["bursts"]), lead_n=len(sent["lead_ns"]))
    for key in ("wall_ns", "load_ns", "first_inference_ns"):
        answer[key] = round(answer[key])
    samples = _samples(latency, [(one["round"], one["n"]) for one in sent["bursts"]])
    lead = _samples(np.array(sent["lead_ns"]), [(one["round"], one["lead_n"]) for one in sent["bursts"]])
    return results.ProcessResult(answer, samples, np.array(sent["warmup_ns"], dtype=np.float64), None, lead)


def _per_second(processes: "List[Dict[str, Any]]") -> float:
    """Return the inferences per second of the typical worker; a sample is the mean of several inferences."""
    rates = [1e9 * len(one["latency_ns"]) * one["loops"] / one["wall_ns"] for one in processes]
    return float(np.median(rates))


def _samples(latency_ns: np.ndarray, bursts: "List[Tuple[int, int]]") -> stats.Samples:
    """Return samples of bursts, each burst with its round and its number of samples; a browser reports no preemption."""
    burst = np.repeat(*np.array(bursts).T)
    return stats.Samples(latency_ns, np.zeros(len(latency_ns), dtype=bool), burst)


def _doubts(upload: Dict[str, Any]) -> Dict[str, str]:
    browser = upload["browser"]
    found = []
    if browser["loops"] > 1:
        found.append(
            f"this browser's timer has steps of {browser['timer_ns'] / 1000:g} us, so each sample is the mean of {browser['loops']} "
            "inferences, and percentiles are over these means"
        )
    if browser["hidden"]:
        found.append("the page was hidden for a while, and browsers slow hidden pages down")
    return {"latency_ns": "; ".join(found)} if found else {}


def _soaked(sent: Dict[str, Any]) -> "tuple[Dict[str, Any], Dict[str, np.ndarray]]":
    columns = {name: np.array(sent[name], dtype=np.float64) for name in ("time_ns", "n", "p50_ns", "p95_ns")}
    bins = soak.Bins(n_clean=columns["n"], **dict(columns, time_ns=columns["time_ns"].astype(np.int64)))
    found = {"n": int(bins.n.sum()), "seconds": sent["seconds"], **soak.summary(bins, {})}
    found.update(power_source=None, power_reason=UNKNOWN["energy_uj"])
    return found, {f"soak.{name}": array for name, array in bins._asdict().items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
