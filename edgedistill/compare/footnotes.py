"""Footnotes of a table: why a value is missing or doubtful. Equal reasons share a footnote, and all doubts of latencies one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from edgedistill.compare import formatting
from edgedistill.compare.per_class import hidden, mean_points
from edgedistill.compare.rows import Group, Row, describe_class, describe_operating_point
from edgedistill.records.measurement import Measurement, Soak
from edgedistill.statistics import MINIMUM_PROCESSES, SAME_SPEED

DOUBTS = ("latency_ns", "processes", "throttled", "drift", "siblings", "stolen")
"""The keys of `Measurement.reasons` that cast doubt on latencies that were measured."""

CAUSES = {
    "latency_ns": "too few undisturbed inferences", "processes": "a warm-up did not become steady",
    "drift": "latency drifted within processes", "siblings": "the other hardware thread of a core was busy",
    "stolen": "the host of the virtual machine took CPU time",
}  # fmt: skip
"""The doubts in few words, by the key of `Measurement.reasons`."""

MARKS = "¹²³⁴⁵⁶⁷⁸⁹"
DISAGREEMENT = 1.1
"""When the p50s of processes differ by more than this factor, the machine and not the model caused the difference."""
VISIBLE = 1.02
"""A footnote has the p50 of the undisturbed mode where the p50 as measured is larger by more than this factor."""

VISIBLE_SHIFT = 0.03
"""A footnote has the operating point of a detector if its score threshold certainly moved by more than this."""


class Footnotes:
    """Footnotes in the order of their first use; the marks of a cell point to them. One without a mark is about a hidden column.

    `shaky` is the text of the one about disturbed latencies, of which there are more details, or None.
    """

    def __init__(self, hidden: Collection[str] = (), shaky: str | None = None) -> None:
        self.shaky = shaky
        self._hidden = hidden
        self._texts: list[str] = []
        self._marked: list[str] = []
        self._cells: dict[tuple[str, str], list[str]] = {}

    def add(self, row: Row, cell: str, text: str) -> None:
        """Add a footnote to a cell of a row."""
        if text not in self._texts:
            self._texts.append(text)
        if cell not in self._hidden and text not in self._marked:
            self._marked.append(text)
        texts = self._cells.setdefault((row.label, cell), [])
        if text not in texts:
            texts.append(text)

    def marks(self, row: Row, cell: str) -> str:
        """Return the marks of a cell's footnotes."""
        return "".join(self._mark(text) for text in self._cells.get((row.label, cell), ()))

    def of(self, row: Row) -> list[str]:
        """Return the footnotes of a row, without repetition."""
        used = (text for (label, _), texts in self._cells.items() if label == row.label for text in texts)
        return list(dict.fromkeys(used))

    def listed(self) -> list[tuple[str, str]]:
        """Return each mark and its text, those without a mark last."""
        rest = [text for text in self._texts if text not in self._marked]
        return [(self._mark(text), text) for text in (*self._marked, *rest)]

    def _mark(self, text: str) -> str:
        return _mark(self._marked.index(text)) if text in self._marked else ""


def footnotes_of(group: Group, hidden: Collection[str] = ()) -> Footnotes:
    """Collect the footnotes of a group in reading order; those about a column in `hidden` have no mark."""
    shaky = shaky_line(group)
    footnotes = Footnotes(hidden, shaky)
    for row in group.rows:
        if shaky is not None and any(doubts(row.measurement)):
            footnotes.add(row, "label", shaky)
        for cell, text in _footnotes_of_row(row, group.baseline):
            footnotes.add(row, cell, text)
        if shaky is not None and row.speedup is not None and _is_doubtful(group, row):
            footnotes.add(row, "speedup", shaky)
    return footnotes


def _is_doubtful(group: Group, row: Row) -> bool:
    """Tell whether the baseline of a ratio is in doubt."""
    bases = [one.measurement for one in group.rows if one.is_baseline]
    return any(base.target == row.measurement.target and any(doubts(base)) for base in bases)


def shaky_line(group: Group) -> str | None:
    """Say in one line why the latencies of a table may not be those of the models alone; None where nothing disturbed them."""
    causes: dict[str, list[Row]] = {}
    for row in group.rows:
        for cause in _causes(row.measurement):
            causes.setdefault(cause, []).append(row)
    if not causes:
        return None
    shares = [_interrupted(row.measurement) for row in causes.get(INTERRUPTED, ())]
    texts = [
        f"{cause}{_share(shares) if cause == INTERRUPTED else ''}{_which(rows, group)}"
        for cause, rows in causes.items()
    ]
    return f"shaky figures: {'; '.join(texts)}"


INTERRUPTED = "other programs interrupted"


def _causes(m: Measurement) -> Iterator[str]:
    if m.contaminated:
        yield INTERRUPTED
    if "throttled" in m.reasons:
        yield m.reasons["throttled"]
    yield from (words for field, words in CAUSES.items() if field in m.reasons)
    if _two_states(m):
        yield "the device ran at two speeds"
    elif _disagree(m):
        yield "the p50 differs from process to process"


