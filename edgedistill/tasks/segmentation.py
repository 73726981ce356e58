"""Semantic segmentation: labels (N, H, W) are the class of each pixel; the metric is the mean intersection over union.

Models return class maps (N, C, h, w), often of a lower resolution; they are resized bilinearly to that of the input (corners not
aligned, as in torch's interpolate), and the class with the highest logit of a pixel is the answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from edgedistill.config.training import FEATURE_LOSSES, MAP_LOSSES, DistillConfig, TrainingConfig
from edgedistill.errors import ConfigError
from edgedistill.records.masks import INVALID, VOID
from edgedistill.tasks.task import Array, DenseTask, Labels

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgedistill.losses.batch import OutputLoss

PIXELS: Final = 1 << 24
"""About the number of logits that are resized at once."""


class Segmentation(DenseTask):
    """The task of assigning one of several classes to each pixel."""

    name: ClassVar[str] = "segmentation"
    output: ClassVar[str | None] = None
    exported_output: ClassVar[str | None] = None
    metric: ClassVar[str] = "miou"
    metric_title: ClassVar[str] = "mIoU"
    losses: ClassVar[tuple[str, ...]] = (*MAP_LOSSES, *FEATURE_LOSSES)
    keeps_top_k: ClassVar[bool] = False
    smooths_labels: ClassVar[bool] = True

    def read_labels(self, labels: Sequence[Labels], given: tuple[str, ...] | None) -> tuple[Labels, ...]:  # noqa: ARG002 - the protocol's signature
        """Return masks (N, H, W), uint8; raises ConfigError for labels of another shape or type."""
        for one in labels:
            if one.values.ndim != 3 or one.values.dtype != np.uint8:
                raise ConfigError(
                    f"data.{one.split}: labels are {one.values.dtype}{one.values.shape}; expected masks, uint8 (N, H, W)"
                )
        return tuple(labels)

    def names(self, labels: Sequence[Labels], given: tuple[str, ...] | None, dimensions: int | None) -> tuple[str, ...]:  # noqa: ARG002 - the protocol's signature
        """Return the class names: as configured, or numbers from 0 to the largest label."""
        present = [_classes_in(one.values) for one in labels]
        train = np.flatnonzero(present[0])
        if not len(train):
            raise ConfigError("data.train: every pixel of every mask is void; check data.void")
        names = given or labels[0].classes or tuple(str(i) for i in range(int(train[-1]) + 1))
        for one, found in zip(labels, present, strict=True):
            largest = int(np.flatnonzero(found)[-1]) if found.any() else 0
            if largest >= len(names):
                raise ConfigError(
                    f"data.{one.split}: masks hold class {largest}, but there are {len(names)} classes, numbered 0 to "
                    f"{len(names) - 1}; set data.void if that number marks pixels without a class, or name every class in data.classes"
                )
        if not 2 <= len(names) <= INVALID:
            raise ConfigError(f"data.classes: {len(names)} class(es); masks have 2 to {INVALID} classes")
        return names

    def no_labels(self, labels: Array, count: int) -> Array:
        """Return masks of void, which take no memory."""
        return np.broadcast_to(np.uint8(VOID), (count, *labels.shape[1:]))

    def counts(self, labels: Array, values: int) -> Array:
        """Return the number of images that show each class."""
        return np.sum([_classes_in(mask)[:values] for mask in labels], axis=0)

    def label_loss(self, plan: TrainingConfig) -> OutputLoss:
        """Return the cross-entropy of pixels with the label smoothing of the plan."""
        from edgedistill.losses.maps import pixel_cross_entropy

        return pixel_cross_entropy(plan.label_smoothing)

    def distillation_loss(self, plan: DistillConfig, own: Any) -> OutputLoss:
        """Return the weighted sum of cross-entropy and the plan's term on the teacher's class maps."""
        from edgedistill.losses.logits import custom_term, weighted
        from edgedistill.losses.maps import MAP_TERMS, map_term

        if own is not None:
            return weighted(plan, self.label_loss(plan), custom_term(plan.loss, own, self.mixed_labels))
        return weighted(
            plan, self.label_loss(plan), map_term(plan, MAP_TERMS["kd" if plan.uses_features else plan.loss])
        )

    def example_labels(self, outputs: Tensor) -> Tensor:
        """Return the class with the highest logit at each place."""
        return outputs.detach().argmax(1)

    def fits(self, shape: tuple[int, ...], values: int, size: tuple[int, ...]) -> bool:  # noqa: ARG002 - the protocol's signature
        """Return whether a shape is (C, h, w)."""
        return len(shape) == 3 and shape[0] == values

    def describe_shape(self, count: int, values: int, size: tuple[int, ...]) -> str:  # noqa: ARG002 - the protocol's signature
        """Describe class maps."""
        return f"class maps of shape ({count}, {values}, height, width)"

    def answers(self, outputs: Array, size: tuple[int, ...], values: int) -> Array:  # noqa: ARG002 - the protocol's signature
        """Return the class of each pixel, uint8 (N, H, W), from class maps (N, C, h, w) for inputs of `size` (H, W)."""
        import torch
        from torch.nn.functional import interpolate

        found = np.empty((len(outputs), *size), np.uint8)
        block = max(1, PIXELS // (outputs.shape[1] * math.prod(size)))
        for start in range(0, len(outputs), block):
            maps = torch.from_numpy(np.ascontiguousarray(outputs[start : start + block]))
            whole = interpolate(maps, size, mode="bilinear", align_corners=False)
            best = whole.max(1).indices.to(torch.uint8)  # 6 times as fast as argmax
            if not maps.isfinite().all():
                best[~whole.isfinite().all(1)] = INVALID
            found[start : start + block] = best.numpy()
        return found

    def invalid(self, answers: Array) -> Array:
        """Return where a pixel's logits are not finite."""
        return answers == INVALID

    def score(self, answers: Array, labels: Array) -> float:
        """Return the intersection over union of answers and masks (N, H, W), averaged over the classes that occur in the masks."""
        largest = max(int(mask[mask != VOID].max(initial=0)) for mask in labels)
        classes = max(largest, int(answers[answers < INVALID].max(initial=0))) + 1
        return mean_iou(confusions_of(answers, labels, classes).sum(0))

    def agreement(self, answers: Array, reference: Array) -> float:
        """Return the fraction of pixels with the same class."""
        return float((answers == reference).mean())

    def exported(self, model: nn.Module, size: tuple[int, ...]) -> nn.Module:  # noqa: ARG002 - the protocol's signature
        """Return the model, whose class maps are resized outside the file."""
        return model

    def describe_answer(self, *, scores: bool) -> str:  # noqa: ARG002 - the protocol's signature
        """Explain how class maps become the class of each pixel."""
        return (
            "Resize the class maps bilinearly to the size of the input (corners not aligned); the class with the highest value "
            "of a pixel is its class."
        )

    def describe_outputs(self, count: int) -> str:
        """Count the classes."""
        return f"{count} classes of pixels"


