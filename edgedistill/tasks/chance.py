"""Judge whether the outputs of a model say anything about the labels: finite, not constant, better than chance.

Chance is the metric of answers that are independent of the labels. It is found by shuffling the labels, so that it holds for
every metric and for classes of unequal sizes: a model that always gives the most frequent class is at chance, and a model
that finds a few samples of a rare class is not, although its accuracy may be no higher.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import numpy as np

from edgedistill.tasks.task import Array, Task

SHUFFLES: Final = 39
"""The number of shuffles that show the mean and the standard deviation of chance."""

LUCK: Final = 2.5
"""Chance is more than this many standard deviations above its mean less than one time in 100; the best of several epochs is
often two above it."""

FEWEST: Final = 40
"""With fewer samples, luck makes weak models look like chance."""

VALUES: Final = 1 << 23
"""About the number of label values that chance is found with."""

SMALLEST: Final = 1e-6
STEPS: Final = 16
"""Rounding: an absolute part, for outputs of a sigmoid near 0, and a part relative to a value, in units of float32's resolution."""


class Chance(NamedTuple):
    """The metric of answers that are independent of the labels: its mean, and the lowest and highest value that it reaches by luck."""

    level: float
    lowest: float
    highest: float

    def covers(self, score: float) -> bool:
        """Return whether a score is no better than chance; False where the samples are too few to tell.

        The samples are too few where luck reaches a quarter of the way from the mean to 1; a score below the lowest value is
        below chance however few the samples are.
        """
        enough = self.highest < (1 + 3 * self.level) / 4
        return score < self.lowest - 1e-9 or (enough and score <= self.highest + 1e-9)


class Problem(NamedTuple):
    """What is wrong with the outputs of a model; `text` ends a sentence that begins with the name of the model."""

    kind: Literal["not finite", "constant", "chance"]
    text: str


def chance_of(task: Task, answers: Array, labels: Array) -> Chance | None:
    """Return the chance of answers (N, ...); None for fewer than 40 samples or labels that are all equal.

    Of large answers, such as the classes of all pixels, the first samples are enough.
    """
    if len(labels) < FEWEST:
        return None
    count = max(FEWEST, VALUES // max(1, labels[0].size))
    answers, labels = answers[:count], labels[:count]
    if bool((labels == labels[:1]).all()):
        return None
    rng = np.random.default_rng(0)
    scores = [task.score(answers, labels[rng.permutation(len(labels))]) for _ in range(SHUFFLES)]
    mean, luck = float(np.mean(scores)), LUCK * float(np.std(scores))
    return Chance(max(mean, task.chance_floor), mean - luck, max(mean + luck, task.chance_floor))


def find_problem(task: Task, answers: Array, labels: Array | None) -> Problem | None:
    """Return what is wrong with answers (N, ...) for different inputs, or None; without labels, chance is not judged."""
    wrong = task.invalid(answers)
    if wrong.any():
        share = float(wrong.reshape(len(answers), -1).any(1).mean())
        return Problem("not finite", f"gives NaN or infinity for {share:.1%} of {len(answers):,} samples")
    if is_constant(answers):
        return Problem("constant", f"gives the same output for all of {len(answers):,} samples")
    if labels is None:
        return None
    score, chance = task.score(answers, labels), chance_of(task, answers, labels)
    if chance is None or not chance.covers(score):
        return None
    return Problem(
        "chance",
        f"is no better than chance: {task.metric_title} {score:.2%} on {len(answers):,} samples, while answers without a relation to "
        f"the labels reach {chance.level:.2%} on average and up to {chance.highest:.2%} by chance",
    )


def is_constant(outputs: Array) -> bool:
    """Return whether outputs (N, ...) are equal for all samples, up to rounding; False for a single sample."""
    if len(outputs) < 2:
        return False
    values = outputs.reshape(len(outputs), -1)
    if values.dtype.kind in "iub":
        return bool((values == values[:1]).all())
    values = values.astype(np.float64)
    return bool((np.ptp(values, axis=0) <= rounding(np.abs(values).max(axis=0, initial=0))).all())


def rounding(magnitudes: Array) -> Array:
    """Return the differences that rounding alone makes at values of these magnitudes."""
    return np.asarray(SMALLEST + STEPS * float(np.finfo(np.float32).eps) * magnitudes)
