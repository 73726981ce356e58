"""One result of a comparison: a measurement, and what separates it from its baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import Field

from edgedistill.compare import figures
from edgedistill.compare.budget import BudgetCheck
from edgedistill.compare.classes import ClassDrop, class_drops, same_samples
from edgedistill.compare.load import Result
from edgedistill.compare.statistics import AccuracyDrop, Speedup, accuracy_drop, paired_drop, speedup
from edgedistill.compare.verdict import accuracy_in_words, speed_in_words
from edgedistill.records.base import Record
from edgedistill.records.measurement import Measurement


class Row(Record):
    """A measurement beside its baseline; `reasons` says why a comparison is null, by field.

    `verdict` says the comparison in words. `differs` lists what else is not the same and does not forbid a comparison, such
    as the engine. `classes` is empty where the answers to the single test samples are not known.
    """

    label: str
    measurement: Measurement
    is_baseline: bool
    speedup: Speedup | None = None
    accuracy_drop: AccuracyDrop | None = None
    size_ratio: float | None = None
    energy_ratio: float | None = None
    budget: BudgetCheck | None = None
    differs: tuple[str, ...] = ()
    reasons: dict[str, str] = Field(default_factory=dict)
    verdict: str = ""
    classes: tuple[ClassDrop, ...] = ()


def metric_of(rows: Iterable[Row]) -> tuple[str, str]:
    """Return the heading and the name of the metric that rows were measured by."""
    return figures.metric(row.measurement.accuracy.metric for row in rows if row.measurement.accuracy is not None)


def baseline_row(baseline: Result) -> Row:
    """Give the baseline its row."""
    return Row(label=baseline.label, measurement=baseline.measurement, is_baseline=True)


def candidate_row(candidate: Result, baseline: Result | None) -> Row:
    """Compare a measurement with its baseline as far as their conditions allow."""
    label, measurement = candidate.label, candidate.measurement
    if baseline is None:
        reasons = {"speedup": "the teacher was not measured on this target"}
        verdict = speed_in_words(None, reasons)
        return Row(label=label, measurement=measurement, is_baseline=False, reasons=reasons, verdict=verdict)
    reasons = {}
    if differing := unlike(baseline.measurement, measurement):
        reasons["speedup"] = f"conditions differ from {baseline.label}: {'; '.join(differing)}"
    drop, reasons_drop = _accuracy(baseline, candidate)
    energy, reasons_energy = _energy(baseline.measurement, measurement)
    if differing and energy is not None:
        energy, reasons_energy = None, {"energy_ratio": reasons["speedup"]}
    classes = class_drops(baseline, candidate)
    speed = None if differing else speedup(baseline.measurement, measurement)
    metric = "top1" if measurement.accuracy is None else measurement.accuracy.metric
    beside = accuracy_in_words(drop, classes, metric, reasons_drop)
    return Row(
        label=label,
        measurement=measurement,
        is_baseline=False,
        speedup=speed,
        accuracy_drop=drop,
        size_ratio=baseline.measurement.size_bytes / measurement.size_bytes if measurement.size_bytes else None,
        energy_ratio=energy,
        differs=different(baseline.measurement, measurement),
        reasons=reasons | reasons_drop | reasons_energy,
        verdict=f"{speed_in_words(speed, reasons)}; {beside}",
        classes=classes,
    )


def unlike(baseline: Measurement, candidate: Measurement) -> tuple[str, ...]:
    """List the conditions that must be equal for latencies to be comparable and are not, with both values."""
    a, b = baseline.device, candidate.device
    knobs = {
        "device": (a.id, b.id),
        "architecture": (a.arch, b.arch),
        "cpu": (a.cpu, b.cpu),
        "threads": (baseline.threads, candidate.threads),
        "power mode": (a.power_mode, b.power_mode),
        "governor": (a.governor, b.governor),
        "power source": (_power_source(baseline), _power_source(candidate)),
    }
    return _differences(knobs)


def _power_source(measurement: Measurement) -> str | None:
    return None if measurement.environment is None else measurement.environment.before.power_source


def different(baseline: Measurement, candidate: Measurement) -> tuple[str, ...]:
    """List what else is not the same: the engine and what it runs on may be the very thing that is compared."""
    a, b = baseline.device, candidate.device
    facts = {
        "kit": (baseline.kit, candidate.kit),
        "engine": (f"{a.engine.name} {a.engine.version}", f"{b.engine.name} {b.engine.version}"),
        "kernel": (a.kernel, b.kernel),
        "python": (a.python, b.python),
    }
    return _differences(facts | _settings(baseline, candidate))


def _settings(baseline: Measurement, candidate: Measurement) -> dict[str, tuple[object, object]]:
    """Pair the settings that both engines told, but for numbers, which are figures: a CUDA graph, how it waits."""
    a, b = baseline.settings or {}, candidate.settings or {}
    names = (name for name in a if isinstance(a[name], str | bool) and isinstance(b.get(name), str | bool))
    return {name.replace("_", " "): (a[name], b[name]) for name in names}


def _differences(pairs: Mapping[str, tuple[object, object]]) -> tuple[str, ...]:
    return tuple(f"{name} {_known(x)} vs {_known(y)}" for name, (x, y) in pairs.items() if x != y)


def _known(value: object) -> str:
    return "not known" if value is None else str(value)


def _accuracy(baseline: Result, candidate: Result) -> tuple[AccuracyDrop | None, dict[str, str]]:
    a, b = baseline.measurement.accuracy, candidate.measurement.accuracy
    if a is None or b is None:
        return None, {"accuracy_drop": f"accuracy of the {'baseline' if a is None else 'candidate'} was not measured"}
    if a.metric != b.metric:
        return None, {"accuracy_drop": f"the metrics differ: {a.metric} vs {b.metric}"}
    if not same_samples(baseline, candidate):
        return accuracy_drop(a, b), {}
    assert baseline.correct is not None
    assert candidate.correct is not None
    return paired_drop(baseline.correct, candidate.correct), {}


def _energy(baseline: Measurement, candidate: Measurement) -> tuple[float | None, dict[str, str]]:
    a, b = baseline.energy_uj, candidate.energy_uj
    if a is None or b is None:
        return None, {"energy_ratio": f"energy of the {'baseline' if a is None else 'candidate'} was not measured"}
    for name, energy in (("baseline", a), ("candidate", b)):
        if energy.provenance != "measured":
            return None, {
                "energy_ratio": f"energy of the {name} is {energy.source}, and only measured energy is compared"
            }
    if (a.source, a.scope) != (b.source, b.scope):
        return None, {"energy_ratio": f"the sources differ: {a.source} vs {b.source}"}
    if b.per_inference <= 0:
        return None, {"energy_ratio": "the candidate's energy is not above zero"}
    return a.per_inference / b.per_inference, {}
