"""What training and the teacher's forward passes take on this machine, measured on a few batches; nothing is kept.

Batches grow from a few samples until one takes noticeable time, so that measuring takes a second also for a large model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn

from edgedistill.data.sources import Array
from edgedistill.data.views import Views, plain_views, training_views
from edgedistill.distill.cache import stored_logits
from edgedistill.distill.features import FeatureTeacher, feature_loss, feature_student
from edgedistill.distill.feed import TrainingFeed
from edgedistill.distill.loading import build_student, onnx_teacher
from edgedistill.distill.losses import all_outputs_loss, main_loss
from edgedistill.distill.predictors import Predict, batch_size, labelled_shape, torch_predictor
from edgedistill.distill.settings import DistillPlan, LearningSettings, TeacherSettings
from edgedistill.distill.teacher import build_teacher
from edgedistill.distill.training import Feed, Resume, TeacherLogits, Training, time_epoch
from edgedistill.losses.batch import Batch, Tensors
from edgedistill.models.build import build_model
from edgedistill.runtime import processes
from edgedistill.runtime.memory import peak_bytes, reset_peak, resident_bytes

SMALLEST: Final = 4
GROWTH: Final = 4
ENOUGH_S: Final = 0.3
"""A batch that takes this long is not made larger."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The seconds per sample, and the peak memory of the process at the full batch; None where the system does not tell it."""

    seconds: float
    peak_bytes: int | None


@dataclass(frozen=True, slots=True)
class Paces:
    """The pace of a training step, and of a forward pass in the same precision."""

    step: Pace
    forward: Pace


class _First:
    """The first `count` batches of each epoch of a feed."""

    def __init__(self, feed: TrainingFeed, count: int) -> None:
        self._feed, self._count = feed, count

    def __len__(self) -> int:
        return self._count

    def epoch(self, number: int) -> Iterator[Batch]:
        return islice(self._feed.epoch(number), self._count)


@dataclass(frozen=True, slots=True)
class _AnyAnswers:
    """Answers of no teacher, in the form of soft labels: `kept` logits of a sample, or all of their `shape` if `kept` is 0."""

    shape: tuple[int, ...]
    kept: int

    def take(self, positions: Array, _: Array, __: Tensors) -> TeacherLogits:
        count = len(positions)
        if not self.kept or len(self.shape) > 1:
            return TeacherLogits(torch.randn(count, *self.shape))
        return TeacherLogits(torch.randn(count, self.kept + 1), torch.arange(self.kept).expand(count, -1))


def pace_teacher_training(settings: TeacherSettings, number: int) -> Paces:
    """Measure the training of a torch teacher."""
    plan = settings.teachers[number].training
    model = build_teacher(settings, number)
    loss = main_loss(settings.task.label_loss(plan), settings.data.output)
    views = training_views(settings.dataset().train, settings.data, settings.views)

    def feed(size: int) -> TrainingFeed:
        return TrainingFeed(views, size, None, 0, settings.seed)

    training = Training("teacher", plan, feed(plan.batch_size), loss, _no_score, Resume(Path(), ""), settings.seed)
    step = _pace_steps(time_epoch(model, training), feed, plan.batch_size)
    return Paces(step, pace_forward(torch_predictor(model, plan.precision), _validation(settings)))


