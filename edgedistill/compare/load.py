"""Load measurements: from run folders, folders of measurement files, and single files."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import ValidationError

from edgedistill.config.schema import Budget
from edgedistill.deploy.stage import OF_PAGES
from edgedistill.errors import ConfigError
from edgedistill.records.base import explain_validation
from edgedistill.records.details import DetectionDetails, SegmentationDetails
from edgedistill.records.finding import Finding
from edgedistill.records.measurement import Measurement
from edgedistill.records.stages import STAGE_RECORDS, BenchRecord, DataRecord, ReportRecord
from edgedistill.runtime.arrays import read_arrays
from edgedistill.runtime.files import is_unchanged, sha256_of
from edgedistill.runtime.folder import Run, again, read_record, read_settings
from edgedistill.tasks.matches import Matches, matches_of

MEASUREMENT_SCHEMAS = ("edgedistill.measurement/1", "edgedistill.measurement/2")
BUNDLE_SCHEMA = "edgedistill.measurements/1"
"""The output of a bundle: several measurements in one file."""


class Resampled(NamedTuple):
    """A metric of resampled test samples (R,); models with equal `labels`, a hash, have the same samples in each resample."""

    values: np.ndarray
    labels: str


@dataclass(frozen=True, eq=False)
class LoadedMeasurement:
    """A measurement with its label in a comparison and the file it came from.

    `correct` (bool) and `labels` (int), both arrays (samples,), are None where the answers per test sample are not known:
    which samples the model classified correctly, and their classes. `class_names` is empty where the names are not known.
    `resampled` is the metric of resampled test samples, `matches` are the boxes that a detector found, and `confusions` (pictures, C,
    C + 1) the confusion matrices of masks, where the raw samples have them.
    """

    label: str
    measurement: Measurement
    file: Path | None = None
    correct: np.ndarray | None = None
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    resampled: Resampled | None = None
    matches: Matches | None = None
    confusions: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class MeasurementSet:
    """The measurements under `path`, the budgets of a run's targets by target name, and the warnings of a run's stages."""

    name: str
    results: tuple[LoadedMeasurement, ...]
    budgets: dict[str, Budget] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    path: Path | None = None

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """The measurements, without labels and files."""
        return tuple(result.measurement for result in self.results)


def load_results(paths: Iterable[Path]) -> tuple[MeasurementSet, ...]:
    """Load each path: a run folder, also that of an ONNX file, a folder of measurement files, or one measurement file."""
    given = [Path(path) for path in paths]
    sets = tuple(replace(_load(path), name=name, path=path) for path, name in zip(given, names_of(given), strict=True))
    for one in sets:
        if not one.measurements:
            raise ConfigError(f"{one.name}: contains no measurements yet; run 'edgedistill bench CONFIG' first")
    return sets


def names_of(paths: Sequence[Path]) -> list[str]:
    """Name each path by its file or folder; where those names are equal, by the first part in which the paths differ."""
    whole = [path.resolve() for path in paths]
    names = [path.stem if path.is_file() else path.name for path in whole]
    if len(set(names)) == len(names) or len(set(whole)) < len(whole):
        return names
    common = Path(os.path.commonpath(whole))
    differing = [path.relative_to(common).with_suffix("").parts[0] for path in whole]
    return differing if len(set(differing)) == len(differing) else names


def load_run(folder: Path) -> MeasurementSet:
    """Load a run folder, which may have no measurements yet."""
    if not (folder / "manifest.json").is_file():
        raise ConfigError(f"{folder}: not a run folder: it has no manifest.json; 'edgedistill run CONFIG' makes one")
    return replace(_load(folder), path=folder)


def samples_path(file: Path, measurement: Measurement) -> Path:
    """Return the path of the raw samples: beside the measurement file, also after both were moved."""
    return file.parent / Path(measurement.samples).name


def read_samples(file: Path, measurement: Measurement, names: tuple[str, ...]) -> dict[str, np.ndarray] | None:
    """Read arrays of a measurement's raw samples; None when the archive or one of the arrays is missing."""
    try:
        arrays = read_arrays(samples_path(file, measurement), "samples", lambda name: name in names)
    except ConfigError:
        return None
    return arrays if len(arrays) == len(names) else None


