"""Footnotes of a table: why a value is missing or doubtful. Equal reasons share a footnote."""

from __future__ import annotations

from collections.abc import Iterator

from edgedistill.compare import formatting
from edgedistill.compare.per_class import hidden, mean_points
from edgedistill.compare.rows import Group, Row, describe_class, describe_operating_point
from edgedistill.records.measurement import Measurement, Soak
from edgedistill.statistics import DUET_NOISE, MINIMUM_PROCESSES, NOISE_FLOOR

DOUBTS = ("latency_ns", "processes", "throttled", "drift", "siblings", "stolen")
"""The keys of `Measurement.reasons` that cast doubt on latencies that were measured."""

MARKS = "¹²³⁴⁵⁶⁷⁸⁹"
DISAGREEMENT = 1.1
"""When the p50s of processes differ by more than this factor, the machine and not the model caused the difference."""
VISIBLE = 1.02
"""A footnote has the p50 of the undisturbed mode where the p50 as measured is larger by more than this factor."""

VISIBLE_SHIFT = 0.03
"""A footnote has the operating point of a detector if its score threshold certainly moved by more than this."""


class Footnotes:
    """Footnotes in the order of their first use; the marks of a cell point to them."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._cells: dict[tuple[str, str], list[int]] = {}

    def add(self, row: Row, cell: str, text: str) -> None:
        """Add a footnote to a cell of a row."""
        if text not in self._texts:
            self._texts.append(text)
        self._cells.setdefault((row.label, cell), []).append(self._texts.index(text))

    def marks(self, row: Row, cell: str) -> str:
        """Return the marks of a cell's footnotes."""
        return "".join(_mark(index) for index in self._cells.get((row.label, cell), ()))

    def of(self, row: Row) -> list[str]:
        """Return the footnotes of a row, without repetition."""
        used = (index for (label, _), indexes in self._cells.items() if label == row.label for index in indexes)
        return [self._texts[index] for index in dict.fromkeys(used)]

    def listed(self) -> list[tuple[str, str]]:
        """Return each mark and its text."""
        return [(_mark(index), text) for index, text in enumerate(self._texts)]


def footnotes_of(group: Group) -> Footnotes:
    """Collect the footnotes of a group in reading order."""
    footnotes = Footnotes()
    for row in group.rows:
        for cell, text in _footnotes_of_row(row, group.baseline):
            footnotes.add(row, cell, text)
    return footnotes


def describe_precision(m: Measurement) -> str:
    """Write the requested precision, and where only some layers ran in it, how many: "int8 9/10"."""
    requested, executed = m.precision.requested, m.precision.executed
    if executed is None or set(executed) <= {requested}:
        return requested
    return f"{requested} {executed.get(requested, 0)}/{sum(executed.values())}"


def _footnotes_of_row(row: Row, baseline: str | None) -> Iterator[tuple[str, str]]:
    m = row.measurement
    for text in doubts(m):
        yield "label", text
    if m.soak is not None:
        yield "label", describe_soak(m.soak)
    yield from _budget(row)
    if row.differs:
        yield "label", f"differs from {baseline}: {'; '.join(row.differs)}"
    if m.precision.executed is None:
        yield "precision", f"executed precision not known: {m.reason_for('precision.executed')}"
    elif set(m.precision.executed) > {m.precision.requested} or m.precision.requested not in m.precision.executed:
        ran = ", ".join(f"{count} in {name}" for name, count in m.precision.executed.items())
        yield "precision", f"weighted layers: {ran or 'none'}"
    if m.precision.executed is not None and "precision.executed" in m.reasons:
        yield "precision", m.reasons["precision.executed"]
    for field in ("accuracy", "latency_ns.p95", "memory_bytes", "energy_uj"):
        if _is_null(m, field):
            yield field, f"{_name_of(field)}: {m.reason_for(field)}"
    if m.parity is not None and m.parity.agreement is None:
        yield "label", f"agreement with the exported model not judged: the output: {m.parity.reason}"
    yield from _classes(row)
    yield from _operating_point(row)
    yield from _energy(m)
    yield from _speedup(row, baseline)


