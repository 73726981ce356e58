"""Detection: labels (N, M, 7) are boxes with classes; the metric is COCO's average precision.

Models return class logits and box distributions for the cells of a grid (zoo:detector). Exported files return scores and boxes in
pixels instead. Either way the answers are detections after non-maximum suppression, as in `detections`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from edgedistill.config.training import FEATURE_LOSSES, DistillConfig, TrainingConfig
from edgedistill.errors import ConfigError
from edgedistill.tasks import coco, detections
from edgedistill.tasks.class_labels import LARGEST
from edgedistill.tasks.task import Array, DenseTask, Labels

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgedistill.losses.batch import OutputLoss

COLUMNS: Final = 7
"""Class, x1, y1, x2, y2, area, crowd."""


class Detection(DenseTask):
    """The task of finding objects: a box, a class and a score for each."""

    name: ClassVar[str] = "detection"
    output: ClassVar[str | None] = "classes+boxes"
    exported_output: ClassVar[str | None] = "scores+boxes"
    finds_objects: ClassVar[bool] = True
    metric: ClassVar[str] = "coco_ap"
    metric_title: ClassVar[str] = "AP"
    losses: ClassVar[tuple[str, ...]] = ("kd", *FEATURE_LOSSES)
    keeps_top_k: ClassVar[bool] = True
    smooths_labels: ClassVar[bool] = False

    def read_labels(self, labels: Sequence[Labels], given: tuple[str, ...] | None) -> tuple[Labels, ...]:  # noqa: ARG002 - the protocol's signature
        """Return boxes (N, M, 7), float32; raises ConfigError for labels of another shape or type."""
        for one in labels:
            if one.values.ndim != 3 or one.values.shape[2] != COLUMNS or one.values.dtype != np.float32:
                raise ConfigError(
                    f"data.{one.split}: labels are {one.values.dtype}{one.values.shape}; expected boxes, float32 (N, M, {COLUMNS}): "
                    "class, x1, y1, x2, y2, area, crowd"
                )
            if not np.isfinite(one.values[..., :5]).all():
                raise ConfigError(
                    f"data.{one.split}: a class or a corner of a box is NaN or infinite; leave the box out"
                )
        return tuple(labels)

    def names(self, labels: Sequence[Labels], given: tuple[str, ...] | None, dimensions: int | None) -> tuple[str, ...]:  # noqa: ARG002 - the protocol's signature
        """Return the class names: as configured, of the data, or numbers from 0 to the largest class of a box."""
        largest = [int(one.values[..., 0].max(initial=-1)) for one in labels]
        if largest[0] < 0:
            raise ConfigError("data.train: no image has a box; check the labels")
        if not (given or labels[0].classes) and largest[0] > LARGEST:
            raise ConfigError(f"data.train: a box has class {largest[0]}; the largest class number is {LARGEST}")
        names = given or labels[0].classes or tuple(str(i) for i in range(largest[0] + 1))
        for one, highest in zip(labels, largest, strict=True):
            if highest >= len(names):
                raise ConfigError(
                    f"data.{one.split}: a box has class {highest}, but there are {len(names)} classes, numbered 0 to "
                    f"{len(names) - 1}; name every class in data.classes"
                )
        return names

    def require_scorable(self, split: str, labels: Array) -> None:
        """Raise ConfigError if no picture has a box."""
        if labels[..., 0].max(initial=-1) < 0:
            raise ConfigError(
                f"data.{split}: none of its {len(labels):,} pictures has a box, so that AP is not defined; add pictures with boxes, or "
                f"set data.{split}"
            )

    def no_labels(self, labels: Array, count: int) -> Array:
        """Return a row without a box for each image."""
        return np.broadcast_to(np.array([-1, *[0] * (COLUMNS - 1)], np.float32), (count, *labels.shape[1:]))

    def counts(self, labels: Array, values: int) -> Array:
        """Return the number of images that show each class."""
        return np.array([(labels[..., 0] == kind).any(1).sum() for kind in range(values)])

    def label_loss(self, plan: TrainingConfig) -> OutputLoss:  # noqa: ARG002 - the protocol's signature
        """Return the quality focal loss of scores and the losses of boxes."""
        from edgedistill.losses.detection import on_boxes

        return on_boxes

    def distillation_loss(self, plan: DistillConfig, own: Any) -> OutputLoss:
        """Return the weighted sum of the loss on labels, and of distillation of scores and box distributions."""
        from edgedistill.losses.detection import on_teacher
        from edgedistill.losses.logits import custom_term, weighted

        if own is not None:
            return weighted(plan, self.label_loss(plan), custom_term(plan.loss, own, self.mixed_labels))
        return weighted(plan, self.label_loss(plan), on_teacher(plan.temperature))

    def example_labels(self, outputs: Tensor) -> Tensor:
        """Return a box of the first class in the corner of each image."""
        import torch

        return torch.tensor([[[0.0, 0.0, 0.0, 32.0, 32.0, 1024.0, 0.0]]]).repeat(len(outputs), 1, 1)

    def fits(self, shape: tuple[int, ...], values: int, size: tuple[int, ...]) -> bool:
        """Return whether a shape is that of all cells with class logits and box distributions."""
        from edgedistill.losses.cells import BINS, cells_of

        return shape == (len(cells_of(size[0], size[1]).strides), values + 4 * BINS)

    def describe_shape(self, count: int, values: int, size: tuple[int, ...]) -> str:
        """Describe class logits and box distributions."""
        from edgedistill.losses.cells import BINS, STRIDES, cells_of

        height, width = size
        cells = len(cells_of(height, width).strides)
        return (
            f"'classes' of shape ({count}, {cells}, {values}) and 'boxes' of shape ({count}, {cells}, {4 * BINS}): {cells} cells, those "
            f"of strides {', '.join(map(str, STRIDES))} for inputs of {width}x{height}"
        )

    def answers(self, outputs: Array, size: tuple[int, ...], values: int) -> Array:
        """Return detections (N, 100, 6): of outputs in torch for inputs of `size` (H, W), or of scores and boxes side by side."""
        import torch

        from edgedistill.losses.decoding import decode

        if outputs.shape[2] > values + 4:
            outputs = decode(torch.from_numpy(outputs), (size[0], size[1]), values).numpy()
        return detections.detect_all(outputs)

    def invalid(self, answers: Array) -> Array:
        """Return where an image's outputs are not finite."""
        return np.isnan(answers[..., 1])

    def score(self, answers: Array, labels: Array) -> float:
        """Return COCO's average precision of detections (N, K, 6) and boxes (N, M, 7)."""
        classes = int(max(answers[..., 0].max(initial=0), labels[..., 0].max(initial=0))) + 1
        return coco.average_precision(answers, labels, classes)

    def agreement(self, answers: Array, reference: Array) -> float:
        """Return the fraction of confident detections that have a partner in the other model's."""
        return detections.agreement(answers, reference)

    def exported(self, model: nn.Module, size: tuple[int, ...]) -> nn.Module:
        """Return the model with scores and boxes in pixels as its outputs."""
        from edgedistill.losses.decoding import Decoded

        return Decoded(model, size[0], size[1])

    def describe_answer(self, *, scores: bool) -> str:  # noqa: ARG002 - the protocol's signature
        """Explain how scores and boxes become detections."""
        rules = detections.RULES
        return (
            "Each box has a score per class, and is x1, y1, x2, y2 in pixels of the input. Keep the scores above your threshold, the "
            f"highest first; leave out a box whose IoU with a better box of the same class is above {rules.overlap:g}; keep at most "
            f"{rules.limit} boxes."
        )

    def describe_outputs(self, count: int) -> str:
        """Count the classes."""
        return f"{count} classes of objects"


TASK = Detection()