def correct_answers(file: Path, measurement: Measurement) -> tuple[np.ndarray, np.ndarray] | None:
    """Return which test samples a model classified correctly, and their labels; None when the recorded outputs are missing.

    Outputs that contradict the recorded accuracy count as missing. The labels are int64 whatever their type in the user's data, so that
    computing with them does not overflow.
    """
    arrays = read_samples(file, measurement, ("outputs", "labels"))
    if arrays is None or measurement.accuracy is None or measurement.accuracy.metric != "top1":
        return None
    outputs, labels = arrays["outputs"], arrays["labels"]
    if len(outputs) != len(labels) or len(labels) != measurement.accuracy.n:
        return None
    correct: np.ndarray = outputs.reshape(len(labels), -1).argmax(axis=1) == labels
    agrees = math.isclose(float(correct.mean()), measurement.accuracy.value, abs_tol=1e-9)
    return (correct, labels.astype(np.int64)) if agrees else None


def _resampled(file: Path, measurement: Measurement) -> Resampled | None:
    arrays = read_samples(file, measurement, ("resampled", "labels"))
    if arrays is None or measurement.accuracy is None:
        return None
    return Resampled(arrays["resampled"], hashlib.sha256(arrays["labels"].tobytes()).hexdigest())


def _matches(file: Path, measurement: Measurement) -> Matches | None:
    if not isinstance(measurement.details, DetectionDetails):
        return None
    arrays = read_samples(file, measurement, ("outputs", "labels", "matched"))
    return None if arrays is None else matches_of(arrays["outputs"], arrays["labels"], arrays["matched"])


def _confusions(file: Path, measurement: Measurement) -> np.ndarray | None:
    if not isinstance(measurement.details, SegmentationDetails):
        return None
    arrays = read_samples(file, measurement, ("confusions",))
    return None if arrays is None else arrays["confusions"]


def _load(path: Path) -> MeasurementSet:
    if path.is_file():
        return MeasurementSet(path.stem, _results([path]))
    if not path.is_dir():
        raise ConfigError(f"{path}: no such run folder or measurement file")
    measured = path / "measurements"
    files = _files(measured if measured.is_dir() else path)
    if not (path / "manifest.json").is_file():
        return MeasurementSet(path.resolve().name, _results(files))
    run = Run(path)
    files = _of_run(run, files, is_flat=not measured.is_dir())
    return MeasurementSet(path.resolve().name, _results(files), *_kept(run))


def _results(files: Sequence[Path]) -> tuple[LoadedMeasurement, ...]:
    """Read the measurements in files; the output of a bundle has several."""
    return tuple(_result(table, file) for file in files for table in _tables_in(file))


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


def _of_run(run: Run, files: Sequence[Path], *, is_flat: bool) -> list[Path]:
    """Return the measurement files of a run; one that was published without subfolders, as in a repository, has other files.

    Raises ConfigError if a file is not the one that the bench stage wrote.
    """
    record = read_record(run, BenchRecord)
    hashes = {} if record is None else {Path(one.path).name: one.sha256 for one in record.measurements}
    for file in files:
        if file.name in hashes and run.file_hash(file) != hashes[file.name]:
            raise ConfigError(_changed(file))
    return [file for file in files if not is_flat or file.name in hashes or file.name.startswith(OF_PAGES)]


def _kept(run: Run) -> tuple[dict[str, Budget], tuple[Finding, ...]]:
    """Return the budgets and the warnings in the manifest of a run."""
    try:
        return _budgets(run), _warnings(run)
    except (AttributeError, KeyError, TypeError, ValidationError) as error:
        raise ConfigError(f"{run.folder / 'manifest.json'}: its settings or findings are damaged: {error}") from None


def _warnings(run: Run) -> tuple[Finding, ...]:
    """Return the warnings of a run's stages, the last stage first, because it is the nearest to what is deployed."""
    entries = [entry for kind in reversed(STAGE_RECORDS) if (entry := run.entry(kind.stage)) is not None]
    found = [Finding.model_validate(one) for entry in entries for one in entry["record"].get("findings", ())]
    return tuple(one for one in found if one.severity != "note")