def mean_iou(confusion: Array) -> float:
    """Return the mean intersection over union of a confusion matrix (C, C + 1), rows by label; NaN without any label."""
    hits = np.diagonal(confusion).astype(np.float64)
    wanted, answered = confusion.sum(1), confusion.sum(0)[: len(confusion)]
    there = wanted > 0
    return float((hits[there] / (wanted + answered - hits)[there]).mean()) if there.any() else math.nan


def confusions_of(answers: Array, labels: Array, classes: int) -> Array:
    """Return the confusion matrix of each image (N, C, C + 1), rows by label; the last column counts invalid answers."""
    return np.stack([_confusion(ours, wanted, classes) for ours, wanted in zip(answers, labels, strict=True)])


def _confusion(answers: Array, labels: Array, classes: int) -> Array:
    known = labels != VOID
    pairs = labels[known].astype(np.int64) * (classes + 1) + np.minimum(answers[known], classes)
    return np.bincount(pairs, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def _classes_in(masks: Array) -> Array:
    """Return which of the classes 0 to 254 occur in masks (..., H, W): bool (255,)."""
    found = np.zeros(VOID + 1, bool)
    for mask in masks.reshape(-1, masks.shape[-1] * masks.shape[-2]) if masks.ndim > 2 else [masks.ravel()]:
        found[mask] = True
    return found[:VOID]


TASK = Segmentation()
