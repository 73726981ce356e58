"""Measurements side by side, under like conditions or not at all.

History of `edgedistill.comparison`: 1, the first; gates, missing, and more of rows have been added since.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from pydantic import ConfigDict, Field

from edgedistill.compare.budget import check_budget
from edgedistill.compare.load import Result, ResultSet, describe_model
from edgedistill.compare.recommendation import choose, ship
from edgedistill.compare.rows import Row, baseline_row, candidate_row, unlike
from edgedistill.config.schema import Budget
from edgedistill.errors import ConfigError, IncomparableError
from edgedistill.records.base import Record
from edgedistill.records.measurement import Measurement

SCHEMA: Literal["edgedistill.comparison/1"] = "edgedistill.comparison/1"


class Group(Record):
    """Rows that share a target and a baseline; `baseline` and `chosen` (what to ship) are labels of rows, where there is one."""

    title: str
    baseline: str | None
    rows: tuple[Row, ...]
    answer: str
    chosen: str | None = None


Decision = Literal["pass", "fail", "undecided"]


class Outcome(Record):
    """What a gate came to for one candidate: `value` and `interval` in the gate's unit, `found` in words."""

    gate: str
    group: str
    candidate: str
    decision: Decision
    found: str
    value: float | None = None
    interval: tuple[float, float] | None = None


class Comparison(Record):
    """Groups of comparable results; `left_out` says what could not be paired, and why.

    `missing` is what the baseline has and a candidate lacks, and `gates` the outcomes of gates, where there are any.
    """

    schema_: Literal["edgedistill.comparison/1"] = Field(alias="schema", default=SCHEMA)
    groups: tuple[Group, ...]
    left_out: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    gates: tuple[Outcome, ...] = ()

    model_config = ConfigDict(
        frozen=True, extra="forbid", serialize_by_alias=True, validate_by_name=True, validate_by_alias=True
    )

    def __repr__(self) -> str:
        """Show the table: the fields are a page of numbers."""
        from edgedistill.compare.notebook import to_text

        return to_text(self)

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        from edgedistill.compare.notebook import to_html

        return to_html(self)


def compare(baseline: Measurement, candidates: Sequence[Measurement]) -> Comparison:
    """Set candidates against a baseline; IncomparableError lists each condition that differs."""
    first, *others = distinct([Result(describe_model(m), m) for m in (baseline, *candidates)])
    return Comparison(groups=(_group(describe_target(baseline), first, others),))


def compare_runs(baseline: ResultSet, candidates: Sequence[ResultSet]) -> Comparison:
    """Pair the measurements of runs by device, kit, model and precision; two single measurements pair as they are."""
    runs = _distinct_names([baseline, *candidates])
    if all(len(run.results) == 1 for run in runs):
        return Comparison(groups=(_run_group([(run.name, run.results[0]) for run in runs]),))
    indexes = {run.name: _index(run) for run in runs}
    groups, left_out, missing = [], [], []
    for key in dict.fromkeys(key for index in indexes.values() for key in index):
        found = [(name, index[key]) for name, index in indexes.items() if key in index]
        absent = [name for name, index in indexes.items() if key not in index]
        if absent:
            left_out.append(f"{' '.join(key)}: not in {', '.join(absent)}")
        if runs[0].name not in absent:
            missing += [f"{name} {' '.join(key)}" for name in absent]
            groups += [_run_group(found)] if len(found) > 1 else []
    if not groups:
        raise IncomparableError("no measurement has a counterpart:\n  " + "\n  ".join(left_out))
    return Comparison(groups=tuple(groups), left_out=tuple(left_out), missing=tuple(missing))


def have_counterparts(runs: Sequence[ResultSet]) -> bool:
    """Tell whether the first run and another have measured one model on one device, or are single measurements."""
    first, *others = ({key for key, _ in _keyed(run)} for run in runs)
    return all(len(run.results) == 1 for run in runs) or any(first & other for other in others)


def side_by_side(runs: Sequence[ResultSet]) -> Comparison:
    """Set each run's models against its own teacher, run after run: between their devices there is no ratio."""
    named = _distinct_names(runs)
    groups = [
        group.model_copy(update={"title": f"{run.name} — {group.title}"})
        for run in named
        for group in summarise_run(run).groups
    ]
    apart = f"{' and '.join(run.name for run in named)}: no ratio between them, as they have no model on one device in common"
    return Comparison(groups=tuple(groups), left_out=(apart,))


