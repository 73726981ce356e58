"""The protocol of tasks, such as classification; each task is one file.

A task owns everything that depends on the purpose of a model: labels and their checks, mixup of labels, losses, the metric, the
agreement of two models, and texts in messages and reports. No other code depends on the name of a task.

The labelled output of a sample is (D,) for most tasks, class maps (C, h, w) for segmentation, and cells (A, D) for detection.
Metrics take *answers*: the labelled outputs themselves, or what is left of large ones, such as the class of each pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from edgedistill.config.training import DistillConfig, TrainingConfig

if TYPE_CHECKING:  # comparisons and reports use tasks, but must not import torch
    from torch import Tensor, nn

    from edgedistill.losses.batch import Batch, OutputLoss

Array = npt.NDArray[Any]


class Labels(NamedTuple):
    """The labels of a source: `split` is its name in messages, `classes` are its class names, if it has any."""

    split: str
    values: Array
    classes: tuple[str, ...] | None

    @property
    def are_given(self) -> bool:
        """Whether there are labels; missing labels are an array (N, 0)."""
        return self.values.size > 0 or self.values.ndim < 2


class Task(Protocol):
    """A task; arrays of outputs are the labelled output (N, ...), and a metric of 1 is perfect."""

    name: ClassVar[str]
    """The name of the task in [data] task."""
    output: ClassVar[str | None]
    """The labelled output of models whose outputs have fixed names, "a+b" for two side by side; None for the key [data] output."""
    exported_output: ClassVar[str | None]
    """The labelled output of exported files, if `exported` changes it; None for that of the model."""
    is_dense: ClassVar[bool]
    """Whether labels belong to places in an image, so that augmentation moves them."""
    finds_objects: ClassVar[bool]
    """Whether answers are detections, so that the outputs of a teacher from an ONNX file are decoded to detections."""
    metric: ClassVar[str]
    """The name of the metric in measurements, which the device computes."""
    metric_title: ClassVar[str]
    """The name of the metric in messages and reports."""
    losses: ClassVar[tuple[str, ...]]
    """The possible values of [distill] loss, the default first; user functions are always possible."""
    is_proportion: ClassVar[bool]
    """Whether the metric is a fraction of correct samples, for which Wilson's interval is valid."""
    has_scores: ClassVar[bool]
    """Whether [export] bake can include scores."""
    has_softmax: ClassVar[bool]
    """Whether the softmax of the outputs is the probability of each class."""
    keeps_top_k: ClassVar[bool]
    """Whether soft labels can be limited to the largest logits."""
    smooths_labels: ClassVar[bool]
    """Whether label_smoothing applies."""
    needs_labels: ClassVar[bool]
    """Whether training data must have labels."""
    finetuning_loss: ClassVar[str]
    """The loss of int8 fine-tuning, on the output of the float model."""
    chance_floor: ClassVar[float]
    """The least metric that an answer without knowledge of the inputs reaches: 0 for R², the score of the mean; -inf for none."""
    threshold: ClassVar[float | None]
    """The output value above which a label applies; None for tasks without independent labels."""
    has_units: ClassVar[bool]
    """Whether outputs are values of any unit and size, for which float16 and bfloat16 have too few digits."""
    scores_pairs: ClassVar[bool]
    """Whether labels are scores of pairs of samples, which no loss reads; models learn from the teacher's outputs alone."""

    def read_labels(self, labels: Sequence[Labels], given: tuple[str, ...] | None) -> tuple[Labels, ...]:
        """Return the labels of all splits, train first, in the form that the other methods take.

        `given` are the names in the configuration. Raises ConfigError that names the split.
        """

    def names(self, labels: Sequence[Labels], given: tuple[str, ...] | None, dimensions: int | None) -> tuple[str, ...]:
        """Check the labels of all splits, train first, and return the names of the values of the labelled output.

        `given` are the names in the configuration, `dimensions` is the number of values for data without labels. Raises
        ConfigError that names the split.
        """

    def collate(self, labels: Array) -> Array:
        """Convert checked labels to the type that losses take."""

    def no_labels(self, labels: Array, count: int) -> Array:
        """Return stand-ins for the labels of `count` samples without labels, in the type and shape of `labels`."""

    def strata(self, labels: Array) -> Array | None:
        """Return the classes for a stratified split, or None."""

    def units(self, labels: Array) -> Array:
        """Return the number of the unit (N,) of each sample: units are not parted by a split."""

    def require_scorable(self, split: str, labels: Array) -> None:
        """Raise ConfigError that names the split if the metric of these labels is not defined."""

    def counts(self, labels: Array, values: int) -> Array | None:
        """Return the number of samples of each of `values` classes or labels, or None for labels that are numbers."""

    def label_scale(self, labels: Array) -> tuple[Array, Array] | None:
        """Return the mean and the deviation (D,) that models learn labels in; None for labels that are learnt as they are."""

    def label_loss(self, plan: TrainingConfig) -> OutputLoss:
        """Return the loss on labels."""

    def distillation_loss(self, plan: DistillConfig, own: Any) -> OutputLoss:
        """Return the loss on labels and the teacher's output; `own` is the user's function where plan.loss names one."""

    def mixed_labels(self, batch: Batch, outputs: int) -> Tensor:
        """Return the labels of a batch for a user's own loss, mixed where inputs are mixed."""

    def example_labels(self, outputs: Tensor) -> Tensor:
        """Return example labels for outputs (B, ...), to test a loss."""

    def fits(self, shape: tuple[int, ...], values: int, size: tuple[int, ...]) -> bool:
        """Return whether the labelled output of a sample can have this shape, for `values` classes or values and inputs of a size."""

    def describe_shape(self, count: int, values: int, size: tuple[int, ...]) -> str:
        """Describe the labelled output of `count` samples of a size, for example "logits of shape (16, 10)"."""

    def answers(self, outputs: Array, size: tuple[int, ...], values: int) -> Array:
        """Return the answers in outputs (N, ...), for inputs of a spatial `size`."""

    def invalid(self, answers: Array) -> Array:
        """Return where answers come from outputs that are not finite: bool (N, ...)."""

    def score(self, answers: Array, labels: Array) -> float:
        """Return the metric of answers and labels."""

    def agreement(self, answers: Array, reference: Array) -> float:
        """Return the agreement of answers with another model's answers; 1 is full agreement."""

    def match_outputs(self, outputs: Array, labels: Array) -> Array:
        """Return the output (D,) that fits each of D values best, each output once."""

    def scores(self, outputs: Array) -> Array:
        """Return the scores for outputs, as in models with [export] bake scores."""

    def exported(self, model: Any, size: tuple[int, ...]) -> Any:
        """Return the torch module to export, for inputs of a spatial `size`: the model, with decoding that belongs in the file."""

    def score_module(self) -> Any:
        """Return the torch module that computes `scores`."""

    def describe_answer(self, *, scores: bool) -> str:
        """Explain how to interpret the output; `scores` is whether the file contains the computation of scores."""

    def describe_outputs(self, count: int) -> str:
        """Describe `count` outputs, for example "10 classes"."""


