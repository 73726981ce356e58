"""Energy per inference from power readings and the times of a pass: the total of the source, and the part above idle."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
from constants import ENERGY

from energy.source import NoSourceError, Series, used_uj

Span = Tuple[int, int]
"""Two monotonic times in nanoseconds."""
ROUNDING = 1e-6
"""A difference from idle of less than this fraction is what the arithmetic leaves of equal powers."""


class Marks(NamedTuple):
    """The idle and inference windows of a pass, and the number of inferences in each inference window."""

    before: Span
    windows: List[Span]
    after: Span
    counts: List[int]

    @classmethod
    def read(cls, table: Dict[str, Any]) -> "Marks":
        """Read marks from JSON."""
        windows = [(int(begin), int(end)) for begin, end in table["windows"]]
        before, after = ((int(table[name][0]), int(table[name][1])) for name in ("before", "after"))
        return cls(before, windows, after, [int(count) for count in table["counts"]])


def figures(series: Series, marks: Marks) -> Dict[str, Any]:
    """Return the energy per inference in microjoules, median of the windows: total, and with idle power subtracted.

    `reason` explains why the second value is missing, or is None. Raises NoSourceError where the readings do not cover the pass.
    """
    used = np.array([used_uj(series, *window) for window in marks.windows])
    seconds = np.array([(end - begin) / 1e9 for begin, end in marks.windows])
    before_mw, after_mw = _power_mw(series, marks.before), _power_mw(series, marks.after)
    per_inference = used / np.array(marks.counts)
    if per_inference.min() <= 0:
        raise NoSourceError("a window of inference used no energy: the source does not cover the processor that ran it")
    above, reason = subtract_idle(used, seconds, before_mw, after_mw)
    within = (series.time_ns >= marks.before[0]) & (series.time_ns <= marks.after[1])
    return {
        "per_inference": float(np.median(per_inference)),
        "idle_subtracted": None if above is None else float(np.median(above / np.array(marks.counts))),
        "reason": reason,
        "windows": per_inference.tolist(),
        "window_s": float(np.median(seconds)),
        "mean_mw": float(used.sum() / seconds.sum() / 1000),
        "idle_mw": [before_mw, after_mw],
        "readings": int(np.count_nonzero(within)),
    }


def subtract_idle(
    windows_uj: np.ndarray, seconds: np.ndarray, before_mw: float, after_mw: float
) -> Tuple[Optional[np.ndarray], Optional[str]]:
    """Return each window's energy above idle, or the reason why idle power cannot be subtracted."""
    if abs(before_mw - after_mw) > ENERGY.idle_agreement * before_mw:
        return (
            None,
            f"idle power was {before_mw:.0f} mW before and {after_mw:.0f} mW after, more than {100 * ENERGY.idle_agreement:g} % apart",
        )
    above = windows_uj - (before_mw + after_mw) / 2 * 1000 * seconds
    return (
        (above, None)
        if (above > ROUNDING * windows_uj).all()
        else (None, "the device drew no more power than when idle")
    )


def _power_mw(series: Series, span: Span) -> float:
    return used_uj(series, *span) / ((span[1] - span[0]) / 1e9) / 1000
