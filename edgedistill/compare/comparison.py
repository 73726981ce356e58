"""Measurements side by side, under like conditions or not at all.

History of `edgedistill.comparison`: 1, the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import ConfigDict, Field

from edgedistill.compare.answer import choose, describe_change, ship
from edgedistill.compare.budget import check_budget
from edgedistill.compare.load import ResultSet
from edgedistill.compare.rows import Row, baseline_row, candidate_row, unlike
from edgedistill.config import Budget
from edgedistill.errors import ConfigError, IncomparableError
from edgedistill.records import Measurement, Record

SCHEMA: Literal["edgedistill.comparison/1"] = "edgedistill.comparison/1"


class Group(Record):
    """Rows that share a target and a baseline; `baseline` and `chosen` (what to ship) are labels of rows, where there is one."""

    title: str
    baseline: str | None
    rows: tuple[Row, ...]
    answer: str
    chosen: str | None = None


class Comparison(Record):
    """Groups of comparable results; `left_out` says what could not be paired, and why."""

    schema_: Literal["edgedistill.comparison/1"] = Field(alias="schema", default=SCHEMA)
    groups: tuple[Group, ...]
    left_out: tuple[str, ...] = ()

    model_config = ConfigDict(
        frozen=True, extra="forbid", serialize_by_alias=True, validate_by_name=True, validate_by_alias=True
    )


def compare(baseline: Measurement, candidates: Sequence[Measurement]) -> Comparison:
    """Set candidates against a baseline; IncomparableError lists each condition that differs."""
    labels = distinct_labels([baseline, *candidates])
    named = list(zip(labels[1:], candidates, strict=True))
    return Comparison(groups=(_group(describe_target(baseline), (labels[0], baseline), named),))


def compare_runs(baseline: ResultSet, candidates: Sequence[ResultSet]) -> Comparison:
    """Pair the measurements of runs by device, kit, model and precision; two single measurements pair as they are."""
    results = [baseline, *candidates]
    if all(len(result.measurements) == 1 for result in results):
        pairs = {describe_model(baseline.measurements[0]): [result.measurements[0] for result in results]}
        return Comparison(groups=(_run_group(results, *pairs.popitem()),))
    indexes = [_index(result) for result in results]
    groups, left_out = [], []
    for key, measurement in indexes[0].items():
        present = [i for i, index in enumerate(indexes) if key in index]
        if len(present) > 1:
            found = [indexes[i][key] for i in present]
            groups.append(_run_group([results[i] for i in present], describe_model(measurement), found))
    for key in dict.fromkeys(key for index in indexes for key in index):
        absent = [r.name for r, index in zip(results, indexes, strict=True) if key not in index]
        if absent:
            left_out.append(f"{' '.join(key)}: not in {', '.join(absent)}")
    if not groups:
        raise IncomparableError("no measurement has a counterpart:\n  " + "\n  ".join(left_out))
    return Comparison(groups=tuple(groups), left_out=tuple(left_out))


def summarise_run(result: ResultSet, budgets: dict[str, Budget] | None = None) -> Comparison:
    """Set each target's models against the teacher there; `budgets` by target name replace those of the run."""
    limits = result.budgets if budgets is None else budgets
    found: dict[tuple[str, str, str], list[Measurement]] = {}
    for measurement in result.measurements:
        found.setdefault((measurement.target, measurement.kit, measurement.device.id), []).append(measurement)
    groups = (_target_group(group, limits.get(key[0], Budget())) for key, group in found.items())
    return Comparison(groups=tuple(groups))


def to_json(comparison: Comparison) -> str:
    """Write a comparison as indented JSON, every measurement included."""
    return comparison.model_dump_json(indent=2)


def describe_target(measurement: Measurement) -> str:
    """Name where a measurement was made: target, engine, machine and threads."""
    device, threads = measurement.device, measurement.threads
    engine = f"{device.engine.name} {device.engine.version}"
    return f"{measurement.target}: {engine} on {device.cpu}, {threads} thread{'s' if threads != 1 else ''}"


def describe_model(measurement: Measurement) -> str:
    """Name a measured model: "student int8"."""
    return f"{measurement.model.name} {measurement.precision.requested}"


def distinct_labels(measurements: Sequence[Measurement]) -> list[str]:
    """Label measurements by model and precision, and by kit where that alone does not tell them apart."""
    labels = [describe_model(m) for m in measurements]
    if len(set(labels)) == len(labels):
        return labels
    labels = [f"{label} ({m.kit})" for label, m in zip(labels, measurements, strict=True)]
    if len(set(labels)) == len(labels):
        return labels
    return [f"{label} #{i + 1}" for i, label in enumerate(labels)]


def _group(title: str, baseline: tuple[str, Measurement], candidates: Sequence[tuple[str, Measurement]]) -> Group:
    for label, measurement in candidates:
        if differing := unlike(baseline[1], measurement):
            raise IncomparableError(
                f"{label} was not measured under the conditions of {baseline[0]}: {'; '.join(differing)}. "
                "Measure both on one device with one set of conditions"
            )
    rows = [candidate_row(label, measurement, baseline[1], baseline[0]) for label, measurement in candidates]
    answer = "; ".join(describe_change(row) for row in rows)
    return Group(
        title=title, baseline=baseline[0], rows=(baseline_row(*baseline), *rows), answer=f"vs {baseline[0]}: {answer}"
    )


def _run_group(results: Sequence[ResultSet], model: str, found: Sequence[Measurement]) -> Group:
    names = [result.name for result in results]
    if len(set(names)) < len(names):
        names = [f"{name} #{i + 1}" for i, name in enumerate(names)]
    models = {describe_model(m) for m in found}
    title = f"{model if len(models) == 1 else ' / '.join(sorted(models))} — {describe_target(found[0])}"
    return _group(title, (names[0], found[0]), list(zip(names[1:], found[1:], strict=True)))


def _index(result: ResultSet) -> dict[tuple[str, ...], Measurement]:
    index: dict[tuple[str, ...], Measurement] = {}
    for file, m in zip(result.files, result.measurements, strict=True):
        key = (m.device.address, m.kit, m.model.name, m.precision.requested)
        if key in index:
            raise ConfigError(f"{file}: {result.name} has two measurements of {' '.join(key)}; name one of the files")
        index[key] = m
    return index


def _target_group(measurements: Sequence[Measurement], budget: Budget) -> Group:
    labels = dict(zip(map(id, measurements), distinct_labels(measurements), strict=True))
    teachers = sorted(
        (m for m in measurements if m.model.name == "teacher"), key=lambda m: m.precision.requested != "fp32"
    )
    teacher = teachers[0] if teachers else None
    ordered = [m for m in measurements if m is teacher] + [m for m in measurements if m is not teacher]
    rows = []
    for m in ordered:
        base_label = None if teacher is None else labels[id(teacher)]
        row = baseline_row(labels[id(m)], m) if m is teacher else candidate_row(labels[id(m)], m, teacher, base_label)
        rows.append(row.model_copy(update={"budget": check_budget(m, budget)}))
    chosen = choose(rows)
    return Group(
        title=describe_target(measurements[0]),
        baseline=None if teacher is None else labels[id(teacher)],
        rows=tuple(rows),
        answer=ship(measurements[0].target, rows),
        chosen=None if chosen is None else chosen.label,
    )
