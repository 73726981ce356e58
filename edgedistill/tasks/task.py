"""What a model is for: the protocol that each task keeps, one file per task.

A task owns everything that depends on what a model is for: its labels and their checks, what mixup does to them, its losses,
its metric, what agreement of two models is, and its words in messages and reports. Nothing else asks which task it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from edgedistill.config.training import DistillConfig, TrainingConfig

if TYPE_CHECKING:  # comparisons and reports ask tasks for words and metrics, and must not pay for torch
    from torch import Tensor

    from edgedistill.losses.batch import Batch, OutputLoss

Array = npt.NDArray[Any]


class Labels(NamedTuple):
    """The labels of a source: `split` names it for messages, `classes` are the names that it brings, if any."""

    split: str
    values: Array
    classes: tuple[str, ...] | None

    @property
    def are_there(self) -> bool:
        """Tell labels from their absence, which is an array (N, 0)."""
        return self.values.size > 0 or self.values.ndim < 2


class Task(Protocol):
    """One task; arrays of outputs are (N, D), of the output that the labels are for, and a metric of 1 is perfect."""

    name: ClassVar[str]
    """As [data] task has it."""
    metric: ClassVar[str]
    """The metric in measurements; the device computes the same one."""
    metric_title: ClassVar[str]
    """The metric for people."""
    losses: ClassVar[tuple[str, ...]]
    """The values of [distill] loss that fit the task, the default first; a function of the user's always does."""
    is_proportion: ClassVar[bool]
    """Whether the metric is the fraction of samples that are right, of which Wilson's interval holds."""
    has_scores: ClassVar[bool]
    """Whether [export] bake may make scores part of the file."""
    keeps_top_k: ClassVar[bool]
    """Whether soft labels may keep the largest logits alone."""
    smooths_labels: ClassVar[bool]
    """Whether label_smoothing has a meaning."""
    needs_labels: ClassVar[bool]
    """Whether training data must have labels."""
    finetuning_loss: ClassVar[str]
    """Which of `losses` fine-tuning in int8 uses, on the float model's output alone."""
    threshold: ClassVar[float | None]
    """The value of an output above which a label counts as given; None where answers are not of that kind."""

    def names(self, labels: Sequence[Labels], given: tuple[str, ...] | None, dimensions: int | None) -> tuple[str, ...]:
        """Check the labels of all splits, of which the first is train's, and return the names of a model's outputs.

        `given` are names of the configuration's, `dimensions` the number of outputs where there are no labels. Raises
        ConfigError that names the split.
        """

    def collate(self, labels: Array) -> Array:
        """Return checked labels in the type that losses take."""

    def strata(self, labels: Array) -> Array | None:
        """Return what a split should hold in equal parts, or None."""

    def label_loss(self, plan: TrainingConfig) -> OutputLoss:
        """Return the loss on labels."""

    def distillation_loss(self, plan: DistillConfig, own: Any) -> OutputLoss:
        """Return the loss on labels and the teacher's output; `own` is the user's function where plan.loss names one."""

    def mixed_labels(self, batch: Batch, outputs: int) -> Tensor:
        """Return the labels of a batch for a user's own loss, mixed where inputs are mixed."""

    def example_labels(self, outputs: Tensor) -> Tensor:
        """Return made-up labels for outputs (B, D), to try a loss with."""

    def score(self, outputs: Array, labels: Array) -> float:
        """Return the metric of outputs and labels."""

    def agreement(self, outputs: Array, reference: Array) -> float:
        """Return how far outputs answer as another model's; 1 is always."""

    def scores(self, outputs: Array) -> Array:
        """Return the scores that [export] bake makes of outputs."""

    def score_module(self) -> Any:
        """Return a torch module that does the same."""

    def answer_in_words(self, *, scores: bool) -> str:
        """Say how the output is read as an answer; `scores` tells whether they are baked into the file."""

    def outputs_in_words(self, count: int) -> str:
        """Say what so many outputs are, for example "10 classes"."""


def values_of(labels: Array) -> Array:
    """Return labels (N,) or (N, D) as (N, D)."""
    return labels.reshape(len(labels), -1)


def is_finite(labels: Array) -> bool:
    """Tell numbers without NaN and infinity from other labels."""
    return bool(np.issubdtype(labels.dtype, np.number) and np.isfinite(labels).all())