def read_result(path: Path) -> LoadedMeasurement:
    """Read a measurement file, and from its raw samples which answers were correct."""
    return _result(_table(path), path)


def _result(table: Any, path: Path) -> LoadedMeasurement:
    measurement = _measurement(table, path)
    samples = samples_path(path, measurement)
    if (
        measurement.samples_sha256 is not None
        and samples.is_file()
        and sha256_of(samples) != measurement.samples_sha256
    ):
        raise ConfigError(_changed(samples))
    correct, labels = correct_answers(path, measurement) or (None, None)
    return LoadedMeasurement(
        describe_model(measurement),
        measurement,
        path,
        correct,
        labels,
        _class_names(path),
        _resampled(path, measurement),
        _matches(path, measurement),
        _confusions(path, measurement),
    )


def _class_names(path: Path) -> tuple[str, ...]:
    """Return the class names of the run that contains a measurement file; empty where there is no run."""
    folders = path.resolve().parents[:2]
    folder = next((one for one in reversed(folders) if (one / "manifest.json").is_file()), None)
    data = None if folder is None else read_record(Run(folder), DataRecord)
    return () if data is None else data.classes


def describe_model(measurement: Measurement) -> str:
    """Name a measured model, as in "student int8"."""
    return f"{measurement.model.name} {measurement.precision.requested}"


def read_measurement(path: Path) -> Measurement:
    """Read and check one measurement file."""
    return _measurement(_table(path), path)


def _table(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ConfigError(f"{path}: not a readable JSON file: {error}") from None


def _tables_in(path: Path) -> list[Any]:
    """Return the measurements in a file: one, or several in the output of a bundle."""
    table = _table(path)
    if not isinstance(table, dict) or table.get("schema") != BUNDLE_SCHEMA:
        return [table]
    measurements = table.get("measurements")
    if not isinstance(measurements, list) or not measurements:
        errors = table.get("errors") or {}
        why = "; ".join(f"{name}: {text}" for name, text in errors.items()) if isinstance(errors, dict) else ""
        raise ConfigError(f"{path}: contains no measurement{': ' + why if why else ''}; run the bundle again")
    return measurements


def _measurement(table: Any, path: Path) -> Measurement:
    schema = table.get("schema") if isinstance(table, dict) else None
    if schema not in MEASUREMENT_SCHEMAS:
        problem = f"has schema '{schema}'" if schema else "has no schema"
        raise ConfigError(f'{path}: {problem}; the schema of a measurement file is "{MEASUREMENT_SCHEMAS[-1]}"')
    if not is_unchanged(table):
        raise ConfigError(_changed(path))
    try:
        return Measurement.model_validate_json(json.dumps(table))
    except ValidationError as error:
        raise ConfigError(explain_validation(error, path)) from None


def _changed(path: Path) -> str:
    """Return the sentence about a file that is not as it was written, with the next step."""
    if path.name.startswith(OF_PAGES):
        step = "measure on this device again (edgedistill serve), or remove the file"
    elif any((folder / "manifest.json").is_file() for folder in path.resolve().parents[:2]):
        step = again(BenchRecord.stage)
    else:
        step = "measure again, or take the file from where it was measured"
    return f"{path}: was changed after it was measured; {step}"


def _budgets(run: Run) -> dict[str, Budget]:
    """Return the budgets that the last report was made for, by target."""
    budgets = read_settings(run, ReportRecord).get("budgets", {})
    if isinstance(budgets, list):  # of a run that was made when they were listed in the order of the targets
        names = [str(target.get("name")) for target in read_settings(run, BenchRecord).get("targets", [])]
        budgets = dict(zip(names, budgets, strict=True)) if len(names) == len(budgets) else {}
    try:
        return {name: Budget.model_validate(budget) for name, budget in budgets.items()}
    except ValidationError as error:
        raise ConfigError(explain_validation(error, run.folder / "manifest.json")) from None
