"""The scales and the integers of 8-bit weights and int32 biases, alike for arrays of numpy and tensors of torch.

A file is quantized without torch, and a network in training with it: both take these functions, so that both have the same
integers. An array below is either, and a function returns the kind that it was given.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

import numpy.typing as npt
from array_api_compat import array_namespace, device

if TYPE_CHECKING:
    from torch import Tensor

LOWEST, HIGHEST = -128, 127
UNSIGNED = 0, 255
SMALLEST_STEP = 1e-37
# A channel's scale is at least this fraction of the layer's largest. Smaller weights are below the resolution of the
# next tensor, and a smaller scale would push the channel's bias out of int32, whose step is the product of the scales.
SCALE_FLOOR = 2.0**-12
# After the last layer there is no such resolution: a channel may be in a smaller unit than the others.
LAST_SCALE_FLOOR = 2.0**-24
LARGEST_BIAS = 2.0**30

Values = TypeVar("Values", npt.NDArray[Any], "Tensor")
"""A numpy array or a torch tensor, float32, without a gradient."""


def weight_scale(weight: Values, least: Values | None = None, *, narrow: bool = False) -> Values:
    """Return the scale of each output channel (axis 0) of a weight; the scale of a channel of zeros is positive too.

    `least` has the smallest scale of each channel, instead of a fraction of the layer's largest. With `narrow`, two weights
    that x86 without VNNI adds have a sum of at most 128 steps: 255 * 128 fits into 16 bits.
    """
    scale = _full_scale(weight, least)
    return array_namespace(scale).maximum(scale, largest_pair(weight) / HIGHEST) if narrow else scale


def largest_pair(weight: Values) -> Values:
    """Return the largest sum of two weights of one sign that x86 without VNNI adds in 16 bits, for each output channel.

    Kernels add neighbours of the dot product in pairs. Its order is (kernel position, input channel) in ONNX Runtime;
    OpenVINO pads the input channels of each position to an even number.
    """
    xp = array_namespace(weight)
    rows = xp.moveaxis(weight, 1, -1)
    orders = [rows] if rows.shape[-1] % 2 == 0 else [rows, _padded(xp, rows)]
    flat = [_padded(xp, row) if row.shape[1] % 2 else row for row in (_flattened(xp, one) for one in orders)]
    signs = [xp.clip(part, 0, None) for row in flat for part in (row, -row)]
    return xp.max(xp.stack([xp.max(part[:, ::2] + part[:, 1::2], axis=1) for part in signs]), axis=0)


def _padded(xp: Any, rows: Any) -> Any:
    """Return rows with one zero more on the last axis."""
    return xp.concat([rows, xp.zeros_like(rows[..., :1])], axis=-1)


def _flattened(xp: Any, weight: Any) -> Any:
    return xp.reshape(weight, (weight.shape[0], math.prod(weight.shape[1:])))


def _full_scale(weight: Any, least: Any) -> Any:
    xp = array_namespace(weight)
    largest = xp.max(xp.abs(_flattened(xp, weight)), axis=1)
    most = float(xp.max(largest))
    if most == 0:
        return xp.ones_like(largest)
    return (
        xp.maximum(largest / HIGHEST, least)
        if least is not None
        else xp.clip(largest, most * SCALE_FLOOR, None) / HIGHEST
    )


def least_scale(weight: Values, bias: Values | None, scale: Any) -> Values:
    """Return the least scale of each channel of a layer whose result is not rounded, for an input of a scale.

    The bias fits into int32, whose step is the product of the scales.
    """
    xp: Any = array_namespace(weight)
    rows: Any = weight
    floor = float(xp.max(xp.abs(rows))) * LAST_SCALE_FLOOR / HIGHEST
    least = xp.full((rows.shape[0],), floor, dtype=rows.dtype, device=device(rows))
    return least if bias is None else xp.maximum(least, xp.abs(bias) / scale / LARGEST_BIAS)


def quantized_weight(weight: Values, least: Values | None = None, *, narrow: bool = False) -> tuple[Values, Values]:
    """Return the weight as int8 in [-127, 127], and its scales (float32, one for each output channel).

    `least` and `narrow` are those of `weight_scale`.
    """
    xp, rows = array_namespace(weight), weight
    scale = weight_scale(rows, least, narrow=narrow)
    return xp.astype(xp.round(rows / per_channel(scale, rows)), xp.int8), scale


def rounded_bias(bias: Values, step: Values) -> Values:
    """Return a bias on a grid of steps, one for each channel: those of the input times those of the weight."""
    xp = array_namespace(bias)
    return xp.where(step > 0, xp.round(bias / xp.clip(step, SMALLEST_STEP, None)) * step, bias)


def per_channel(scale: Any, weight: Any) -> Any:
    """Return one value for each output channel in a shape that multiplies a weight."""
    return scale.reshape(-1, *[1] * (weight.ndim - 1))
