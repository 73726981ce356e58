"""The metric of all trials on the test set, and what the teacher and the weights of the start are worth there."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from edgedistill.data.sources import Array
from edgedistill.distill.predictors import Scorer, torch_predictor
from edgedistill.records.stages import Trial
from edgedistill.records.training import TrainedModel
from edgedistill.records.trial_score import Gain, TrialScore
from edgedistill.tasks.paired import paired_drop_of

Load = Callable[[TrainedModel], nn.Module]


def score_trials(trials: tuple[Trial, ...], load: Load, scorer: Scorer) -> tuple[TrialScore, ...]:
    """Score the float models of all trials on the test set, if there are controls or several seeds."""
    if len(trials) == 1 and trials[0].control is None:
        return ()
    return tuple(_score(trial, load, scorer, is_alone=len(trials) == 1) for trial in trials)


def _score(trial: Trial, load: Load, scorer: Scorer, *, is_alone: bool) -> TrialScore:
    def answers(trained: TrainedModel | None) -> Array | None:
        return None if trained is None else scorer.answers(torch_predictor(load(trained), "fp32"))

    def score(found: Array | None) -> float | None:
        return None if found is None else scorer.score_answers(found)

    def gain(found: Array | None) -> Gain | None:
        return None if found is None or not is_alone else _gain(scorer, student, found)

    student, control, scratch = (
        scorer.answers(torch_predictor(load(trial.student), "fp32")),
        answers(trial.control),
        answers(trial.scratch),
    )
    return TrialScore(
        seed=trial.seed, student=scorer.score_answers(student), control=score(control), scratch=score(scratch),
        over_control=gain(control), over_scratch=gain(scratch),
    )  # fmt: skip


def _gain(scorer: Scorer, student: Array, other: Array) -> Gain:
    """Return the gain of a student's answers over another model's on the samples of the scorer."""
    labels = scorer.views.split.labels
    drop = paired_drop_of(scorer.task, student, other, labels)
    return Gain(points=drop.points, ci95_points=drop.interval, n=len(labels))
