"""Compare measurements that were made under equal conditions.

History of `edgedistill.comparison`: version 1 is the first; gates, missing, findings, advice, and fields of groups and rows were
added later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import ConfigDict, Field

from edgedistill.compare.advice import advise
from edgedistill.compare.budget import check_budget
from edgedistill.compare.load import LoadedMeasurement, MeasurementSet, describe_model
from edgedistill.compare.recommendation import choose, recommend
from edgedistill.compare.rows import (
    Group,
    Row,
    baseline_row,
    candidate_row,
    describe_itself,
    unequal_conditions,
    with_operating_point,
)
from edgedistill.compare.visitors import describe_visitor, is_visitor, newest, visitor_name, with_ways
from edgedistill.config.schema import Budget
from edgedistill.errors import ConfigError, IncomparableError
from edgedistill.records.base import Record
from edgedistill.records.finding import Finding
from edgedistill.records.measurement import Measurement

SCHEMA: Literal["edgedistill.comparison/1"] = "edgedistill.comparison/1"

Decision = Literal["pass", "fail", "undecided"]


class GateOutcome(Record):
    """The decision of a gate for one candidate on a device, `target`: `value` and `interval` in the unit of the gate, `found` in words.

    `least_change` is the smallest change that the device can tell, in the same unit, where the baseline was measured twice.
    """

    gate: str
    group: str
    target: str = ""
    candidate: str
    decision: Decision
    found: str
    value: float | None = None
    interval: tuple[float, float] | None = None
    least_change: float | None = None

    @property
    def who(self) -> str:
        """What was checked: the model, its run if there are several, and the device."""
        model, is_of_runs, _ = self.group.partition(" — ")
        named = f"{self.candidate}, {model}" if is_of_runs else self.candidate
        return f"{named} on {self.target}" if self.target else named


class Comparison(Record):
    """Groups of comparable measurements.

    `left_out` lists measurements without a counterpart, `missing` those that the baseline has and a candidate lacks, except teachers
    of students, `gates` the outcomes of gates, where gates were given, and `findings` the warnings of the stages of the runs. `advice`
    is the command that would decide, where a comparison across runs does not.
    """

    schema_: Literal["edgedistill.comparison/1"] = Field(alias="schema", default=SCHEMA)
    groups: tuple[Group, ...]
    left_out: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    gates: tuple[GateOutcome, ...] = ()
    findings: tuple[Finding, ...] = ()
    advice: str | None = None

    model_config = ConfigDict(
        frozen=True, extra="forbid", serialize_by_alias=True, validate_by_name=True, validate_by_alias=True
    )

    def __repr__(self) -> str:
        """Show the table; the fields would fill pages with numbers."""
        from edgedistill.compare.notebook import to_text

        return to_text(self.groups, self.left_out, self.findings, self.advice)

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        from edgedistill.compare.notebook import to_html

        return to_html(self.groups, self.advice)


def compare(baseline: Measurement, candidates: Sequence[Measurement]) -> Comparison:
    """Compare candidates with a baseline; IncomparableError lists each condition that differs."""
    named = [LoadedMeasurement(describe_model(m), m) for m in (baseline, *candidates)]
    first, *others = with_distinct_labels(named)
    return Comparison(groups=(_group(describe_target(baseline), first, others),))


@dataclass(frozen=True, eq=False)
class Pair:
    """Measurements of one model in several runs, by the names of the runs, the baseline first; `itself` is a second of the baseline."""

    members: tuple[tuple[str, LoadedMeasurement], ...]
    itself: LoadedMeasurement | None = None


@dataclass(frozen=True, eq=False)
class Pairing:
    """The measurements that runs have in common, what was left out, and what the baseline has and a candidate lacks.

    A teacher is not `missing` where the baseline has a student: gates check what can be shipped.
    """

    pairs: tuple[Pair, ...]
    left_out: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


def compare_runs(baseline: MeasurementSet, candidates: Sequence[MeasurementSet]) -> Comparison:
    """Pair the measurements of runs by device, kit, model and precision; two single measurements are paired as they are."""
    runs = [baseline, *candidates]
    comparison = compare_pairs(pair_runs(runs))
    return comparison.model_copy(update={"advice": advise(comparison.groups, runs)})


def compare_pairs(pairing: Pairing) -> Comparison:
    """Compare the measurements of each pair with its baseline; IncomparableError lists each condition that differs."""
    return Comparison(
        groups=tuple(_pair_group(pair) for pair in pairing.pairs), left_out=pairing.left_out, missing=pairing.missing,
        findings=pairing.findings,
    )  # fmt: skip


def pair_runs(given: Sequence[MeasurementSet]) -> Pairing:
    """Pair the measurements of runs, the baseline first; raises IncomparableError if they have nothing in common."""
    runs = _distinct_names(given)
    if all(len(run.results) == 1 for run in runs):
        return Pairing((Pair(tuple((run.name, run.results[0]) for run in runs)),), findings=_findings(runs))
    indexes = {run.name: _index(run) for run in runs}
    has_student = any(model == "student" for _, _, model, _ in indexes[runs[0].name])
    pairs, left_out, missing = [], [], []
    for key in dict.fromkeys(key for index in indexes.values() for key in index):
        present = [(name, index[key]) for name, index in indexes.items() if key in index]
        absent = [name for name, index in indexes.items() if key not in index]
        if absent:
            left_out.append(f"{_name(key)}: not measured in {', '.join(absent)}")
        visited = any(is_visitor(index[key].measurement) for index in indexes.values() if key in index)
        is_expected = not visited and not (has_student and key[2] == "teacher")
        if runs[0].name not in absent:
            missing += [f"{name}, {_name(key)}" for name in absent] if is_expected else []
            pairs += [Pair(tuple(present))] if len(present) > 1 else []
    if not pairs:
        raise IncomparableError("the runs have no model, device and precision in common:\n  " + "\n  ".join(left_out))
    return Pairing(tuple(pairs), tuple(left_out), tuple(missing), _findings(runs))


def have_counterparts(runs: Sequence[MeasurementSet]) -> bool:
    """Tell whether the first run and another measured one model on one device, or all are single measurements."""
    first, *others = ({key for key, _ in _keyed(run)} for run in runs)
    return all(len(run.results) == 1 for run in runs) or any(first & other for other in others)


def side_by_side(runs: Sequence[MeasurementSet]) -> Comparison:
    """Compare the models of each run with the teacher of that run; there are no ratios between runs."""
    named = _distinct_names(runs)
    groups = [
        group.model_copy(update={"title": f"{run.name} — {group.title}"})
        for run in named
        for group in summarise_run(run).groups
    ]
    names = " and ".join(run.name for run in named)
    return Comparison(
        groups=tuple(groups), left_out=(f"ratios between {names}: no model was measured on one device in both",),
        findings=_findings(named),
    )  # fmt: skip


def _findings(runs: Sequence[MeasurementSet]) -> tuple[Finding, ...]:
    """Return the warnings of runs; with several runs, a warning begins with the name of its run."""
    if len(runs) == 1:
        return runs[0].findings
    return tuple(
        one.model_copy(update={"subject": f"{run.name}: {one.subject}"}) for run in runs for one in run.findings
    )


def summarise_run(run: MeasurementSet, budgets: Mapping[str, Budget] | None = None) -> Comparison:
    """Compare the models on each target with the teacher there, the targets in the order of the configuration, then each visitor.

    `budgets` by target name replace those of the run.
    """
    limits = run.budgets if budgets is None else budgets
    by_target: dict[tuple[str, ...], list[LoadedMeasurement]] = {}
    by_visitor: dict[str, list[LoadedMeasurement]] = {}
    for one in run.results:
        m = one.measurement
        if is_visitor(m):
            by_visitor.setdefault(m.device.id, []).append(one)
        else:
            by_target.setdefault((m.target, m.kit, m.device.id), []).append(one)
    order = list(limits)
    own = sorted(by_target.items(), key=lambda item: order.index(item[0][0]) if item[0][0] in order else len(order))
    groups = [_target_group(with_distinct_labels(measured), limits.get(key[0], Budget())) for key, measured in own]
    visits = [newest(measured) for measured in by_visitor.values()]
    visits.sort(key=lambda measured: measured[-1].measurement.created)
    groups += [_target_group(with_ways(measured), Budget()) for measured in visits]
    return Comparison(groups=tuple(groups), findings=run.findings)


def to_json(comparison: Comparison) -> str:
    """Write a comparison as indented JSON that includes every measurement."""
    return comparison.model_dump_json(indent=2)


def where(measurement: Measurement) -> str:
    """Name a device in few words: its target, and its address if it is not this machine."""
    if is_visitor(measurement):
        return f"{visitor_name(measurement)} (browser)"
    address = measurement.device.address
    return measurement.target if address == "local" else f"{measurement.target} ({address})"


def describe_target(measurement: Measurement) -> str:
    """Name where a measurement was made: target, engine, machine and threads."""
    device, threads = measurement.device, measurement.threads
    engine = f"{device.engine.name} {device.engine.version}"
    return f"{measurement.target}: {engine} on {device.cpu}, {threads} thread{'s' if threads != 1 else ''}"


def with_distinct_labels(results: Sequence[LoadedMeasurement]) -> list[LoadedMeasurement]:
    """Add the kit to equal labels and then, where labels are still equal, a number."""
    labels = [result.label for result in results]
    if len(set(labels)) < len(labels):
        labels = [f"{result.label} ({result.measurement.kit})" for result in results]
    if len(set(labels)) < len(labels):
        labels = [f"{label} #{i + 1}" for i, label in enumerate(labels)]
    return [replace(result, label=label) for result, label in zip(results, labels, strict=True)]


def _distinct_names(runs: Sequence[MeasurementSet]) -> list[MeasurementSet]:
    if len({run.name for run in runs}) == len(runs):
        return list(runs)
    return [replace(run, name=f"{run.name} #{i + 1}") for i, run in enumerate(runs)]


def _group(title: str, baseline: LoadedMeasurement, candidates: Sequence[LoadedMeasurement]) -> Group:
    for candidate in candidates:
        if differing := unequal_conditions(baseline.measurement, candidate.measurement):
            raise IncomparableError(
                f"{candidate.label} and {baseline.label} were measured under different conditions: {'; '.join(differing)}. "
                "Measure both on one device under the same conditions"
            )
    rows = [with_operating_point(candidate_row(one, baseline), one, baseline) for one in candidates]
    answer = "\n".join(f"{row.label}: {row.verdict}" for row in rows)
    return Group(
        title=title,
        target=where(baseline.measurement),
        baseline=baseline.label,
        rows=(baseline_row(baseline), *rows),
        answer=answer
        or f"{baseline.label} is the only model here; to compare models, give their files to one command: edgedistill bench A.onnx B.onnx",
    )


def _pair_group(pair: Pair) -> Group:
    models = " / ".join(dict.fromkeys(result.label for _, result in pair.members))
    first, *others = (replace(result, label=name) for name, result in pair.members)
    group = _group(f"{models} — {describe_target(first.measurement)}", first, others)
    if pair.itself is None:
        return group
    itself = candidate_row(replace(pair.itself, label=f"{first.label} against itself"), first)
    return group.model_copy(update={"itself": itself, "answer": f"{group.answer}\n{describe_itself(itself)}"})


def _keyed(run: MeasurementSet) -> Iterator[tuple[tuple[str, ...], LoadedMeasurement]]:
    own = [result for result in run.results if not is_visitor(result.measurement)]
    for result in (*own, *newest(result for result in run.results if is_visitor(result.measurement))):
        m = result.measurement
        yield (m.device.address, m.kit, m.model.name, m.precision.requested), result


def _name(key: tuple[str, ...]) -> str:
    """Name a model and where it was measured: "student int8 with ort on ssh://pi@board"."""
    address, kit, model, precision = key
    return f"{model} {precision} with {kit}{'' if address == 'local' else f' on {address}'}"


def _index(run: MeasurementSet) -> dict[tuple[str, ...], LoadedMeasurement]:
    index: dict[tuple[str, ...], LoadedMeasurement] = {}
    for key, result in _keyed(run):
        if key in index:
            raise ConfigError(
                f"{result.file}: {run.name} has two measurements of {_name(key)}; give one of the two files instead"
            )
        index[key] = result
    return index


def _target_group(results: Sequence[LoadedMeasurement], budget: Budget) -> Group:
    first = results[0].measurement
    teachers = {}
    rows: list[Row] = []
    for target in dict.fromkeys(one.measurement.target for one in results):  # a visitor ran models in several ways
        measured = [one for one in results if one.measurement.target == target]
        teachers[target] = _teacher(measured)
        rows += _rows(measured, teachers[target])
    rows = [row.model_copy(update={"budget": check_budget(row.measurement, budget)}) for row in rows]
    chosen, teacher = choose(rows), next((one for one in teachers.values() if one is not None), None)
    return Group(
        title=describe_visitor(results) if is_visitor(first) else describe_target(first),
        target=where(first),
        baseline=None if teacher is None else teacher.label,
        rows=tuple(rows),
        answer=recommend(visitor_name(first) if is_visitor(first) else first.target, rows, budget),
        chosen=None if chosen is None else chosen.label,
    )


def _teacher(results: Sequence[LoadedMeasurement]) -> LoadedMeasurement | None:
    teachers = [result for result in results if result.measurement.model.name == "teacher"]
    return min(teachers, key=lambda one: one.measurement.precision.requested != "fp32", default=None)


def _rows(results: Sequence[LoadedMeasurement], teacher: LoadedMeasurement | None) -> list[Row]:
    rows = [] if teacher is None else [baseline_row(teacher)]
    return rows + [_run_row(result, teacher, results) for result in results if result is not teacher]


def _run_row(result: LoadedMeasurement, teacher: LoadedMeasurement | None, results: Sequence[LoadedMeasurement]) -> Row:
    """Return the row of a model of a run, with the operating point beside that of its float32 form."""
    row, model = candidate_row(result, teacher), result.measurement.model.name
    floats = [
        one for one in results if one.measurement.model.name == model and one.measurement.precision.requested == "fp32"
    ]
    return row if not floats or result in floats else with_operating_point(row, result, floats[0])
