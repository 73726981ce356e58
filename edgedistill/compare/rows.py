"""A row of a comparison: a measurement, and how it differs from its baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pydantic import Field

from edgedistill.compare import formatting
from edgedistill.compare.budget import BudgetCheck
from edgedistill.compare.load import LoadedMeasurement
from edgedistill.compare.operating import OperatingChange, operating_change
from edgedistill.compare.per_class import class_drops, same_samples, size_drops
from edgedistill.deploy.again import caches_of
from edgedistill.records.base import Record
from edgedistill.records.measurement import Measurement
from edgedistill.statistics import (
    MINIMUM_PROCESSES,
    SAME_POINTS,
    AccuracyDrop,
    ClassDrop,
    Speedup,
    accuracy_drop,
    paired_drop,
    resampled_drop,
    speedup,
    times_more,
    worst_class,
)


class Row(Record):
    """A measurement beside its baseline; `reasons` says by field why a comparison is null.

    `verdict` is the comparison in words. `differs` lists differences that do not prevent a comparison, such as the engine.
    `classes` is empty where the answers per test sample are not known, `sizes` also for models other than detectors. `operating_point`
    compares a detector with its float32 form on the same target, or with the baseline where that is of another run. `class_names` are
    those of the numbers in `measurement.details`, where they are known.
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
    sizes: tuple[ClassDrop, ...] = ()
    operating_point: OperatingChange | None = None
    class_names: tuple[str, ...] = ()


class Group(Record):
    """Rows with one target and one baseline.

    `target` names the device, `baseline` and `chosen`, the model to ship, are labels of rows, or None. `answer` is the conclusion
    in words. `itself` compares the baseline with a second measurement of it, where one was made in turns with the rows: an A/A
    comparison. A device that opened the page has a baseline for each way to run a model, and `baseline` is the first.
    """

    title: str
    target: str = ""
    baseline: str | None
    rows: tuple[Row, ...]
    answer: str
    chosen: str | None = None
    itself: Row | None = None

    @property
    def is_visitor(self) -> bool:
        """Whether the device is no target of the configuration, but opened the page."""
        return any(row.measurement.browser is not None for row in self.rows)


def metric_of(rows: Iterable[Row]) -> tuple[str, str]:
    """Return the table heading and the name of the metric of some rows."""
    measured = (row.measurement.accuracy for row in rows)
    return formatting.metric_heading(accuracy.metric for accuracy in measured if accuracy is not None)


def baseline_row(baseline: LoadedMeasurement) -> Row:
    """Return the row of a baseline."""
    return Row(label=baseline.label, measurement=baseline.measurement, is_baseline=True, class_names=_names(baseline))


def candidate_row(candidate: LoadedMeasurement, baseline: LoadedMeasurement | None) -> Row:
    """Compare a measurement with its baseline as far as their conditions allow."""
    label, measurement = candidate.label, candidate.measurement
    if baseline is None:
        reasons = {"speedup": "the teacher was not measured on this target"}
        verdict = describe_speed(None, reasons)
        return Row(
            label=label,
            measurement=measurement,
            is_baseline=False,
            reasons=reasons,
            verdict=verdict,
            class_names=_names(candidate),
        )
    reasons = {}
    if differing := unequal_conditions(baseline.measurement, measurement):
        reasons["speedup"] = f"conditions differ from {baseline.label}: {'; '.join(differing)}"
    drop, reasons_drop = _accuracy(baseline, candidate)
    energy, reasons_energy = _energy(baseline.measurement, measurement)
    if differing and energy is not None:
        energy, reasons_energy = None, {"energy_ratio": reasons["speedup"]}
    classes = class_drops(baseline, candidate)
    speed = None if differing else speedup(baseline.measurement, measurement)
    metric = "top1" if measurement.accuracy is None else measurement.accuracy.metric
    accuracy = describe_accuracy(drop, classes, metric, reasons_drop)
    return Row(
        label=label,
        measurement=measurement,
        is_baseline=False,
        speedup=speed,
        accuracy_drop=drop,
        size_ratio=baseline.measurement.size_bytes / measurement.size_bytes if measurement.size_bytes else None,
        energy_ratio=energy,
        differs=other_differences(baseline.measurement, measurement),
        reasons=reasons | reasons_drop | reasons_energy,
        verdict=f"{describe_speed(speed, reasons)}; {accuracy}",
        classes=classes,
        sizes=size_drops(baseline, candidate),
        class_names=_names(candidate),
    )


