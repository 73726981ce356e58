"""What must hold after a series of kills: results as without kills, files as the manifest names them, and nothing left behind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from commands import FoundError, Place

TIMES: Final = frozenset({"seconds", "speeds", "layer_timing", "build_ns"})
"""The keys of records that hold times and measurements."""
MEASURED: Final = ("compile", "bench", "report")
"""The stages whose records are measurements, or name files that an engine's compiler writes with other bytes each time."""
MEASURED_FILES: Final = ("manifest.json", "report.html", "measurements", "artifacts", "search", ".lock")
PARTS: Final = (".part-", "resume")
"""In the names of files that no finished command leaves."""


def results(run: Path) -> dict[str, Any]:
    """Return all that must be equal in two runs: the hash of each file, and the manifest without times and measurements."""
    files = {
        path.relative_to(run).as_posix(): hash_of(path)
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.relative_to(run).parts[0] not in MEASURED_FILES and path.suffix != ".json"
    }
    tables = {
        path.relative_to(run).as_posix(): without_times(json.loads(path.read_bytes()))
        for path in sorted(run.rglob("*.json"))
        if path.relative_to(run).parts[0] not in MEASURED_FILES
    }
    stages = json.loads((run / "manifest.json").read_bytes())["stages"]
    entries = {name: _entry(entry) for name, entry in stages.items() if name not in MEASURED}
    measured = sorted(path.name for path in (run / "measurements").glob("*.json"))
    return {"files": files, "tables": tables, "stages": entries, "order": list(stages), "measured": measured}


def _entry(entry: dict[str, Any]) -> Any:
    """Return a stage's entry without times, and without its hash, which covers the times."""
    return without_times({name: value for name, value in entry.items() if name != "sha256"})


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_times(one) for name, one in value.items() if name not in TIMES}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def require_equal(got: Any, wanted: Any, where: str = "results") -> None:
    """Raise FoundError that names the first difference of two JSON-like values."""
    if isinstance(got, dict) and isinstance(wanted, dict):
        if got.keys() != wanted.keys():
            raise FoundError(f"{where}: {sorted(got.keys() ^ wanted.keys())} are only in one of two runs")
        for name, one in got.items():
            require_equal(one, wanted[name], f"{where}, {name}")
    elif isinstance(got, list) and isinstance(wanted, list) and len(got) == len(wanted):
        for i, (one, another) in enumerate(zip(got, wanted, strict=True)):
            require_equal(one, another, f"{where}, {i}")
    elif got != wanted:
        raise FoundError(f"{where}: {str(got)[:200]} instead of {str(wanted)[:200]}")


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def require_sound(run: Path) -> int:
    """Raise FoundError unless each file that the manifest names has its hash; return the number of these files."""
    path = run / "manifest.json"
    if not path.exists():
        return 0
    refs = list(_refs(json.loads(path.read_bytes())))
    for ref in refs:
        file = run / ref["path"]
        if not file.is_file() or hash_of(file) != ref["sha256"]:
            raise FoundError(f"{file} is missing, or is not as the manifest says")
    for one in (run / "measurements").glob("*.json"):
        json.loads(one.read_bytes())
        with np.load(one.with_suffix(".npz"), allow_pickle=False) as samples:
            for name in samples.files:
                samples[name]
    return len(refs)


def _refs(value: Any) -> Iterator[dict[str, Any]]:
    """Yield each reference to a file in a manifest."""
    if isinstance(value, dict):
        if {"path", "sha256", "bytes"} <= value.keys() and value["path"]:
            yield value
        for one in value.values():
            yield from _refs(one)
    elif isinstance(value, list):
        for one in value:
            yield from _refs(one)


def require_clean(place: Place) -> None:
    """Raise FoundError for unfinished files in a run folder or a cache, and for anything in the temporary folder."""
    left = [
        path
        for path in (*place.job.rglob("*"), *(place.folder / "cache").rglob("*"))
        if any(part in path.name for part in PARTS)
    ]
    left += list((place.folder / "tmp").iterdir())
    if left:
        raise FoundError(f"files were left: {', '.join(str(path.relative_to(place.folder)) for path in left[:8])}")
