"""Check inputs: their values, that samples differ, and that channels are last."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgedistill.errors import ConfigError
from edgedistill.records.stages import KindName

Array = npt.NDArray[Any]
BLOCK_BYTES: Final = 1 << 24
"""The size of the samples that are searched at once, which may be on disk and larger than memory."""

IMAGE_CHANNELS: Final = (1, 3, 4)
LARGEST_ASPECT: Final = 8
"""An image is at most this many times as long as wide, where its channels are looked for."""

TIMES_LONGER: Final = 4
"""A signal whose last axis is this many times its first axis looks like (C, T)."""


def samples_at_once(inputs: Array) -> int:
    """Return the number of samples of a block of BLOCK_BYTES, at least 1."""
    return max(1, BLOCK_BYTES * len(inputs) // max(1, inputs.nbytes))


def check_varied(where: str, inputs: Iterable[Array]) -> None:
    """Raise ConfigError if all samples are identical in every input; stops at the first sample that differs."""
    arrays = list(inputs)
    count = len(arrays[0])
    if count > 1 and all(np.array_equal(row, values[0]) for values in arrays for row in values[1:]):
        raise ConfigError(f"{where}: all {count} samples are identical; check how the data was made")


def check_count(where: str, inputs: Array, labels: Array) -> None:
    """Raise ConfigError unless there is one label for each sample, and at least one sample."""
    if labels.shape[:1] != (len(inputs),):
        count = labels.shape[0] if labels.ndim else 0
        lacks = f"sample {count} has no label" if count < len(inputs) else f"label {len(inputs)} has no sample"
        raise ConfigError(
            f"{where}: {len(inputs)} inputs but labels of shape {labels.shape}; expected ({len(inputs)},): {lacks}"
        )
    if len(inputs) == 0:
        raise ConfigError(f"{where}: contains no samples")


def check_input(where: str, inputs: Array, kind: KindName, *, is_given: bool) -> None:
    """Check the values of an input, and that channels are last; `is_given` is whether the configuration names the kind."""
    _check_values(where, inputs)
    if kind == "image":
        _check_image_layout(where, inputs.shape)
    elif kind == "signal" and not is_given:
        _check_signal_layout(where, inputs.shape)


def _check_values(where: str, inputs: Array) -> None:
    """Raise ConfigError for inputs that are not numbers, and for NaN or infinity, with the number of the sample."""
    if inputs.dtype.kind not in "iuf" or inputs.dtype.itemsize > 8:
        raise ConfigError(f"{where}: inputs are {inputs.dtype}; expected uint8, another integer, or float")
    if inputs.dtype.kind != "f":
        return
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(np.sum(inputs, dtype=np.float64)):  # faster than a search; other sums are searched
            return
    step = samples_at_once(inputs)
    for start in range(0, len(inputs), step):
        block = inputs[start : start + step]
        wrong = ~np.isfinite(block.reshape(len(block), -1)).all(axis=1)
        if wrong.any():
            row = int(np.argmax(wrong))
            value = "NaN" if np.isnan(block[row]).any() else "infinity"
            raise ConfigError(f"{where}: sample {start + row} holds {value}; remove the sample, or replace the value")


def _check_image_layout(where: str, shape: tuple[int, ...]) -> None:
    """Raise ConfigError for a data set of images (N, C, H, W): 1, 3 or 4 channels come before two larger sides."""
    if len(shape) != 4 or shape[1] not in IMAGE_CHANNELS or min(shape[2:]) <= max(IMAGE_CHANNELS):
        return
    if max(shape[2:]) <= LARGEST_ASPECT * min(shape[2:]):
        raise ConfigError(
            f"{where}: inputs have shape {shape}, which is (N, C, H, W); images are (N, H, W, C), so turn them: "
            "inputs.transpose(0, 2, 3, 1)"
        )


def _check_signal_layout(where: str, shape: tuple[int, ...]) -> None:
    """Raise ConfigError for a data set of signals that look like (N, C, T): the last axis is much longer."""
    if len(shape) == 3 and shape[2] >= TIMES_LONGER * shape[1]:
        raise ConfigError(
            f"{where}: inputs have shape {shape}, which looks like (N, C, T); signals are (N, T, C), so turn them: "
            f"inputs.transpose(0, 2, 1); if these are signals of {shape[1]} steps and {shape[2]} channels, set kind = 'signal'"
        )
