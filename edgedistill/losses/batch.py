"""Training batches, and the types of losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

Tensors = dict[str, Tensor]
"""Tensors by input or output name, in order."""


class Batch(NamedTuple):
    """Model inputs (B, ...) by name, labels (B,) or values (B, D), and the teacher's outputs if there is a teacher.

    `teacher_logits` (B, D) is the labelled output, `teacher_outputs` (B, ...) are the other outputs. With `teacher_classes`
    (B, K), the first K logits belong to these classes, and the last logit to all others together. With mixup, an input is
    `share` (B,) times the sample of `labels` plus 1 - `share` times the sample of `partner_labels`. `is_labelled` (B,) is which
    samples have labels, None if all have; the labels of the others are stand-ins.
    """

    inputs: Tensors
    labels: Tensor
    teacher_logits: Tensor | None = None
    teacher_classes: Tensor | None = None
    partner_labels: Tensor | None = None
    share: Tensor | None = None
    teacher_outputs: Tensors | None = None
    is_labelled: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with `change` applied to each tensor."""
        return Batch(*(_map(part, change) for part in self))


def _map(part: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(part, dict):
        return {name: change(tensor) for name, tensor in part.items()}
    return None if part is None else change(part)


Loss = Callable[[Any, Batch], Tensor]
"""A function from a model's return value, in float32, and its batch to a scalar."""

OutputLoss = Callable[[Tensor, Batch], Tensor]
"""A function from the labelled output (B, D), in float32, and its batch to a scalar."""
