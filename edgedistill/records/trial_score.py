"""The metric of a student and of its controls on the test set."""

from __future__ import annotations

from edgedistill.records.base import Record


class Gain(Record):
    """By how much a student's metric is higher than a control's, in percentage points, with a 95 % interval.

    The interval is paired: both models answer the same `n` test samples.
    """

    points: float
    ci95_points: tuple[float, float]
    n: int


class TrialScore(Record):
    """The metric of the float models of one seed on the test set; 1 is perfect.

    `over_control` is what the teacher is worth, and `over_scratch` what the weights that the student starts with are worth; None
    without such a control, and with several seeds, whose interval is over the seeds.
    """

    seed: int
    student: float
    control: float | None
    scratch: float | None = None
    over_control: Gain | None = None
    over_scratch: Gain | None = None
