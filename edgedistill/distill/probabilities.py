"""Teachers that end in a softmax: their probabilities become logits, which distillation needs."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from edgedistill.tasks.task import Task

SUM_TOLERANCE: Final = 0.01  # probabilities that were rounded to bfloat16 or float16 do not sum to exactly 1
MESSAGE: Final = "outputs are probabilities (each row sums to 1); their logarithm is used as logits"


def are_probabilities(task: Task, outputs: Tensor) -> bool:
    """Return whether the outputs (N, C) of a classifier are probabilities: no value below 0, and each row sums to 1.

    Log-probabilities need no conversion, because the softmax of log-probabilities is the probabilities.
    """
    if not task.has_softmax or outputs.ndim != 2 or not len(outputs):
        return False
    return bool((outputs >= 0).all()) and bool(((outputs.float().sum(1) - 1).abs() < SUM_TOLERANCE).all())


def log_probabilities(outputs: Tensor) -> Tensor:
    """Return the logarithm; probabilities below the smallest normal float32 are raised to it, so that all are finite."""
    return outputs.float().clamp_min(torch.finfo(torch.float32).tiny).log()
