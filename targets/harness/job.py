"""Jobs, schema edgedistill.job/1: the models to measure and the settings, read from JSON and checked before measuring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from metrics import METRICS

SCHEMA = "edgedistill.job/1"
CACHES = ("warm", "cold")
PASSES = ("null_model", "throughput", "layers", "energy", "pictures")


class JobError(Exception):
    """A job is invalid; the text names the file and the key."""


class Arm(NamedTuple):
    """One model on one engine; paths are absolute.

    `reasons` lists the fields that cannot be measured, with the reason for each. `watts` is the user's power figure, for an
    estimate where no source measures power. `output` names the output that the metric and the labels refer to, by default the
    model's first; `threshold` is the score above which a multi-label model predicts a label: 0 for logits, 0.5 for probabilities.
    `contract` says how a picture becomes the input and outputs become answers; `pictures` is a file of decoded pictures.
    """

    name: str
    target: str
    address: str
    kit: str
    kit_dir: Path
    precision: str
    threads: int
    entry: Path
    size_bytes: int
    model: Dict[str, Any]
    io: Path
    expected: Optional[str]
    metric: Optional[str]
    reasons: Dict[str, str]
    watts: Optional[float]
    output: Optional[str]
    threshold: float
    contract: Optional[Dict[str, Any]]
    pictures: Optional[Path]


OPTIONAL: Dict[str, Any] = {
    "reasons": {},
    "watts": None,
    "output": None,
    "threshold": 0.0,
    "contract": None,
    "pictures": None,
}
"""The optional keys of an arm."""


class Job(NamedTuple):
    """The arms to measure and the settings: `processes` fresh processes per arm, `seconds` of steady inference in each.

    The other keys are optional. `caches` is "warm", or "cold" to write over the CPU's caches before each inference.
    `soak_seconds` of sustained inference follow, if above 0; `meter` is a CSV file that an external meter writes meanwhile;
    `passes` are those beside latency: memory of a null model, throughput, layers, energy, whole pictures. If `requests` is set, only that
    number of the recorded requests is checked. The measurements of a job that has not ended are in the folder `partial`, by default
    below `out`.
    """

    out: Path
    partial: Path
    processes: int
    seconds: float
    seed: int
    arms: List[Arm]
    soak_seconds: float = 0.0
    meter: Optional[Path] = None
    passes: Tuple[str, ...] = PASSES
    requests: Optional[int] = None
    caches: str = "warm"


def read_job(path: Path) -> Job:
    """Read a job; paths in it are relative to its own folder."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise JobError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise JobError(f"{path}: not JSON: {error}") from None
    try:
        return _job(table, path.resolve().parent)
    except KeyError as error:
        raise JobError(f"{path}: key {error} is missing") from None
    except (TypeError, ValueError) as error:
        raise JobError(f"{path}: {error}") from None


def _job(table: Dict[str, Any], folder: Path) -> Job:
    if table["schema"] != SCHEMA:
        raise ValueError(f"schema is '{table['schema']}'; this harness reads {SCHEMA}")
    job = Job(
        out=folder / table["out"],
        partial=folder / table.get("partial", f"{table['out']}/partial"),
        processes=int(table["processes"]),
        seconds=float(table["seconds"]),
        seed=int(table["seed"]),
        arms=[read_arm(arm, folder) for arm in table["arms"]],
        soak_seconds=float(table.get("soak_seconds", 0.0)),
        meter=folder / table["meter"] if table.get("meter") else None,
        passes=tuple(table.get("passes", PASSES)),
        requests=table.get("requests"),
        caches=table.get("caches", "warm"),
    )
    if job.processes < 1 or not job.seconds > 0:
        raise ValueError(f"processes = {job.processes} and seconds = {job.seconds:g}; both must be above 0")
    if job.requests is not None and not (isinstance(job.requests, int) and job.requests > 0):
        raise ValueError(f"requests = {job.requests}; it must be a whole number above 0")
    if job.caches not in CACHES:
        raise ValueError(f"caches = {job.caches!r}; it must be one of: {', '.join(CACHES)}")
    unknown = set(job.passes) - set(PASSES)
    if unknown:
        raise ValueError(f"unknown pass '{min(unknown)}'; the passes are: {', '.join(PASSES)}")
    names = [arm.name for arm in job.arms]
    if not names or len(set(names)) < len(names):
        raise ValueError("a job needs at least one arm, and no two arms may share a name")
    return job


def read_arm(table: Dict[str, Any], folder: Path) -> Arm:
    """Return the arm in a JSON table, with paths relative to a folder; raise ValueError or TypeError for a wrong key."""
    values = dict(OPTIONAL, **table)
    unknown = set(values) - set(Arm._fields)
    if unknown:
        raise ValueError(f"arm '{values.get('name')}' has unknown keys: {', '.join(sorted(unknown))}")
    missing = set(Arm._fields) - set(values)
    if missing:
        raise ValueError(f"arm '{values.get('name')}' lacks the keys: {', '.join(sorted(missing))}")
    if values["metric"] is not None and values["metric"] not in METRICS:
        raise ValueError(
            f"arm '{values['name']}' has the unknown metric '{values['metric']}'; the metrics are: {', '.join(METRICS)}"
        )
    if not (values["output"] is None or isinstance(values["output"], str)):
        raise ValueError(
            f"arm '{values['name']}' has output {values['output']!r}; it must be the name of an output, or null"
        )
    if isinstance(values["threshold"], bool) or not isinstance(values["threshold"], (int, float)):
        raise TypeError(f"arm '{values['name']}' has threshold {values['threshold']!r}; it must be a number")
    if "/" in values["name"] or values["name"].startswith("."):
        raise ValueError(
            f"arm '{values['name']}': a name becomes a file name, so it must not contain '/' or begin with '.'"
        )
    for key in ("kit_dir", "entry", "io", "pictures"):
        values[key] = None if values[key] is None else folder / values[key]
    return Arm(**values)