def _names(one: LoadedMeasurement) -> tuple[str, ...]:
    return () if one.measurement.details is None else one.class_names


def with_operating_point(row: Row, candidate: LoadedMeasurement, reference: LoadedMeasurement) -> Row:
    """Return the row of a candidate with its operating point beside that of a reference."""
    change = operating_change(reference, candidate)
    if isinstance(change, str):
        return row.model_copy(update={"reasons": row.reasons | {"operating_point": change}})
    return row.model_copy(update={"operating_point": change})


def unequal_conditions(baseline: Measurement, candidate: Measurement) -> tuple[str, ...]:
    """List the conditions, with both values, that differ and must be equal for latencies to be comparable."""
    a, b = baseline.device, candidate.device
    conditions = {
        "device": (a.id, b.id),
        "architecture": (a.arch, b.arch),
        "cpu": (a.cpu, b.cpu),
        "threads": (baseline.threads, candidate.threads),
        "power mode": (a.power_mode, b.power_mode),
        "governor": (a.governor, b.governor),
        "power source": (_power_source(baseline), _power_source(candidate)),
        "caches": (caches_of(baseline), caches_of(candidate)),
    }
    return _differences(conditions)


def _power_source(measurement: Measurement) -> str | None:
    return None if measurement.environment is None else measurement.environment.before.power_source


def other_differences(baseline: Measurement, candidate: Measurement) -> tuple[str, ...]:
    """List differences that a comparison may be about: the engine, its settings, and the software below it."""
    a, b = baseline.device, candidate.device
    facts = {
        "kit": (baseline.kit, candidate.kit),
        "engine": (f"{a.engine.name} {a.engine.version}", f"{b.engine.name} {b.engine.version}"),
        "kernel": (a.kernel, b.kernel),
        "python": (a.python, b.python),
    }
    return _differences(facts | _settings(baseline, candidate))


def _settings(baseline: Measurement, candidate: Measurement) -> dict[str, tuple[object, object]]:
    """Pair the settings that both engines report, such as a CUDA graph; numbers are left out, as they are measured values."""
    a, b = baseline.settings or {}, candidate.settings or {}
    names = (name for name in a if isinstance(a[name], str | bool) and isinstance(b.get(name), str | bool))
    return {name.replace("_", " "): (a[name], b[name]) for name in names}


def _differences(pairs: Mapping[str, tuple[object, object]]) -> tuple[str, ...]:
    return tuple(f"{name} {_known(x)} vs {_known(y)}" for name, (x, y) in pairs.items() if x != y)


def _known(value: object) -> str:
    return "not known" if value is None else str(value)


def _accuracy(baseline: LoadedMeasurement, candidate: LoadedMeasurement) -> tuple[AccuracyDrop | None, dict[str, str]]:
    a, b = baseline.measurement.accuracy, candidate.measurement.accuracy
    if a is None or b is None:
        return None, {"accuracy_drop": f"accuracy of the {'baseline' if a is None else 'candidate'} was not measured"}
    if a.metric != b.metric:
        return None, {"accuracy_drop": f"the metrics differ: {a.metric} vs {b.metric}"}
    one, other = baseline.resampled, candidate.resampled
    if one is not None and other is not None and one.labels == other.labels:
        return resampled_drop(a.value - b.value, one.values - other.values), {}
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
            return None, {"energy_ratio": f"energy of the {name} is {energy.source}; only measured energy is compared"}
    if (a.source, a.scope) != (b.source, b.scope):
        return None, {"energy_ratio": f"the energy sources differ: {a.source} vs {b.source}"}
    if b.per_inference <= 0:
        return None, {"energy_ratio": "the measured energy of the candidate is not above zero"}
    return a.per_inference / b.per_inference, {}


