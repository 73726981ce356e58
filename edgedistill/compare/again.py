"""Measure both sides of a comparison again, in turns on their device, and compare these measurements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from edgedistill.compare.comparison import Pair, Pairing, pair_runs
from edgedistill.compare.load import LoadedMeasurement, MeasurementSet, read_result
from edgedistill.deploy.again import AgainOptions, MeasuredModel, caches_of, find_model, measure_again
from edgedistill.deploy.devices.transport import Progress
from edgedistill.errors import ConfigError, IncomparableError
from edgedistill.kits.kits import Kit


def measure_pairs(
    runs: Sequence[MeasurementSet], options: AgainOptions, kits: Mapping[str, Kit], folder: Path, progress: Progress
) -> Pairing:
    """Measure what runs have in common again, and the baseline of each pair twice; the new measurements are in `folder`.

    Raises ConfigError for a model that is not at hand, IncomparableError if the runs have nothing in common, and DeviceError
    when an engine fails.
    """
    pairing = pair_runs(runs)
    models = [model for pair in pairing.pairs for model in _models(pair, kits)]
    measured = iter(measure_again(models, options, folder, progress))
    return replace(pairing, pairs=tuple(_measured(pair, measured) for pair in pairing.pairs))


def sets_of(pairing: Pairing) -> tuple[MeasurementSet, ...]:
    """Return the measurements of a pairing as one set for each run."""
    names = dict.fromkeys(name for pair in pairing.pairs for name, _ in pair.members)
    return tuple(
        MeasurementSet(name, tuple(one for pair in pairing.pairs for run, one in pair.members if run == name))
        for name in names
    )


def _models(pair: Pair, kits: Mapping[str, Kit]) -> list[MeasuredModel]:
    """Return the models of a pair, and last its baseline again."""
    models = []
    for name, one in pair.members:
        if one.file is None:
            raise ConfigError(f"{name}: the model is not at hand, because the measurement was not read from a file")
        models.append(find_model(one.measurement, one.file, kits))
    conditions: dict[str, list[object]] = {
        "devices": [model.address for model in models],
        "threads": [model.measured.threads for model in models],
        "caches": [caches_of(model.measured) for model in models],
    }
    for what, values in conditions.items():
        if len(set(values)) > 1:
            differing = ", ".join(f"{name} {value}" for (name, _), value in zip(pair.members, values, strict=True))
            raise IncomparableError(f"models take turns under equal conditions, but {what} differ: {differing}")
    return [*models, models[0]]


def _measured(pair: Pair, new: Iterator[tuple[Path, object]]) -> Pair:
    """Return a pair with its new measurements, in the order of `_models`."""
    members = tuple((name, _read(next(new)[0], one)) for name, one in pair.members)
    return Pair(members, itself=_read(next(new)[0], pair.members[0][1]))


def _read(path: Path, before: LoadedMeasurement) -> LoadedMeasurement:
    """Read a new measurement; its label and the names of its classes are those of the earlier one."""
    return replace(read_result(path), label=before.label, class_names=before.class_names)