def pace_distillation(settings: DistillPlan) -> Paces:
    """Measure the training of the student, with random answers for the soft labels; an online teacher is not included."""
    plan, output = settings.distill, settings.data.output
    student = build_student(settings.student, settings.interface, settings.seed)
    own = None if settings.loss is None else settings.loss.load()
    views = training_views(settings.dataset().train, settings.data, settings.views)
    on_output = settings.task.distillation_loss(plan, own)
    learner, loss = student, all_outputs_loss(plan, on_output, output)
    answers: _AnyAnswers | None = _answers(settings, student, views)
    if plan.uses_features:
        teacher = build_model(settings.teachers[0].source, settings.interface, settings.seed).eval()
        frozen = FeatureTeacher(teacher, plan.teacher_layers, settings.teachers[0].precision)
        learner = feature_student(plan, student, frozen, views.batch(np.zeros(1, int), np.zeros(1, int)), settings.seed)
        loss, answers = feature_loss(plan, main_loss(on_output, output), frozen, output), None

    def feed(size: int) -> TrainingFeed:
        return TrainingFeed(views, size, answers, plan.views, settings.seed)

    training = Training("student", plan, feed(plan.batch_size), loss, _no_score, Resume(Path(), ""), settings.seed)
    step = _pace_steps(time_epoch(learner, training), feed, plan.batch_size)
    return Paces(step, pace_forward(torch_predictor(student, plan.precision), _validation(settings)))


def _answers(settings: DistillPlan, student: nn.Module, views: Views) -> _AnyAnswers:
    """Return answers of the shape of the student's."""
    plan, shape = settings.distill, labelled_shape(student, views, settings.data.output)
    return _AnyAnswers(shape, stored_logits(settings.data, plan.views, plan.top_k))


def pace_soft_labels(settings: DistillPlan, number: int) -> Pace:
    """Measure the forward pass of a teacher on augmented views; a torch teacher runs in torch, the slower of its two engines."""
    teacher = settings.teachers[number]
    views = training_views(settings.dataset().train, settings.data, settings.views)
    if teacher.source.spec.source == "onnx":
        assert teacher.source.file is not None
        return pace_forward(onnx_teacher(teacher.source, settings.interface, teacher.source.file.path), views)
    model = build_model(teacher.source, settings.interface, settings.seed).eval().to(processes.device())
    return pace_forward(torch_predictor(model, teacher.precision), views)


def pace_forward(predict: Predict, views: Views) -> Pace:
    """Measure a forward pass, with the making of the views."""

    def seconds(size: int) -> float:
        positions = np.arange(size)
        start = time.perf_counter()
        predict(views.batch(positions, positions * 0))
        return time.perf_counter() - start

    return _grow(seconds, min(batch_size(views), len(views.split)))


def _pace_steps(time_steps: Callable[[Feed], float], feed: Callable[[int], TrainingFeed], batch: int) -> Pace:
    """Measure training steps; `feed` makes the feed of a batch size."""
    largest = feed(batch).batch_size
    return _grow(lambda size: time_steps(_First(feed(size), 1)), largest)


def _grow(seconds: Callable[[int], float], largest: int) -> Pace:
    """Measure `seconds` of growing batches, up to `largest` samples; each once to warm up, then the faster of two.

    The time and the memory of a batch are linear in its size, so the two last batches give those of the largest.
    """
    sizes, taken, peaks, before = [min(SMALLEST, largest)], [], [], resident_bytes()
    while True:
        reset_peak()
        seconds(sizes[-1])
        taken.append(min(seconds(sizes[-1]), seconds(sizes[-1])))
        peaks.append(peak_bytes())
        if sizes[-1] == largest or taken[-1] > ENOUGH_S:
            break
        sizes.append(min(largest, sizes[-1] * GROWTH))
    whole, peak = _linear(sizes, taken, largest), peaks[-1]
    if peak is not None and before is not None:
        peak = before + max(0, peak - before) * largest // sizes[-1]
    return Pace(whole / largest, peak)


def _linear(sizes: list[int], taken: list[float], largest: int) -> float:
    """Return the seconds of the largest batch, at least those of the last one measured, and at most in proportion to it."""
    last = taken[-1]
    if len(sizes) == 1:
        return last * largest / sizes[-1]
    slope = (last - taken[-2]) / (sizes[-1] - sizes[-2])
    return min(max(last, last + slope * (largest - sizes[-1])), last * largest / sizes[-1])


def _validation(settings: LearningSettings) -> Views:
    return plain_views(settings.dataset().val, settings.data, settings.views)


def _no_score(_: object) -> float:
    raise AssertionError("no epoch is validated")