def _share(shares: Sequence[float]) -> str:
    low, high = (f"{100 * share:.0f}" for share in (min(shares), max(shares)))
    return f" {low if low == high else f'{low} to {high}'} % of the inferences"


def _which(rows: Sequence[Row], group: Group) -> str:
    """Name the models that a cause is about, unless it is about all of them."""
    return "" if len(rows) == len(group.rows) else f" ({', '.join(row.label for row in rows)})"


def _interrupted(m: Measurement) -> float:
    return 1 - sum(one.n_clean for one in m.processes) / sum(one.n for one in m.processes)


def _two_states(m: Measurement) -> bool:
    calm = m.latency_ns.undisturbed
    return calm is not None and m.latency_ns.p50 > VISIBLE * calm.p50


def _disagree(m: Measurement) -> bool:
    p50s = [process.p50_ns for process in m.processes]
    return max(p50s) > DISAGREEMENT * min(p50s)


def describe_precision(m: Measurement) -> str:
    """Write the requested precision, and where only some layers ran in it, how many: "int8 9/10"."""
    requested, executed = m.precision.requested, m.precision.executed
    if executed is None or set(executed) <= {requested}:
        return requested
    return f"{requested} {executed.get(requested, 0)}/{sum(executed.values())}"


def _footnotes_of_row(row: Row, baseline: str | None) -> Iterator[tuple[str, str]]:
    m = row.measurement
    if m.soak is not None:
        yield "label", describe_soak(m.soak)
    yield from _budget(row)
    if row.differs:
        yield "label", f"differs from {baseline}: {'; '.join(row.differs)}"
    if m.precision.executed is None:
        yield "precision", f"which layers ran in which precision is not known: {m.reason_for('precision.executed')}"
    elif set(m.precision.executed) > {m.precision.requested} or m.precision.requested not in m.precision.executed:
        ran = ", ".join(f"{count} in {name}" for name, count in sorted(m.precision.executed.items(), key=_by_count))
        yield "precision", f"precision of the layers with weights: {ran or 'the engine reports no such layer'}"
    if m.precision.executed is not None and "precision.executed" in m.reasons:
        yield "precision", m.reasons["precision.executed"]
    for field in ("accuracy", "latency_ns.p95", "memory_bytes", "energy_uj"):
        if _is_null(m, field):
            yield field, f"{_name_of(field)} not measured: {m.reason_for(field)}"
    if m.parity is not None and m.parity.agreement is None:
        yield "label", f"agreement with the exported model would say nothing, because of the output: {m.parity.reason}"
    yield from _classes(row)
    yield from _operating_point(row)
    yield from _energy(m)
    yield from _speedup(row, baseline)


def doubts(m: Measurement) -> Iterator[str]:
    """Yield why the measured latencies may not be those of the model alone."""
    if m.contaminated:
        yield f"other programs disturbed it: {m.reason_for('contaminated')}"
    yield from (m.reasons[field] for field in DOUBTS if field in m.reasons)
    calm = m.latency_ns.undisturbed
    if calm is not None and _two_states(m):
        yield (
            f"p50 {formatting.duration(calm.p50)}, undisturbed {calm.share:.0%} of the time; "
            f"{formatting.duration(m.latency_ns.p50)} as measured"
        )
    elif _disagree(m):
        p50s = [process.p50_ns for process in m.processes]
        yield f"the p50 differs from process to process: from {formatting.duration(min(p50s))} to {formatting.duration(max(p50s))}"


def describe_soak(run: Soak) -> str:
    """Describe a sustained run: whether latency rose, when, and which clock or throttle counter explains it."""
    start, end = formatting.duration(run.p50_start_ns), formatting.duration(run.p50_end_ns)
    text = f"sustained run of {run.seconds / 60:.3g} min: p50 {start} at the start, {end} at the end"
    if run.slowed_after_s is not None:
        why = run.throttling or "the cause is not known: no clock or throttle counter that could be read changed"
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
    if row.speedup.ci95 is None:
        yield "speedup", f"speedup undecided: an interval needs {MINIMUM_PROCESSES} processes per side"
    elif row.speedup.verdict == "cannot tell":
        low, high = (formatting.times(end) for end in row.speedup.ci95)
        yield "speedup", f"cannot tell whether it is faster than {baseline}: {low} to {high}"
    elif row.speedup.verdict == "no difference seen":
        yield (
            "speedup",
            f"no difference in speed from {baseline} seen; if there is one, it is below {100 * SAME_SPEED:g} %",
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


def _by_count(item: tuple[str, int]) -> int:
    return -item[1]


def _name_of(field: str) -> str:
    return {"latency_ns.p95": "p95", "memory_bytes": "memory", "energy_uj": "energy"}.get(field, field)


def _mark(index: int) -> str:
    return MARKS[index] if index < len(MARKS) else f"[{index + 1}]"