def describe_speed(speed: Speedup | None, reasons: Mapping[str, str]) -> str:
    """Describe a speedup: faster, slower, no difference, undecided, or why the two cannot be compared."""
    if speed is None:
        return f"speed not comparable: {reasons['speedup']}"
    ratio = formatting.times(speed.value)
    if speed.ci95 is None:
        before, after = speed.processes
        return f"speed undecided: {ratio} by p50, but {before} and {after} processes are fewer than {MINIMUM_PROCESSES} per side"
    if speed.duet:
        return f"{speed.verdict}, {formatting.finely(speed.value)} {_interval(speed.ci95, 3 if speed.value < 1.95 else 2 if speed.value < 10 else 1)}, measured in turns"
    return f"{speed.verdict}, {ratio} {_interval(speed.ci95, 2)}"


def least_change(value: float, interval: tuple[float, float]) -> float:
    """Return the smallest change that a device can tell, from a change and its interval that it measured of one model twice.

    This is the change itself, or half the width of the interval if that is larger.
    """
    return max(abs(value), (interval[1] - interval[0]) / 2)


def describe_itself(itself: Row) -> str:
    """Describe what a device measured of one model twice: "1.001x [0.997, 1.005], so this machine shows changes of 0.4 % or more"."""
    speed = itself.speedup
    if speed is None or speed.ci95 is None:
        return f"{itself.label}: {describe_speed(speed, itself.reasons)}"
    least = least_change(1 / speed.value - 1, (1 / speed.ci95[1] - 1, 1 / speed.ci95[0] - 1))
    found = f"{formatting.finely(speed.value)} {_interval(speed.ci95, 3)}"
    return f"{itself.label}: {found}, so this machine shows changes of {100 * least:.1f} % or more"


def describe_accuracy(
    drop: AccuracyDrop | None, classes: Sequence[ClassDrop], metric: str, reasons: Mapping[str, str]
) -> str:
    """Describe an accuracy drop: its size, whether it is a real difference, and the drop of the worst class."""
    name = formatting.metric_word(metric)
    if drop is None:
        return f"{name} not comparable: {reasons['accuracy_drop']}"
    test = "" if drop.p_value is None else f", McNemar p {_probability(drop.p_value)}"
    text = f"{name} {_change(drop.points, drop.ci95_points)}{test}"
    if drop.verdict in ("no difference seen", "cannot tell"):
        text += f", {drop.verdict}"
    lost = worst_class(classes)
    if lost is None or lost.points <= 0:
        return text
    return f"{text}; worst{formatting.class_metric(metric)} of {len(classes)} classes: {describe_class(lost)}"


def describe_class(lost: ClassDrop) -> str:
    """Describe the drop of one class: "'deer' \u22123.2 points [\u22126.1, \u22120.4]"."""
    return f"'{lost.name}' {_change(lost.points, lost.ci95_points)}"


def describe_operating_point(change: OperatingChange) -> str:
    """Describe an operating point: "best F1 at a score of 0.41 (student fp32: 0.44); at 0.44, recall \u22122.1 points [\u22123.5, \u22120.8]"."""
    before, after = change.thresholds
    moved = _change(change.points, change.ci95_points)
    return f"best F1 at a score of {after:.2f} ({change.reference}: {before:.2f}); at {before:.2f}, recall {moved}"


def samples_that_tell(drop: AccuracyDrop, n: int) -> str:
    """Return about how many test samples would tell whether a drop is real, in words: "1,300"."""
    low, high = drop.ci95_points
    return formatting.rounded_up(max(n + 1, n * times_more(drop.points, (low, high), SAME_POINTS)))


def _change(drop: float, interval: tuple[float, float]) -> str:
    """Write the drop of a metric as its change: "\u22128.3 points [\u22129.1, \u22127.5]"."""
    low, high = interval
    return f"{formatting.signed(-drop)} points {_interval((-high, -low), 1)}"


def _interval(interval: tuple[float, float], decimals: int) -> str:
    return f"[{describe_interval(interval, decimals, ', ')}]"


def describe_interval(interval: tuple[float, float], decimals: int, between: str) -> str:
    """Write the ends of an interval with a minus sign (not a hyphen)."""
    return between.join(f"{value + 0.0:.{decimals}f}".replace("-", "\u2212") for value in interval)


def _probability(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.2g}"
