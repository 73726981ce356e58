"""The training inputs that activation ranges are taken from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from edgedistill.data.views import plain_views
from edgedistill.distill.predictors import BATCH
from edgedistill.errors import ConfigError
from edgedistill.runtime.job import Job


def example_inputs(job: Job) -> tuple[Tensor, ...]:
    """Return the model's inputs (1, ...) of one training sample."""
    views = plain_views(job.dataset.train, job.data, job.config)
    return (views.batch(np.zeros(1, np.int64), np.zeros(1, np.int64)),)


def calibration_batches(job: Job) -> Iterator[tuple[Tensor, ...]]:
    """Yield the model's inputs (N, ...) of `quantize.samples` training samples, chosen by the seed; raises ConfigError."""
    split = job.dataset.train
    order = np.random.Generator(np.random.Philox(key=[job.config.seed, 0])).permutation(len(split))
    chosen = np.sort(order[: job.config.quantize.samples])
    if not len(chosen):
        raise ConfigError("quantize.samples: calibration needs training inputs; set it to 512, for example")
    views = plain_views(split, job.data, job.config)
    with torch.no_grad():
        for start in range(0, len(chosen), BATCH):
            block = chosen[start : start + BATCH]
            yield (views.batch(block, np.zeros_like(block)),)
