"""The grammar of gates: a condition on a comparison that must not be true, as one line of text.

    gate     = metric relation limit
    metric   = a name of METRICS
    relation = ">" | "<"              the worse side of the metric: ">" where lower is better, "<" where higher is
    limit    = [sign] number ["%"]    with a sign a change from the baseline, without one the candidate's own value

`p95_ms > +5%` fails when the p95 rises by more than 5 % over the baseline's, `p95_ms > 5` when it exceeds 5 ms. Changes of an
accuracy are in percentage points, as is `accuracy < -0.5`; its own value is a fraction or a percentage, `accuracy < 88%`.

`worst_class` is the class with the largest drop: of the accuracy of classes, of the recall of boxes at the score threshold of each
model's best F1, or of the IoU of masks. `worst_size` is that of small, medium and large boxes. Two metrics compare a detector with
its float32 form, or with the same model of another run: `threshold_shift` is how far the threshold of the best F1 moved, and
`recall_at_threshold` the change of recall at the threshold of the other.
"""

from __future__ import annotations

import math
import re
from typing import Final

from pydantic import field_validator

from edgedistill.errors import ConfigError, nearest
from edgedistill.records.base import Record

LOWER_IS_BETTER: Final = (
    "p50_ms", "p90_ms", "p95_ms", "p99_ms", "load_ms", "first_inference_ms", "size_bytes", "memory_bytes", "energy_mj",
    "threshold_shift",
)  # fmt: skip
HIGHER_IS_BETTER: Final = ("accuracy", "worst_class", "worst_size", "recall_at_threshold")
ONLY_CHANGES: Final = ("worst_class", "worst_size", "recall_at_threshold")
"""Metrics that are a change from another model."""
OPERATING: Final = ("threshold_shift", "recall_at_threshold")
"""Metrics that compare the operating points of detectors."""
METRICS: Final = (*LOWER_IS_BETTER, *HIGHER_IS_BETTER)

_METRIC = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)?")
_RELATION = re.compile(r"\s*([<>](?!=))?")
_LIMIT = re.compile(
    r"\s*(?:(?P<sign>[+\-\u2212])\s*)?(?P<number>(?:\d+(?:_\d+)*)?(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*(?P<percent>%)?",
    re.ASCII,
)


class Gate(Record):
    """One gate: `limit` is in the unit of the metric, a fraction for relative changes, or points for changes of accuracy."""

    text: str
    metric: str
    limit: float
    is_change: bool
    is_relative: bool = False

    @property
    def higher_is_better(self) -> bool:
        """Whether the metric fails below its limit, not above it."""
        return self.metric in HIGHER_IS_BETTER


class GateConfig(Record):
    """Gates on the comparison of a run with an earlier one or with its own teacher."""

    fail_if: tuple[str, ...] = ()
    """Conditions that must not be true, for example "p95_ms > +5%"; `run` and `bench` exit with 3 if one is."""
    baseline: str | None = None
    """The run or measurement file to compare with; the default is the teacher of this run."""

    @field_validator("fail_if")
    @classmethod
    def _gates_can_be_read(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        try:
            tuple(parse_gate(text) for text in texts)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return texts

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The parsed gates."""
        return tuple(parse_gate(text) for text in self.fail_if)


def parse_gate(text: str) -> Gate:
    """Parse a gate; raises ConfigError that names the column of the problem, counted from 1."""
    name = _METRIC.match(text)
    assert name is not None
    metric = name.group(1)
    if metric not in METRICS:
        start = name.start(1) if metric else name.end()
        what = f"no metric '{metric}'" if metric else "a metric is missing"
        raise _error(text, start, f"{what}{_known_metrics(metric)}")
    relation = _RELATION.match(text, name.end())
    assert relation is not None
    worse = "<" if metric in HIGHER_IS_BETTER else ">"
    if relation.group(1) is None:
        raise _error(text, relation.end(), f"'{worse}' is missing after {metric}")
    if relation.group(1) != worse:
        better = "higher" if worse == "<" else "lower"
        raise _error(text, relation.start(1), f"{better} is better, so a gate on {metric} fails with '{worse}'")
    return _with_limit(text, metric, relation.end())


def _with_limit(text: str, metric: str, start: int) -> Gate:
    match = _LIMIT.match(text, start)
    assert match is not None
    sign, number, percent = match.group("sign"), match.group("number"), match.group("percent")
    if not number or number[0] in "eE":
        raise _error(text, match.start("number"), "a number is missing, such as +5% or 5")
    if rest := text[match.end() :].strip():
        raise _error(text, text.index(rest, match.end()), f"unexpected '{rest}'; the unit is part of the metric's name")
    if not math.isfinite(float(number)):
        raise _error(text, match.start("number"), f"{number} is too large")
    value = float(number) * (-1 if sign in ("-", "\u2212") else 1)
    is_relative = percent is not None and sign is not None
    if metric in HIGHER_IS_BETTER and is_relative:
        raise _error(
            text, match.start("percent"), f"changes of {metric} are in percentage points; write {sign}{number}"
        )
    if metric == "threshold_shift" and (sign or percent):
        raise _error(
            text, match.start("sign" if sign else "percent"), "a shift is a difference of scores, such as 0.03"
        )
    if sign is None:
        value = _own_value(text, metric, match)
    canonical = f"{metric} {'<' if metric in HIGHER_IS_BETTER else '>'} {sign or ''}{number}{percent or ''}"
    limit = value / 100 if is_relative else value
    return Gate(text=canonical, metric=metric, limit=limit, is_change=sign is not None, is_relative=is_relative)


def _own_value(text: str, metric: str, match: re.Match[str]) -> float:
    value, place = float(match.group("number")), match.start("number")
    if metric in ONLY_CHANGES:
        raise _error(text, place, f"{metric} is a change; give it a sign, such as -3")
    if value == 0:
        raise _error(text, place, "a limit of 0 needs a sign: +0 means any increase over the baseline")
    if metric != "accuracy":
        if match.group("percent"):
            raise _error(text, place, f"a percentage needs a sign: +{match.group('number')}% is a change")
        return value
    fraction = value / 100 if match.group("percent") else value
    if fraction > 1:
        raise _error(text, place, "an accuracy is a fraction up to 1, or a percentage such as 88%")
    return fraction


def _known_metrics(name: str | None) -> str:
    known = f"metrics are: {', '.join(METRICS)}"
    hint = nearest(name, METRICS) if name else ""
    return f"{hint} {known}" if hint.startswith("; perhaps") else f"; {known}"


def _error(text: str, place: int, what: str) -> ConfigError:
    return ConfigError(f"gate '{text}', column {place + 1}: {what}")
