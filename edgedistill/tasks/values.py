"""The base class of tasks with numeric labels: checks, names and losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgedistill.config.training import FEATURE_LOSSES, VALUE_LOSSES, DistillConfig, TrainingConfig
from edgedistill.errors import ConfigError
from edgedistill.tasks.match import match_values
from edgedistill.tasks.task import Array, Labels, VectorTask, is_finite, values_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgedistill.losses.batch import Batch, OutputLoss


class ValueTask(VectorTask):
    """A task with finite numbers (N,) or (N, D) as labels, and mse, cosine or feature losses."""

    name: ClassVar[str]
    losses: ClassVar[tuple[str, ...]] = (*VALUE_LOSSES, *FEATURE_LOSSES)
    is_proportion: ClassVar[bool] = False
    has_scores: ClassVar[bool] = False
    has_softmax: ClassVar[bool] = False
    keeps_top_k: ClassVar[bool] = False
    smooths_labels: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True
    finetuning_loss: ClassVar[str] = "mse"
    chance_floor: ClassVar[float] = -math.inf
    threshold: ClassVar[float | None] = None

    def read_labels(self, labels: Sequence[Labels], given: tuple[str, ...] | None) -> tuple[Labels, ...]:  # noqa: ARG002 - the protocol's signature
        """Return the labels unchanged."""
        return tuple(labels)

    def names(self, labels: Sequence[Labels], given: tuple[str, ...] | None, dimensions: int | None) -> tuple[str, ...]:
        """Check that each split has D values, and return their names: as given, or numbers."""
        train = labels[0]
        count = values_of(train.values).shape[1] if train.are_given else dimensions or 0
        for one in labels:
            if one.values.ndim > 2 or not is_finite(one.values):
                raise ConfigError(
                    f"data.{one.split}: labels are {one.values.dtype}{one.values.shape}; expected finite numbers (N,) or (N, D)"
                )
            if one.are_given and values_of(one.values).shape[1] != count:
                raise ConfigError(
                    f"data.{one.split}: {values_of(one.values).shape[1]} values per label, but training labels have {count}"
                )
        if len(train.values) > 1 and train.are_given and (train.values == train.values[0]).all():
            raise ConfigError(
                "data.train: all labels are the same, so there is nothing to learn; check how the data was made"
            )
        names = given or train.classes or tuple(str(i) for i in range(count))
        if len(names) != count:
            holder = "labels have" if train.are_given else "data.dimensions is"
            raise ConfigError(f"data.classes: {len(names)} names, but {holder} {count} value(s)")
        return names

    def collate(self, labels: Array) -> Array:
        """Return values (N, D), float32."""
        return values_of(labels).astype(np.float32)

    def strata(self, labels: Array) -> Array | None:  # noqa: ARG002 - the protocol's signature
        """Return None: values have no strata."""
        return None

    def counts(self, labels: Array, values: int) -> Array | None:  # noqa: ARG002 - the protocol's signature
        """Return None: values are not counted."""
        return None

    def label_loss(self, plan: TrainingConfig) -> OutputLoss:
        """Return mse, or cosine if it is the loss of the plan."""
        from edgedistill.losses.labels import on_values
        from edgedistill.losses.terms import cosine, mse

        return on_values(cosine if isinstance(plan, DistillConfig) and plan.loss == "cosine" else mse)

    def distillation_loss(self, plan: DistillConfig, own: Any) -> OutputLoss:
        """Return the weighted sum of the loss on labels and the plan's term, mse for a feature loss."""
        from edgedistill.losses.logits import VALUE_TERMS, custom_term, teacher_term, weighted

        if own is not None:
            return weighted(plan, self.label_loss(plan), custom_term(plan.loss, own, self.mixed_labels))
        return weighted(
            plan, self.label_loss(plan), teacher_term(plan, VALUE_TERMS["mse" if plan.uses_features else plan.loss])
        )

    def mixed_labels(self, batch: Batch, outputs: int) -> Tensor:  # noqa: ARG002 - the protocol's signature
        """Return values (B, D), mixed like inputs."""
        from edgedistill.losses.labels import mixed_values

        return mixed_values(batch)

    def example_labels(self, outputs: Tensor) -> Tensor:
        """Return the outputs themselves."""
        return outputs.detach().clone()

    def match_outputs(self, outputs: Array, labels: Array) -> Array:
        """Return the output that correlates best with each value."""
        return match_values(outputs, values_of(labels))

    def scores(self, outputs: Array) -> Array:
        """Return the outputs unchanged: values have no scores."""
        return outputs

    def score_module(self) -> nn.Module | None:
        """Return None: values have no scores."""
        return None

    def describe_answer(self, *, scores: bool) -> str:  # noqa: ARG002 - the protocol's signature
        """Explain that the outputs are the predicted values."""
        return "The outputs are the predicted values."

    def describe_outputs(self, count: int) -> str:
        """Count the values."""
        return f"{count} {'value' if count == 1 else 'values'} for {self.name}"
