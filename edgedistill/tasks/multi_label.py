"""Multi-label classification: labels (N, C) are 0 or 1 for each of C labels; the metric is mean average precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgedistill.config.training import DistillConfig, TrainingConfig
from edgedistill.errors import ConfigError
from edgedistill.tasks.task import Array, Labels
from edgedistill.tasks.values import ValueTask

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgedistill.losses.batch import OutputLoss


class MultiLabel(ValueTask):
    """The task of assigning any number of labels to each sample."""

    name: ClassVar[str] = "multi-label"
    metric: ClassVar[str] = "mean_ap"
    metric_title: ClassVar[str] = "mean AP"
    losses: ClassVar[tuple[str, ...]] = ("kd", "mse")
    has_scores: ClassVar[bool] = True
    finetuning_loss: ClassVar[str] = "kd"
    threshold: ClassVar[float | None] = 0.0

    def names(self, labels: Sequence[Labels], given: tuple[str, ...] | None, dimensions: int | None) -> tuple[str, ...]:
        """Return the names of the labels; each label must apply to some, but not all, training samples."""
        for one in labels:
            if one.values.ndim != 2 or not np.isin(one.values, (0, 1)).all():
                raise ConfigError(
                    f"data.{one.split}: labels are {one.values.dtype}{one.values.shape}; expected 0 or 1 for each label, (N, labels)"
                )
        names = super().names(labels, given, dimensions)
        share = labels[0].values.mean(0)
        constant = [name for name, part in zip(names, share, strict=True) if part in (0, 1)]
        if constant:
            raise ConfigError(
                f"data.train: label '{constant[0]}' is the same in every sample and cannot be learned; remove the label"
            )
        return names

    def require_scorable(self, split: str, labels: Array) -> None:
        """Raise ConfigError if no label applies to any sample: average precision needs one that does."""
        if not labels.any():
            raise ConfigError(
                f"data.{split}: no label applies to any of its {len(labels):,} samples, so that mean AP is not defined; add samples "
                f"that have labels, or set data.{split}"
            )

    def counts(self, labels: Array, values: int) -> Array:  # noqa: ARG002 - the protocol's signature
        """Return the number of samples that each label applies to."""
        return np.rint(labels.sum(0)).astype(np.int64)

    def label_loss(self, plan: TrainingConfig) -> OutputLoss:  # noqa: ARG002 - the protocol's signature
        """Return the binary cross-entropy of each label."""
        from edgedistill.losses.labels import binary_cross_entropy, on_values

        return on_values(binary_cross_entropy)

    def distillation_loss(self, plan: DistillConfig, own: Any) -> OutputLoss:
        """Return the weighted sum of binary cross-entropy and the plan's term, per label."""
        from edgedistill.losses.logits import custom_term, teacher_term, weighted
        from edgedistill.losses.terms import binary_kd, mse

        if own is not None:
            return weighted(plan, self.label_loss(plan), custom_term(plan.loss, own, self.mixed_labels))

        def term(student: Tensor, teacher: Tensor, _: object, plan: DistillConfig) -> Tensor:
            return binary_kd(student, teacher, plan.temperature) if plan.loss == "kd" else mse(student, teacher)

        return weighted(plan, self.label_loss(plan), teacher_term(plan, term))

    def example_labels(self, outputs: Tensor) -> Tensor:
        """Return 1 for outputs above 0, and 0 for others."""
        return (outputs > 0).float()

    def score(self, answers: Array, labels: Array) -> float:
        """Return the mean average precision over labels, as in scikit-learn, without labels that apply to no sample."""
        from sklearn.metrics import average_precision_score

        there = labels.any(0)
        if not there.any():
            return 0.0
        return float(average_precision_score(labels[:, there], answers[:, there], average="macro"))

    def agreement(self, answers: Array, reference: Array) -> float:
        """Return the fraction of samples and labels on which both models agree."""
        return float(((answers > 0) == (reference > 0)).mean())

    def scores(self, outputs: Array) -> Array:
        """Return the sigmoid."""
        from scipy.special import expit

        return np.asarray(expit(outputs))

    def score_module(self) -> nn.Module:
        """Return the sigmoid."""
        from edgedistill.losses.scores import Sigmoid

        return Sigmoid()

    def describe_answer(self, *, scores: bool) -> str:
        """Explain the threshold above which a label applies."""
        if scores:
            return (
                "A label applies where its probability is above 0.5; the probabilities are independent of each other."
            )
        return "A label applies where its score is above 0; the sigmoid of a score is the probability."

    def describe_outputs(self, count: int) -> str:
        """Count the labels."""
        return f"{count} labels"


TASK = MultiLabel()
