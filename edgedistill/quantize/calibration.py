"""Calibration inputs: training samples that set the activation ranges."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from edgedistill.data.sources import Array
from edgedistill.data.views import Views
from edgedistill.distill.predictors import batches_of
from edgedistill.errors import ConfigError

Inputs = tuple[Tensor, ...]
"""Model inputs, in positional order."""


def example_input(views: Views) -> Inputs:
    """Return the split's first sample (1, ...) for each model input."""
    return tuple(views.batch(np.zeros(1, np.int64), np.zeros(1, np.int64)).values())


def calibration_rows(count: int, samples: int, seed: int) -> Array:
    """Return the positions of `samples` of `count` samples, drawn with the seed, in order; ConfigError if there are none."""
    order = np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(count)
    chosen = np.sort(order[:samples])
    if not len(chosen):
        raise ConfigError("quantize.samples: calibration needs training inputs; set it to 512, for example")
    return chosen


def calibration_batches(views: Views, samples: int, seed: int) -> Iterator[Inputs]:
    """Yield batches (N, ...) of `samples` samples of a split, drawn with the seed; ConfigError if there are none."""
    chosen = calibration_rows(len(views.split), samples, seed)
    with torch.no_grad():
        for inputs in batches_of(views, chosen):
            yield tuple(inputs.values())