class VectorTask:
    """A task whose labelled output is (D,), which is also the answer."""

    output: ClassVar[str | None] = None
    exported_output: ClassVar[str | None] = None
    is_dense: ClassVar[bool] = False
    finds_objects: ClassVar[bool] = False
    scores_pairs: ClassVar[bool] = False
    has_units: ClassVar[bool] = False

    def label_scale(self, labels: Array) -> tuple[Array, Array] | None:  # noqa: ARG002 - the protocol's signature
        """Return None: labels are learnt as they are."""
        return None

    def units(self, labels: Array) -> Array:
        """Return that each sample is a unit."""
        return np.arange(len(labels))

    def require_scorable(self, split: str, labels: Array) -> None:
        """Accept all labels."""

    def no_labels(self, labels: Array, count: int) -> Array:
        """Return NaN for each value."""
        return np.full((count, *labels.shape[1:]), np.nan, labels.dtype)

    def exported(self, model: nn.Module, size: tuple[int, ...]) -> nn.Module:  # noqa: ARG002 - the protocol's signature
        """Return the model."""
        return model

    def fits(self, shape: tuple[int, ...], values: int, size: tuple[int, ...]) -> bool:  # noqa: ARG002 - the protocol's signature
        """Return whether a shape is (D,)."""
        return shape == (values,)

    def describe_shape(self, count: int, values: int, size: tuple[int, ...]) -> str:  # noqa: ARG002 - the protocol's signature
        """Describe logits (N, D)."""
        return f"logits of shape ({count}, {values})"

    def answers(self, outputs: Array, size: tuple[int, ...], values: int) -> Array:  # noqa: ARG002 - the protocol's signature
        """Return the outputs."""
        return outputs

    def invalid(self, answers: Array) -> Array:
        """Return where outputs are NaN or infinity."""
        return ~np.isfinite(answers)


class DenseTask:
    """A task whose labels belong to places in an image: masks or boxes."""

    is_dense: ClassVar[bool] = True
    finds_objects: ClassVar[bool] = False
    is_proportion: ClassVar[bool] = False
    has_scores: ClassVar[bool] = False
    has_softmax: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True
    finetuning_loss: ClassVar[str] = "kd"
    chance_floor: ClassVar[float] = -math.inf
    threshold: ClassVar[float | None] = None
    scores_pairs: ClassVar[bool] = False
    has_units: ClassVar[bool] = False

    def label_scale(self, labels: Array) -> tuple[Array, Array] | None:  # noqa: ARG002 - the protocol's signature
        """Return None: labels are learnt as they are."""
        return None

    def units(self, labels: Array) -> Array:
        """Return that each sample is a unit."""
        return np.arange(len(labels))

    def require_scorable(self, split: str, labels: Array) -> None:
        """Accept all labels."""

    def collate(self, labels: Array) -> Array:
        """Return the labels unchanged."""
        return labels

    def strata(self, labels: Array) -> Array | None:  # noqa: ARG002 - the protocol's signature
        """Return None: an image has no single class."""
        return None

    def mixed_labels(self, batch: Batch, outputs: int) -> Tensor:  # noqa: ARG002 - the protocol's signature
        """Return the labels (B, ...): images are not mixed."""
        return batch.labels

    def match_outputs(self, outputs: Array, labels: Array) -> Array:  # noqa: ARG002 - the protocol's signature
        """Return the outputs in their order: no other order is searched."""
        return np.arange(outputs.shape[1])

    def scores(self, outputs: Array) -> Array:
        """Return the outputs unchanged."""
        return outputs

    def score_module(self) -> nn.Module | None:
        """Return None: no scores are added to exported files."""
        return None


def values_of(labels: Array) -> Array:
    """Return labels (N,) or (N, D) as (N, D)."""
    return labels.reshape(len(labels), -1)


def is_finite(labels: Array) -> bool:
    """Return whether labels are numbers without NaN and infinity."""
    return bool(np.issubdtype(labels.dtype, np.number) and np.isfinite(labels).all())