def doubts(m: Measurement) -> Iterator[str]:
    """Yield why the measured latencies may not be those of the model alone."""
    if m.contaminated:
        yield f"disturbed by other processes: {m.reason_for('contaminated')}; measure again on an idle machine"
    for field in DOUBTS:
        if field in m.reasons:
            yield m.reasons[field]
    calm = m.latency_ns.undisturbed
    if calm is not None and m.latency_ns.p50 > VISIBLE * calm.p50:
        yield (
            f"p50 {formatting.milliseconds(calm.p50)} ms, undisturbed {calm.share:.0%} of the time; "
            f"{formatting.milliseconds(m.latency_ns.p50)} ms as measured"
        )
        return
    p50s = [process.p50_ns for process in m.processes]
    if max(p50s) > DISAGREEMENT * min(p50s):
        low, high = formatting.milliseconds(min(p50s)), formatting.milliseconds(max(p50s))
        yield f"the processes disagree: their p50s range from {low} to {high} ms"


def describe_soak(run: Soak) -> str:
    """Describe a sustained run: whether latency rose, when, and which clock or throttle counter explains it."""
    start, end = formatting.milliseconds(run.p50_start_ns), formatting.milliseconds(run.p50_end_ns)
    text = f"sustained run of {run.seconds / 60:.3g} min: p50 {start} ms at the start, {end} ms at the end"
    if run.slowed_after_s is not None:
        why = run.throttling or "no readable clock or throttle counter explains it"
        return f"{text}, slower after {run.slowed_after_s:.0f} s: {why}"
    return text if run.throttling is None else f"{text}; {run.throttling}"


def _energy(m: Measurement) -> Iterator[tuple[str, str]]:
    if m.energy_uj is None:
        return
    if m.energy_uj.provenance == "estimated":
        yield "energy_uj", f"energy {m.energy_uj.source}; not measured: {m.reason_for('energy_uj')}"
    elif m.energy_uj.scope is not None:
        yield "energy_uj", f"energy of {m.energy_uj.scope} ({m.energy_uj.source})"


def _speedup(row: Row, baseline: str | None) -> Iterator[tuple[str, str]]:
    if row.is_baseline:
        return
    if row.speedup is None:
        yield "speedup", f"speedup: {row.reasons['speedup']}"
        return
    if row.speedup.duet:
        yield "speedup", f"measured in turns with {baseline}: the median ratio of neighbouring bursts"
    if row.speedup.verdict == "cannot tell":
        yield "speedup", f"speedup undecided: an interval needs {MINIMUM_PROCESSES} processes per side"
    elif row.speedup.verdict == "no difference seen":
        noise = DUET_NOISE if row.speedup.duet else NOISE_FLOOR
        yield (
            "speedup",
            f"no difference from {baseline} seen: the interval includes 1, or the change is below {100 * noise:g}%",
        )


def _classes(row: Row) -> Iterator[tuple[str, str]]:
    """Yield the classes whose accuracy certainly dropped more than the mean."""
    if row.accuracy_drop is None or row.measurement.accuracy is None:
        return
    what = formatting.class_metric(row.measurement.accuracy.metric).strip()
    points = mean_points(row.classes) if what else row.accuracy_drop.points
    lost = hidden(row.classes, points)
    if lost:
        named = ", ".join(f"class {describe_class(drop)}" for drop in lost[:3])
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        of_them = f"{what} of " if what else ""
        yield "accuracy", f"{of_them}{named}{more}; mean of all classes {formatting.signed(-points)} points"


def _operating_point(row: Row) -> Iterator[tuple[str, str]]:
    """Yield the operating point if it certainly moved, or recall at the other model's threshold certainly dropped."""
    change = row.operating_point
    if change is None:
        return
    moved = abs(change.shift) > VISIBLE_SHIFT and not change.shift_ci95[0] <= 0 <= change.shift_ci95[1]
    if moved or change.ci95_points[0] > 0:
        yield "accuracy", describe_operating_point(change)


def _budget(row: Row) -> Iterator[tuple[str, str]]:
    if row.budget is None:
        return
    for text in row.budget.exceeded:
        yield "label", f"exceeds its budget: {text}"
    for text in row.budget.unknown:
        yield "label", f"budget not checked: {text}"


def _is_null(m: Measurement, field: str) -> bool:
    value: object = m
    for part in field.split("."):
        value = getattr(value, part)
    return value is None


def _name_of(field: str) -> str:
    return {"latency_ns.p95": "p95", "memory_bytes": "memory", "energy_uj": "energy"}.get(field, field)


def _mark(index: int) -> str:
    return MARKS[index] if index < len(MARKS) else f"[{index + 1}]"
