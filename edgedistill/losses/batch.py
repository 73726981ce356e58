"""A batch of a training, and what a loss is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

Tensors = dict[str, Tensor]
"""Tensors by the names of inputs or outputs, in their order."""


class Batch(NamedTuple):
    """Model inputs (B, ...) by name, labels (B,) or values (B, D), and what the teacher gives where there is a teacher.

    `teacher_logits` (B, D) are of the output that the labels are for, `teacher_outputs` (B, ...) of its other outputs. With
    `teacher_classes` (B, K), the first K logits are of these classes, and the last of all others as one. With mixup,
    `share` (B,) is how much of an input is the sample of `labels`; the rest is that of `partner_labels`.
    """

    inputs: Tensors
    labels: Tensor
    teacher_logits: Tensor | None = None
    teacher_classes: Tensor | None = None
    partner_labels: Tensor | None = None
    share: Tensor | None = None
    teacher_outputs: Tensors | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with each of its tensors changed."""
        return Batch(*(_map(part, change) for part in self))


def _map(part: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(part, dict):
        return {name: change(tensor) for name, tensor in part.items()}
    return None if part is None else change(part)


Loss = Callable[[Any, Batch], Tensor]
"""From what a model returns, in float32, and its batch, to a scalar."""

OutputLoss = Callable[[Tensor, Batch], Tensor]
"""From the output (B, D) that labels are for, in float32, and its batch, to a scalar."""
