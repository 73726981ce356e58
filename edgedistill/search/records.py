"""The options and the results of a search, as frozen records."""

from __future__ import annotations

import json
from typing import Final

from edgedistill.config.training import StudentConfig
from edgedistill.records.base import Record

SCHEMA: Final = "edgedistill.search/1"


class SearchOptions(Record):
    """Options beside the configuration: model families, processes and seconds of each measurement, epochs of training.

    An empty `models` means all families that take the data; with `epochs` = 0 nothing is trained.
    """

    models: tuple[str, ...] = ()
    processes: int = 3
    seconds: float = 0.5
    epochs: int = 0


class TargetResult(Record):
    """A student in one precision on one target; `problem` is the error of an engine that failed.

    `fits` is None if no limit is exceeded but some could not be checked, or are inside the measurement's 95 % interval; `unknown`
    lists those limits with the reasons. `faster_than` are the other precisions on the target that are slower beyond the interval
    of the ratio, in the same job.
    """

    target: str
    precision: str
    p50_ns: float | None = None
    p95_ns: float | None = None
    size_bytes: int | None = None
    fits: bool | None = None
    exceeded: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    faster_than: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def is_within(self) -> bool:
        """Whether the student ran and is known to exceed no limit."""
        return self.problem is None and self.fits is not False and not self.unknown


class Candidate(Record):
    """A student that was measured; `val_accuracy` is the task's metric after a short training, None without training.

    A candidate that could not be trained has None too.
    """

    name: str
    student: StudentConfig
    parameters: int
    measured: tuple[TargetResult, ...]
    val_accuracy: float | None = None

    @property
    def fits(self) -> bool:
        """Whether every target has a precision that is within its budget."""
        targets = {one.target for one in self.measured}
        return targets == {one.target for one in self.measured if one.is_within}

    def best_on(self, target: str) -> TargetResult:
        """Return the fastest precision that is within a target's budget; if none is, the fastest of all that ran.

        Of precisions whose speeds cannot be told apart, the smallest is returned.
        """
        results = [one for one in self.measured if one.target == target]
        ran = [one for one in results if one.problem is None]
        pool = [one for one in ran if one.is_within] or ran or results
        beaten = {name for one in pool for name in one.faster_than}
        return min(pool, key=lambda one: (one.precision in beaten, one.size_bytes or 0))


class SearchResult(Record):
    """All measured candidates, the largest of each family that fits (best first), and what was left out or not trained, with reasons."""

    candidates: tuple[Candidate, ...]
    fitting: tuple[Candidate, ...]
    left_out: tuple[str, ...]
    epochs: int

    def to_json(self) -> str:
        """Return the result as JSON of schema edgedistill.search/1."""
        return json.dumps({"schema": SCHEMA, **self.model_dump(mode="json")}, indent=2)