def summarise_run(result: ResultSet, budgets: dict[str, Budget] | None = None) -> Comparison:
    """Set each target's models against the teacher there; `budgets` by target name replace those of the run."""
    limits = result.budgets if budgets is None else budgets
    found: dict[tuple[str, str, str], list[Result]] = {}
    for one in result.results:
        m = one.measurement
        found.setdefault((m.target, m.kit, m.device.id), []).append(one)
    groups = (_target_group(distinct(group), limits.get(key[0], Budget())) for key, group in found.items())
    return Comparison(groups=tuple(groups))


def to_json(comparison: Comparison) -> str:
    """Write a comparison as indented JSON, every measurement included."""
    return comparison.model_dump_json(indent=2)


def describe_target(measurement: Measurement) -> str:
    """Name where a measurement was made: target, engine, machine and threads."""
    device, threads = measurement.device, measurement.threads
    engine = f"{device.engine.name} {device.engine.version}"
    return f"{measurement.target}: {engine} on {device.cpu}, {threads} thread{'s' if threads != 1 else ''}"


def distinct(results: Sequence[Result]) -> list[Result]:
    """Add the kit to labels, and then a number, where they do not tell results apart."""
    labels = [result.label for result in results]
    if len(set(labels)) < len(labels):
        labels = [f"{result.label} ({result.measurement.kit})" for result in results]
    if len(set(labels)) < len(labels):
        labels = [f"{label} #{i + 1}" for i, label in enumerate(labels)]
    return [replace(result, label=label) for result, label in zip(results, labels, strict=True)]


def _distinct_names(runs: Sequence[ResultSet]) -> list[ResultSet]:
    if len({run.name for run in runs}) == len(runs):
        return list(runs)
    return [replace(run, name=f"{run.name} #{i + 1}") for i, run in enumerate(runs)]


def _group(title: str, baseline: Result, candidates: Sequence[Result]) -> Group:
    for candidate in candidates:
        if differing := unlike(baseline.measurement, candidate.measurement):
            raise IncomparableError(
                f"{candidate.label} was not measured under the conditions of {baseline.label}: {'; '.join(differing)}. "
                "Measure both on one device with one set of conditions"
            )
    rows = [candidate_row(candidate, baseline) for candidate in candidates]
    answer = "\n".join(f"{row.label}: {row.verdict}" for row in rows)
    return Group(
        title=title,
        baseline=baseline.label,
        rows=(baseline_row(baseline), *rows),
        answer=answer or f"{baseline.label} was measured alone",
    )


def _run_group(found: Sequence[tuple[str, Result]]) -> Group:
    models = " / ".join(dict.fromkeys(result.label for _, result in found))
    first, *others = (replace(result, label=name) for name, result in found)
    return _group(f"{models} — {describe_target(first.measurement)}", first, others)


def _keyed(run: ResultSet) -> Iterator[tuple[tuple[str, ...], Result]]:
    for result in run.results:
        m = result.measurement
        yield (m.device.address, m.kit, m.model.name, m.precision.requested), result


def _index(run: ResultSet) -> dict[tuple[str, ...], Result]:
    index: dict[tuple[str, ...], Result] = {}
    for key, result in _keyed(run):
        if key in index:
            raise ConfigError(
                f"{result.file}: {run.name} has two measurements of {' '.join(key)}; name one of the files"
            )
        index[key] = result
    return index


def _target_group(results: Sequence[Result], budget: Budget) -> Group:
    teachers = [result for result in results if result.measurement.model.name == "teacher"]
    teacher = min(teachers, key=lambda one: one.measurement.precision.requested != "fp32", default=None)
    rows = [] if teacher is None else [baseline_row(teacher)]
    rows += [candidate_row(result, teacher) for result in results if result is not teacher]
    rows = [row.model_copy(update={"budget": check_budget(row.measurement, budget)}) for row in rows]
    chosen = choose(rows)
    return Group(
        title=describe_target(results[0].measurement),
        baseline=None if teacher is None else teacher.label,
        rows=tuple(rows),
        answer=ship(results[0].measurement.target, rows),
        chosen=None if chosen is None else chosen.label,
    )
