"""Classification: labels are class numbers (N,); the metric is accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from edgedistill.config.training import CLASS_LOSSES, FEATURE_LOSSES, DistillConfig, TrainingConfig
from edgedistill.errors import ConfigError
from edgedistill.tasks.class_labels import read_class_labels
from edgedistill.tasks.match import match_classes
from edgedistill.tasks.task import Array, Labels, VectorTask

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgedistill.losses.batch import Batch, OutputLoss


NO_CLASS: Final = -100
"""The class number of samples without labels, which torch's cross-entropy ignores."""


class Classification(VectorTask):
    """The task of assigning one of several classes to each sample."""

    name: ClassVar[str] = "classification"
    metric: ClassVar[str] = "top1"
    metric_title: ClassVar[str] = "accuracy"
    losses: ClassVar[tuple[str, ...]] = (*CLASS_LOSSES, *FEATURE_LOSSES)
    is_proportion: ClassVar[bool] = True
    has_scores: ClassVar[bool] = True
    has_softmax: ClassVar[bool] = True
    keeps_top_k: ClassVar[bool] = True
    smooths_labels: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True
    finetuning_loss: ClassVar[str] = "kd"
    chance_floor: ClassVar[float] = -math.inf
    threshold: ClassVar[float | None] = None

    def read_labels(self, labels: Sequence[Labels], given: tuple[str, ...] | None) -> tuple[Labels, ...]:
        """Return class numbers (N,), int64."""
        return read_class_labels(labels, given)

    def names(self, labels: Sequence[Labels], given: tuple[str, ...] | None, dimensions: int | None) -> tuple[str, ...]:  # noqa: ARG002 - the protocol's signature
        """Return the class names: as configured, or numbers from 0 to the largest label."""
        train = labels[0]
        classes = given or train.classes or tuple(str(i) for i in range(int(train.values.max()) + 1))
        for one in labels:
            if one.values.max() >= len(classes):
                row = int(np.argmax(one.values))
                raise ConfigError(
                    f"data.{one.split}: label {one.values[row]} (sample {row}) is out of range; there are {len(classes)} classes, "
                    f"numbered 0 to {len(classes) - 1}"
                )
        if len(classes) < 2:
            raise ConfigError("data.train: all labels have the same class; at least two classes are needed")
        return classes

    def collate(self, labels: Array) -> Array:
        """Return class numbers (N,), int64."""
        return labels.astype(np.int64)

    def no_labels(self, labels: Array, count: int) -> Array:
        """Return NO_CLASS for each sample."""
        return np.full(count, NO_CLASS, labels.dtype)

    def strata(self, labels: Array) -> Array:
        """Return the classes."""
        return labels

    def counts(self, labels: Array, values: int) -> Array:
        """Return the number of samples of each class."""
        return np.bincount(labels, minlength=values)

    def label_loss(self, plan: TrainingConfig) -> OutputLoss:
        """Return the cross-entropy with the label smoothing of the plan."""
        from edgedistill.losses.labels import cross_entropy

        return cross_entropy(plan.label_smoothing)

    def distillation_loss(self, plan: DistillConfig, own: Any) -> OutputLoss:
        """Return the weighted sum of cross-entropy and the plan's term, which is kd for feature losses."""
        from edgedistill.losses.logits import CLASS_TERMS, custom_term, teacher_term, weighted

        if own is not None:
            return weighted(plan, self.label_loss(plan), custom_term(plan.loss, own, self.mixed_labels))
        term = CLASS_TERMS["kd" if plan.uses_features else plan.loss]
        return weighted(plan, self.label_loss(plan), teacher_term(plan, term))

    def mixed_labels(self, batch: Batch, outputs: int) -> Tensor:
        """Return class numbers (B,) or, with mixup, the shares (B, classes) of classes."""
        from edgedistill.losses.labels import mixed_classes

        return mixed_classes(batch, outputs)

    def example_labels(self, outputs: Tensor) -> Tensor:
        """Return each class in turn."""
        import torch

        return torch.arange(len(outputs)) % outputs.shape[1]

    def score(self, answers: Array, labels: Array) -> float:
        """Return the fraction of samples whose largest output is at the label."""
        return float((answers.argmax(1) == labels).mean())

    def agreement(self, answers: Array, reference: Array) -> float:
        """Return the fraction of samples with the same largest output."""
        return self.score(answers, reference.argmax(1))

    def match_outputs(self, outputs: Array, labels: Array) -> Array:
        """Return the output of each class that makes most answers right."""
        return match_classes(outputs, labels)

    def scores(self, outputs: Array) -> Array:
        """Return the softmax."""
        from scipy.special import softmax

        return np.asarray(softmax(outputs, axis=1))

    def score_module(self) -> nn.Module:
        """Return the softmax."""
        from torch import nn

        return nn.Softmax(dim=1)

    def describe_answer(self, *, scores: bool) -> str:
        """Explain that the class with the largest output is the answer."""
        if scores:
            return "The class with the highest score is the answer; scores are softmax probabilities."
        return "The class with the highest score is the answer; the softmax of the scores gives probabilities."

    def describe_outputs(self, count: int) -> str:
        """Count the classes."""
        return f"{count} classes"


TASK = Classification()
