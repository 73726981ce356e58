"""Examine a teacher before anything learns from it: is it better than chance, and which of the likely causes explains it if not.

The causes are tried, not guessed: the teacher answers some samples with inputs as other libraries prepare them, and its outputs
are scored in other orders of the classes. A cause is a `TeacherView`, so its keys repair the configuration.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from edgedistill.data.dataset import Split
from edgedistill.data.kinds import FULL_SCALE, kind_of
from edgedistill.data.sources import Array
from edgedistill.distill.predictors import Predict, scorer_of
from edgedistill.distill.settings import LearningSettings
from edgedistill.errors import ConfigError
from edgedistill.models.interface import Interface
from edgedistill.models.teacher_view import TeacherView
from edgedistill.records.finding import Finding
from edgedistill.tasks.chance import chance_of, find_problem

TESTED: Final = 512
"""The samples that causes are tested on."""
FEW: Final = 128
"""The samples that causes are tested on for a teacher that is nearer to perfect than to chance."""
SAME_SCORE: Final = 0.02
"""Of the causes whose scores differ by less, the one with the fewest changes is named."""
COMMON: Final = 2 / 3
"""A good model may be at chance if chance scores this much, as with rare classes that it never answers."""
LISTED: Final = 30
IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

AskAs = Callable[[TeacherView], Predict]
"""Return the teacher with another view of the samples."""


class Cause(NamedTuple):
    """A possible cause of a bad metric: what is changed, the view that repairs it, the metric with this view, and its samples."""

    changes: tuple[str, ...]
    view: TeacherView
    score: float
    samples: int

    @property
    def text(self) -> str:
        """The changes in words."""
        return " and ".join(self.changes) or "as configured"


@dataclass(frozen=True, slots=True)
class Examination:
    """What is examined: the settings of the data, the name of the teacher, its view, and the samples with their name.

    `ask_as` is None for saved outputs, whose inputs cannot be tested.
    """

    settings: LearningSettings
    teacher: str
    view: TeacherView
    samples: str
    split: Split
    ask_as: AskAs | None

    def findings(self, answers: Array) -> list[Finding]:
        """Return what is odd about the answers (N, ...) of all samples.

        Raises ConfigError for outputs that are not finite, constant, or at or below chance.
        """
        task, labels = self.settings.task, self.split.labels if self.settings.data.labelled else None
        problem = find_problem(task, answers, labels)
        if problem is not None and (problem.kind == "not finite" or labels is None):
            raise ConfigError(
                f"{self.teacher} {problem.text}; check the weights, and the mean and std of the teacher's inputs"
            )
        chance = None if labels is None else chance_of(task, answers, labels)
        if labels is None or chance is None:
            return []
        score = task.score(answers, labels)
        is_good = problem is None and score >= (chance.level + 1) / 2
        count = min(FEW if is_good else TESTED, len(labels))
        if is_good and 1 - score <= _clearly(count):
            return []
        tests = self._tests(answers, count)
        cause = _best(tests, chance.level)
        advice = _advice(cause, tests, count)
        if problem is not None:
            text = f"{problem.text} ({self.samples}). {advice}"
            if chance.level >= COMMON and problem.kind == "chance" and score >= chance.lowest and cause is None:
                return [Finding(severity="warning", subject=self.teacher, text=f"the teacher {text}")]
            raise ConfigError(f"{self.teacher} {text}")
        if cause is None:
            return []
        text = f"{task.metric_title} {score:.2%} on {len(labels)} {self.samples} would be clearly higher with another setting. {advice}"
        return [Finding(severity="warning", subject=self.teacher, text=text)]

    def _tests(self, answers: Array, count: int) -> list[Cause]:
        """Try the causes on `count` of the samples; the first is the teacher as it is."""
        some = np.random.default_rng(0).permutation(len(self.split))[:count]
        part, interface = self.split.take(some), self.settings.interface
        tests = list(self._orders((), self.view, answers[some], part.labels))
        if self.ask_as is None:
            return tests
        scorer = scorer_of(self.settings, part)
        for changes, other in _other_views(self.view, interface):
            tests += self._orders(changes, other, scorer.answers(self.ask_as(other)), part.labels)
        return tests

    def _orders(self, changes: tuple[str, ...], view: TeacherView, outputs: Array, labels: Array) -> Iterator[Cause]:
        """Yield the outputs of a view in their order, with the classes shifted by one, and in the order that fits the labels best.

        That order is found on one half of the samples and scored on the other half, because on its own half it fits anything.
        """
        task, names, half = self.settings.task, self.settings.data.classes, len(labels) // 2
        same = np.arange(len(names))
        if task.is_dense:
            yield Cause(changes, view, task.score(outputs, labels), len(labels))
            return
        orders: list[tuple[tuple[str, ...], Array, slice]] = [((), same, slice(None))]
        if len(names) > 2:
            orders += [((f"classes shifted by {by:+d}",), (same + by) % len(names), slice(None)) for by in (1, -1)]
        if len(names) > 1 and half:
            matched = task.match_outputs(outputs[:half], labels[:half])
            orders.append((("another order of the classes",), matched, slice(half, None)))
        for words, columns, rows in orders:
            score = task.score(outputs[rows][:, columns], labels[rows])
            yield Cause((*changes, *words), _reordered(view, names, columns), score, len(labels[rows]))


def warn_of_chance(settings: LearningSettings, teacher: str, answers: Array) -> list[Finding]:
    """Return a warning if the validation outputs of a teacher that was trained by the run are no better than chance."""
    problem = find_problem(settings.task, answers, settings.dataset().val.labels)
    if problem is None:
        return []
    text = f"the teacher {problem.text} (validation samples), so there is nothing to distil; change lr, train longer, or check the labels"
    return [Finding(severity="warning", subject=teacher, text=text)]


def _other_views(view: TeacherView, interface: Interface) -> Iterator[tuple[tuple[str, ...], TeacherView]]:
    """Yield views with the normalization and order of channels of other libraries, those that the data can have."""
    first, kind = interface.first, kind_of(interface.first)
    if len(interface.inputs) > 1 or not kind.normalised:
        return
    channels = interface.channels
    scale = FULL_SCALE.get(first.dtype, 255.0 if kind.is_picture else 1.0)
    spread: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
        "no mean and std": ((0.0,) * channels, (1.0,) * channels)
    }
    if scale != 1:
        spread[f"input values up to {scale:g}"] = ((0.0,) * channels, (round(1 / scale, 10),) * channels)
    if kind.is_picture:
        spread |= {"the mean and std of ImageNet": IMAGENET} if channels == 3 else {}
        spread["mean and std 0.5"] = ((0.5,) * channels, (0.5,) * channels)
    given = (view.mean or view.data.mean or (0.0,) * channels, view.std or view.data.std or (1.0,) * channels)
    others: dict[tuple[str, ...], TeacherView] = {
        (text,): view.model_copy(update={"mean": m, "std": s}) for text, (m, s) in spread.items() if (m, s) != given
    }
    yield from others.items()
    if kind.is_picture and channels == 3:
        order = "bgr" if view.channels == "rgb" else "rgb"
        seen: list[tuple[tuple[str, ...], TeacherView]] = [((), view), *others.items()]
        for changes, one in seen:
            yield (*changes, order.upper()), one.model_copy(update={"channels": order})


def _reordered(view: TeacherView, names: tuple[str, ...], columns: Array) -> TeacherView:
    """Return a view whose outputs, now in the order of `names`, are those of the given columns."""
    if (columns == np.arange(len(names))).all():
        return view
    classes = list(view.classes or names)
    places = [classes.index(name) for name in names]
    for name, column in zip(names, columns, strict=True):
        classes[places[column]] = name
    return view.model_copy(update={"classes": tuple(classes)})


def _clearly(samples: int) -> float:
    """Return the difference of two scores that is clear: three standard errors of a proportion, at their largest."""
    return 1.5 / math.sqrt(samples)


def _best(tests: list[Cause], chance: float) -> Cause | None:
    """Return the simplest cause that gives clearly more than the teacher as it is, and than chance, or None."""
    now = max(tests[0].score, chance)
    clear = [one for one in tests[1:] if one.score - now > _clearly(one.samples)]
    top = max((one.score for one in clear), default=0.0)
    enough = [one for one in clear if one.score >= top - SAME_SCORE]
    return min(enough, key=lambda one: len(one.changes), default=None)


def _advice(cause: Cause | None, tests: list[Cause], count: int) -> str:
    """Return the line that repairs the configuration, if a tested cause explains the metric, and what was tested."""
    figures = ", ".join(f"{one.text} {one.score:.2%}" for one in tests if len(one.changes) < 2 or one is cause)
    tested = f"Tested on {count} samples: {figures}."
    if cause is None:
        return (
            f"No tested cause explains it; check that the weights, the classes and the data belong together. {tested}"
        )
    return f"With {cause.text} it is {cause.score:.2%}: in [teacher], set {_lines(cause.view, tests[0].view)}. {tested}"


def _lines(view: TeacherView, now: TeacherView) -> str:
    """Return the keys in which a view differs, as TOML."""
    keys = {
        key: value
        for key in ("mean", "std", "channels", "classes")
        if (value := getattr(view, key)) != getattr(now, key)
    }
    if keys.get("mean") and not any(view.mean or ()) and not any(now.mean or now.data.mean or ()):
        del keys["mean"]  # 0, which it is already
    return " and ".join(f"{key} = {_toml(value)}" for key, value in keys.items())


def _toml(value: str | tuple[str | float, ...]) -> str:
    if isinstance(value, str) or len(value) <= LISTED:
        return json.dumps(value, ensure_ascii=False)
    start = json.dumps(value[: LISTED // 2], ensure_ascii=False)
    return f"{start[:-1]}, ...] (the names of all {len(value)} outputs, in the teacher's order)"
