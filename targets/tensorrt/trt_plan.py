"""The record beside an engine plan: a plan is valid for one TensorRT version and one GPU, and is never loaded elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any, Dict, Optional

from trt_cuda import Gpu

SCHEMA = "edgedistill.trt_plan/1"
PLAN, MODEL = "model.plan", "model.onnx"
HERE = ("tensorrt", "gpu", "compute_capability", "multiprocessors")
"""The fields that must match this device."""


def describe_place(version: str, gpu: Gpu) -> Dict[str, Any]:
    """Return the TensorRT version and the GPU properties that a plan depends on."""
    return {
        "tensorrt": version,
        "gpu": gpu.name,
        "compute_capability": gpu.compute_capability,
        "multiprocessors": gpu.multiprocessors,
    }


def keep(plan: Path, model: Path, precision: str, place: Dict[str, Any]) -> Path:
    """Write the record of a plan beside it, and return its path."""
    path = record_of(plan)
    record = dict(place, schema=SCHEMA, precision=precision, plan_sha256=sha256(plan), model_sha256=sha256(model))
    write(path, (json.dumps(record, indent=2) + "\n").encode())
    return path


def mismatch(plan: Path, precision: str, place: Dict[str, Any]) -> Optional[str]:
    """Return why a plan must not be loaded here, or None if it was built for this GPU and TensorRT version."""
    try:
        record = json.loads(record_of(plan).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"no record beside {plan.name} says what the plan was built for"
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        return f"{record_of(plan).name} is not of schema {SCHEMA}"
    for field in HERE:
        if record.get(field) != place[field]:
            return f"it was built for {_place(record)}, but this device has {_place(place)}"
    if record.get("precision") != precision:
        return f"it was built in {record.get('precision')}, but {precision} was requested"
    if record.get("plan_sha256") != sha256(plan):
        return f"{plan.name} is not the file that {record_of(plan).name} describes"
    return None


def _place(record: Dict[str, Any]) -> str:
    return (
        f"TensorRT {record.get('tensorrt')} on {record.get('gpu')} (compute capability "
        f"{record.get('compute_capability')}, {record.get('multiprocessors')} multiprocessors)"
    )


def record_of(plan: Path) -> Path:
    """Return the path of a plan's record."""
    return plan.with_name(plan.name + ".json")


def timing_cache(place: Dict[str, Any]) -> Path:
    """Return the path of this GPU's timing cache, which reduces the time of the next build to a fraction."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    key = hashlib.sha256(json.dumps([place[field] for field in HERE]).encode()).hexdigest()[:16]
    return Path(caches) / "edgedistill-device" / f"tensorrt-{key}.timing"


def sha256(path: Path) -> str:
    """Return a file's hash."""
    digest = hashlib.sha256()
    with open(str(path), "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def write(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    handle, scratch = tempfile.mkstemp(dir=str(path.parent), prefix=f".{path.name}.part-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, str(path))
    except BaseException:
        os.unlink(scratch)
        raise
