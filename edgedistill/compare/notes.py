"""Footnotes of a group: why a value is missing or doubtful, each reason said once."""

from __future__ import annotations

from collections.abc import Iterator

from edgedistill.compare import figures
from edgedistill.compare.budget import reason
from edgedistill.compare.classes import hidden
from edgedistill.compare.comparison import Group
from edgedistill.compare.rows import Row
from edgedistill.compare.statistics import MINIMUM_PROCESSES, NOISE_FLOOR
from edgedistill.compare.verdict import class_in_words
from edgedistill.records.measurement import Measurement, Soak

DOUBTS = ("latency_ns", "processes", "throttled", "drift", "siblings", "stolen")
"""The reasons for which latencies that were measured may not be the model's."""

MARKS = "¹²³⁴⁵⁶⁷⁸⁹"
DISAGREEMENT = 1.1
"""Process p50s further apart than this ratio say that the machine, and not the model, decided some of them."""


class Notes:
    """Footnotes in the order of their first use; a cell's marks point to them."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._cells: dict[tuple[str, str], list[int]] = {}

    def add(self, row: Row, cell: str, text: str) -> None:
        """Give a cell of a row a footnote."""
        if text not in self._texts:
            self._texts.append(text)
        self._cells.setdefault((row.label, cell), []).append(self._texts.index(text))

    def marks(self, row: Row, cell: str) -> str:
        """Return the marks of a cell's footnotes."""
        return "".join(_mark(index) for index in self._cells.get((row.label, cell), ()))

    def of(self, row: Row) -> list[str]:
        """Return the footnotes of a row, each once."""
        found = (index for (label, _), indexes in self._cells.items() if label == row.label for index in indexes)
        return [self._texts[index] for index in dict.fromkeys(found)]

    def listed(self) -> list[tuple[str, str]]:
        """Return each mark and its text."""
        return [(_mark(index), text) for index, text in enumerate(self._texts)]


def notes_of(group: Group) -> Notes:
    """Collect the footnotes of a group, in reading order."""
    notes = Notes()
    for row in group.rows:
        for cell, text in _notes_of_row(row, group.baseline):
            notes.add(row, cell, text)
    return notes


def precision(m: Measurement) -> str:
    """Write the precision asked for, and how many layers got it when not all did: "int8 9/10"."""
    asked, executed = m.precision.requested, m.precision.executed
    if executed is None or set(executed) <= {asked}:
        return asked
    return f"{asked} {executed.get(asked, 0)}/{sum(executed.values())}"


def _notes_of_row(row: Row, baseline: str | None) -> Iterator[tuple[str, str]]:
    m = row.measurement
    for text in _doubts(m):
        yield "label", text
    if m.soak is not None:
        yield "label", sustained(m.soak)
    yield from _budget_notes(row)
    if row.differs:
        yield "label", f"not the same as in {baseline}: {'; '.join(row.differs)}"
    if m.precision.executed is None:
        yield "precision", f"precision that ran is not known: {reason(m, 'precision.executed')}"
    elif set(m.precision.executed) > {m.precision.requested} or m.precision.requested not in m.precision.executed:
        ran = ", ".join(f"{count} in {name}" for name, count in m.precision.executed.items())
        yield "precision", f"weighted layers that ran: {ran or 'none'}"
    for field in ("accuracy", "latency_ns.p95", "memory_bytes", "energy_uj"):
        if _is_null(m, field):
            yield field, f"{_named(field)}: {reason(m, field)}"
    yield from _class_notes(row)
    yield from _energy_notes(m)
    yield from _speedup_notes(row, baseline)


def _doubts(m: Measurement) -> Iterator[str]:
    """Yield why latencies that were measured may not be the model's own."""
    if m.contaminated:
        yield f"disturbed, repeat on a quiet machine: {reason(m, 'contaminated')}"
    for field in DOUBTS:
        if field in m.reasons:
            yield m.reasons[field]
    p50s = [process.p50_ns for process in m.processes]
    if max(p50s) > DISAGREEMENT * min(p50s):
        low, high = figures.milliseconds(min(p50s)), figures.milliseconds(max(p50s))
        yield f"its processes disagree: p50 from {low} to {high} ms"


def sustained(run: Soak) -> str:
    """Say what a sustained run came to: when it slowed down, and what the device's sensors say to that."""
    start, end = figures.milliseconds(run.p50_start_ns), figures.milliseconds(run.p50_end_ns)
    text = f"sustained for {run.seconds / 60:.3g} min: p50 {start} ms at the beginning, {end} ms at the end"
    if run.slowed_after_s is not None:
        why = run.throttling or "no clock or throttle counter that can be read tells why"
        return f"{text}, slower from {run.slowed_after_s:.0f} s on: {why}"
    return text if run.throttling is None else f"{text}; {run.throttling}"


def _energy_notes(m: Measurement) -> Iterator[tuple[str, str]]:
    if m.energy_uj is None:
        return
    if m.energy_uj.provenance == "estimated":
        yield "energy_uj", f"energy is {m.energy_uj.source}; it was not measured: {reason(m, 'energy_uj')}"
    elif m.energy_uj.scope is not None:
        yield "energy_uj", f"energy of {m.energy_uj.scope} ({m.energy_uj.source})"


def _speedup_notes(row: Row, baseline: str | None) -> Iterator[tuple[str, str]]:
    if row.is_baseline:
        return
    if row.speedup is None:
        yield "speedup", f"speedup: {row.reasons['speedup']}"
    elif row.speedup.verdict == "cannot tell":
        yield "speedup", f"cannot tell: an interval needs {MINIMUM_PROCESSES} processes on either side"
    elif row.speedup.verdict == "no difference seen":
        yield "speedup", f"no difference to {baseline} seen: the interval includes 1 or is within {NOISE_FLOOR:.0%}"


def _class_notes(row: Row) -> Iterator[tuple[str, str]]:
    """Yield what a mean hides: the classes that lost more than all together, beyond doubt."""
    if row.accuracy_drop is None:
        return
    lost = hidden(row.classes, row.accuracy_drop.points)
    if lost:
        named = ", ".join(f"class {class_in_words(drop)}" for drop in lost[:3])
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        all_together = figures.signed(-row.accuracy_drop.points)
        yield "accuracy", f"{named}{more}; all classes together {all_together} points"


def _budget_notes(row: Row) -> Iterator[tuple[str, str]]:
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


def _named(field: str) -> str:
    return {"latency_ns.p95": "p95", "memory_bytes": "memory", "energy_uj": "energy"}.get(field, field)


def _mark(index: int) -> str:
    return MARKS[index] if index < len(MARKS) else f"[{index + 1}]"
