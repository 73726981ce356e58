"""Read results: run folders, folders of measurement files, and single files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgedistill.config import Budget
from edgedistill.errors import ConfigError
from edgedistill.records import Measurement
from edgedistill.runs import Run

MEASUREMENT_SCHEMA = "edgedistill.measurement/1"


@dataclass(frozen=True)
class ResultSet:
    """The measurements found under one path, the file of each, and the budgets of a run's targets by name."""

    name: str
    measurements: tuple[Measurement, ...]
    files: tuple[Path, ...]
    budgets: dict[str, Budget] = field(default_factory=dict)


def load_results(paths: Iterable[Path]) -> tuple[ResultSet, ...]:
    """Read each path: a run folder, a folder of measurement files, or one measurement file."""
    results = tuple(_load(Path(path)) for path in paths)
    for result in results:
        if not result.measurements:
            raise ConfigError(f"{result.name}: no measurements in it yet; 'edgedistill bench' makes them")
    return results


def load_run(folder: Path) -> ResultSet:
    """Read a run folder, which may have no measurements yet."""
    if not (folder / "manifest.json").is_file():
        raise ConfigError(f"{folder}: is not a run folder (no manifest.json); 'edgedistill run' makes one")
    return _load(folder)


def samples_path(file: Path, measurement: Measurement) -> Path:
    """Return where the raw samples lie: beside the measurement's file, whatever folder it was made in."""
    return file.parent / Path(measurement.samples).name


def _load(path: Path) -> ResultSet:
    if path.is_file():
        return ResultSet(path.stem, (read_measurement(path),), (path,))
    if not path.is_dir():
        raise ConfigError(f"{path}: no such run folder or measurement file")
    is_run = (path / "manifest.json").is_file()
    files = tuple(sorted((path / "measurements" if is_run else path).glob("*.json")))
    budgets = _budgets(Run(path), path) if is_run else {}
    return ResultSet(path.resolve().name, tuple(read_measurement(file) for file in files), files, budgets)


def read_measurement(path: Path) -> Measurement:
    """Read and check one measurement file."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path}: not a readable JSON file: {error}") from None
    schema = table.get("schema") if isinstance(table, dict) else None
    if schema != MEASUREMENT_SCHEMA:
        found = f"schema '{schema}'" if schema else "no schema"
        raise ConfigError(f'{path}: {found}; a measurement file says "schema": "{MEASUREMENT_SCHEMA}"')
    try:
        measurement = Measurement.model_validate_json(json.dumps(table))
    except ValidationError as error:
        raise ConfigError(describe(error, path)) from None
    _check_latencies(measurement, path)
    return measurement


def describe(error: ValidationError, origin: Path) -> str:
    """List what a record refuses, one line for each field."""
    lines = (f"{origin}: {'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors())
    return "\n".join(dict.fromkeys(lines))


def _check_latencies(measurement: Measurement, path: Path) -> None:
    named = {f"processes.{i}.p50_ns": process.p50_ns for i, process in enumerate(measurement.processes)}
    for name, value in ({"latency_ns.p50": measurement.latency_ns.p50} | named).items():
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{path}: {name}: a latency is a positive number, not {value}")
    if not measurement.processes:
        raise ConfigError(f"{path}: processes: is empty; a measurement has at least one process")


def _budgets(run: Run, folder: Path) -> dict[str, Budget]:
    """Pair the targets that were measured with the budgets that the last report was made for."""
    targets = _tables(run, "bench", "targets")
    budgets = _tables(run, "report", "budgets")
    if len(targets) != len(budgets):
        return {}
    try:
        return {str(t.get("name")): Budget.model_validate(b) for t, b in zip(targets, budgets, strict=True)}
    except ValidationError as error:
        raise ConfigError(describe(error, folder / "manifest.json")) from None


def _tables(run: Run, stage: str, key: str) -> list[dict[str, Any]]:
    entry = run.stages.get(stage)
    return [] if entry is None else list(entry.get("config", {}).get(key, []))
