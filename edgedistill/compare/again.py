"""Measure both sides of a comparison again, in turns on their device, and compare these measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from edgedistill.compare.comparison import Pair, Pairing, pair_runs
from edgedistill.compare.load import LoadedMeasurement, MeasurementSet, read_result
from edgedistill.deploy.again import AgainOptions, MeasuredModel, caches_of, find_model, measure_again
from edgedistill.deploy.devices.transport import Progress
from edgedistill.errors import ConfigError, IncomparableError
from edgedistill.kits.kits import Kit
from edgedistill.records.measurement import Measurement


def measure_pairs(
    runs: Sequence[MeasurementSet], options: AgainOptions, kits: Mapping[str, Kit], folder: Path, progress: Progress
) -> Pairing:
    """Measure what runs have in common again, and the baseline of each pair twice; the new measurements are in `folder`.

    Each pair is one job, so that its models are neighbours in time. Raises ConfigError for a model that is not at hand,
    IncomparableError if the runs have nothing in common that can be measured again, and DeviceError when an engine fails.
    """
    pairing = _without_browsers(pair_runs(runs))
    models = [_models(pair, kits) for pair in pairing.pairs]
    pairs = [
        _measured(pair, measure_again(ones, options, folder / str(number), progress))
        for number, (pair, ones) in enumerate(zip(pairing.pairs, models, strict=True))
    ]
    return replace(pairing, pairs=tuple(pairs))


def measure_run(
    run: MeasurementSet, options: AgainOptions, kits: Mapping[str, Kit], folder: Path, progress: Progress
) -> MeasurementSet:
    """Measure the models of a run again, those of each target in turns; the new measurements are in `folder`.

    Raises ConfigError for a model that is not at hand, and DeviceError when an engine fails.
    """
    targets: dict[tuple[str, ...], list[LoadedMeasurement]] = {}
    for one in run.results:
        m = one.measurement
        if m.browser is None:
            targets.setdefault((m.target, m.kit, m.device.id), []).append(one)
    results: list[LoadedMeasurement] = []
    for number, ones in enumerate(targets.values()):
        models = [find_model(one.measurement, one.file, kits) for one in ones if one.file is not None]
        new = measure_again(models, options, folder / str(number), progress)
        results += [_read(path, one) for (path, _), one in zip(new, ones, strict=True)]
    if not results:
        raise ConfigError(
            f"{run.name}: only devices that opened the page were measured, which cannot be started from here"
        )
    return replace(run, results=tuple(results))


def sets_of(pairing: Pairing) -> tuple[MeasurementSet, ...]:
    """Return the measurements of a pairing as one set for each run."""
    names = dict.fromkeys(name for pair in pairing.pairs for name, _ in pair.members)
    return tuple(
        MeasurementSet(name, tuple(one for pair in pairing.pairs for run, one in pair.members if run == name))
        for name in names
    )


def _without_browsers(pairing: Pairing) -> Pairing:
    """Leave out what a browser measured, because a browser cannot be started from here."""
    kept, left_out = [], list(pairing.left_out)
    for pair in pairing.pairs:
        one = pair.members[0][1]
        if all(member.measurement.browser is None for _, member in pair.members):
            kept.append(pair)
        else:
            left_out.append(
                f"{one.label} ({one.measurement.kit}): a browser measured it, which cannot be started from here"
            )
    if not kept:
        raise IncomparableError("nothing can be measured again:\n  " + "\n  ".join(left_out))
    return replace(pairing, pairs=tuple(kept), left_out=tuple(left_out))


def _models(pair: Pair, kits: Mapping[str, Kit]) -> list[MeasuredModel]:
    """Return the models of a pair, and last its baseline again."""
    models = []
    for name, one in pair.members:
        if one.file is None:
            raise ConfigError(f"{name}: the model file is not known, because the measurement was not read from a file")
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


def _measured(pair: Pair, new: Sequence[tuple[Path, Measurement]]) -> Pair:
    """Return a pair with its new measurements, in the order of `_models`."""
    *files, again = (path for path, _ in new)
    members = tuple((name, _read(path, one)) for path, (name, one) in zip(files, pair.members, strict=True))
    return Pair(members, itself=_read(again, pair.members[0][1]))


def _read(path: Path, before: LoadedMeasurement) -> LoadedMeasurement:
    """Read a new measurement; its label and the names of its classes are those of the earlier one."""
    return replace(read_result(path), label=before.label, class_names=before.class_names)
