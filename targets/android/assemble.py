"""Build measurements and raw samples from the output files of the phone runner, with the harness's statistics.

The host runs this in a fresh process with the harness's folder in PYTHONPATH: assemble.py SPEC.json. A phone has no Python.
The output has the format of the harness's verbs. Raw files are in the folder that each arm names.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Tuple, Union

import bench
import check
import energy
import job
import loading
import numpy as np
import results
import stats
from extra import Extra
from job import Arm
from kit import EngineError, load_engine
from workers import refuse_downgrade

DTYPES = {1: "f4", 2: "u1", 3: "i1", 4: "u2", 5: "i2", 6: "i4", 7: "i8", 9: "?", 10: "f2", 11: "f8", 12: "u4", 13: "u8"}
"""numpy's names of ONNX's element types."""

INFERENCE = np.dtype([("ns", "<i8"), ("round", "<i4"), ("kind", "<i4")])
WARM_UP, LEAD, CLEAN, PREEMPTED = range(4)
"""The record of an inference and its kinds, as in timing.h."""

NOT_SUPPORTED = "not measured: the runner for phones does not measure it"
NOT_READ = ("device_bytes", "wait_ns", "others", "stolen", "siblings_busy")


class Timed(NamedTuple):
    """An arm with the answer of its check, the arrays of the check, and its processes; none for the verb `check`."""

    table: Dict[str, Any]
    arm: Arm
    checked: Dict[str, Any]
    kept: Dict[str, np.ndarray]
    processes: List[results.ProcessResult]


def main(path: Path) -> None:
    """Write and print the measurements, or print the checks, of the arms of a spec."""
    spec = json.loads(path.read_text(encoding="utf-8"))
    found = [_read(spec, table) for table in spec["arms"]]
    sound = [one for one in found if isinstance(one, Timed)]
    answers = [_result(spec, one, sound) if isinstance(one, Timed) else one for one in found]
    sys.stdout.write("\n" + json.dumps(answers, allow_nan=False) + "\n")


def _read(spec: Dict[str, Any], table: Dict[str, Any]) -> Union[Timed, Dict[str, Any]]:
    """Read what the runner wrote for an arm; return the answer with its error if it failed."""
    name, folder = table["arm"]["name"], Path(table["folder"])
    if table["error"] is not None:
        return {"name": name, "error": table["error"]}
    try:
        arm = job.read_arm(table["arm"], Path())
        checked, kept = _checked(spec, table, folder, arm)
    except EngineError as error:
        return {"name": name, "error": str(error)}
    processes = [_process(answer, folder / f"process-{i}") for i, answer in enumerate(table["processes"])]
    return Timed(table, arm, checked, kept, processes)


def _result(spec: Dict[str, Any], one: Timed, sound: List[Timed]) -> Dict[str, Any]:
    """Return the check or the measurement of an arm; the measurement and its samples are also written."""
    arm, folder = one.arm, Path(one.table["folder"])
    if spec["verb"] == "check":
        return {"name": arm.name, "check": bench.labelled(one.checked, arm.target)}
    loading.store(folder / "check.npz", one.kept)
    more = _extra(spec, one.table)
    more.duet = _duet(spec, one, sound)
    measured = results.measurement(arm, one.checked, one.processes, more)
    measured["reasons"].update(one.table["reasons"])
    results.write(Path(spec["out"]), arm.name, measured, results.raw_samples(folder / "check.npz", one.processes))
    return {"name": arm.name, "measurement": measured}


def _duet(spec: Dict[str, Any], one: Timed, sound: List[Timed]) -> Dict[str, Any]:
    """Return the ratios of an arm to those that took turns with it."""
    others = [other for other in sound if other is not one and other.table["duet"] == one.table["duet"]]
    ratios = {other.arm.name: results.ratios(one.processes, other.processes) for other in others}
    return {"id": one.table["duet"], "arm": one.arm.name, "caches": spec["caches"], "ratios": ratios}


def _checked(
    spec: Dict[str, Any], table: Dict[str, Any], folder: Path, arm: Arm
) -> Tuple[Dict[str, Any], Dict[str, np.ndarray]]:
    """Return the answer of a check, and the arrays to store."""
    answer = table["check"]
    outputs = {}
    for i, output in enumerate(answer["outputs"]):
        raw = np.fromfile(folder / f"output-{i}", np.dtype(DTYPES[output["type"]]))
        outputs[output["name"]] = raw.reshape(answer["requests"], *output["shape"])
    with np.load(arm.io, allow_pickle=False) as archive:
        recorded = {name: archive[name][: answer["requests"]] for name in archive.files}
    found, kept = check.compare(outputs, recorded, check.Criteria.of(arm))
    count_layers = load_engine(arm.kit, arm.kit_dir).count_layers
    if count_layers is None:
        raise EngineError(f"{arm.kit}: engine.py cannot count the layers of a file for phones; use kit 'ort'")
    executed = count_layers(arm.entry.read_bytes())
    refuse_downgrade(arm.kit, arm.precision, executed)
    fields = {"device": spec["device"], "executed": executed, "settings": None, "requests": answer["requests"]}
    return dict(found, **fields), kept


def _process(answer: Dict[str, Any], path: Path) -> results.ProcessResult:
    inferences = np.fromfile(path, INFERENCE)
    samples = inferences[inferences["kind"] >= CLEAN]
    fields = {key: value for key, value in answer.items() if key != "n"}
    fields.update(dict.fromkeys(NOT_READ))
    lead, warm_up = inferences[inferences["kind"] == LEAD], inferences[inferences["kind"] == WARM_UP]
    timed = stats.Samples(samples["ns"], samples["kind"] == PREEMPTED, samples["round"])
    leads = stats.Samples(lead["ns"], np.zeros(len(lead), dtype=bool), lead["round"])
    return results.ProcessResult(fields, timed, warm_up["ns"], None, leads)


def _extra(spec: Dict[str, Any], table: Dict[str, Any]) -> Extra:
    more = Extra()
    more.environment = spec["environment"]
    more.reasons = {
        "throughput": NOT_SUPPORTED,
        "layers": NOT_SUPPORTED,
        "pictures": NOT_SUPPORTED,
        "soak": NOT_SUPPORTED,
        "memory_bytes.net": NOT_SUPPORTED,
    }
    metered = table["energy"]
    if metered["reason"] is None:
        try:
            series = energy.LOGS[metered["log"]](metered["text"], 0)
            found = energy.figures(series, energy.Marks.read(metered["marks"]))
            more.energy = dict(found, source=metered["source"], scope=metered["scope"])
        except energy.NoSourceError as reason:
            metered["reason"] = str(reason)
    if metered["reason"] is not None:
        more.reasons["energy_uj"] = metered["reason"]
    return more


if __name__ == "__main__":
    main(Path(sys.argv[1]))
