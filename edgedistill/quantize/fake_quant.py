"""Fake quantization to 8 bits with zero point 0, differentiable in the value and in the scale."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgedistill.quantize.ranges import MagnitudeHistogram, Ranges

LOWEST, HIGHEST = -128, 127
UNSIGNED = 0, 255
SMALLEST_SCALE = 1e-12
SMALLEST_STEP = 1e-37
# A channel's scale is at least this fraction of the layer's largest. Smaller weights are below the resolution of the
# next tensor, and a smaller scale would push the channel's bias out of int32, whose step is the product of the scales.
SCALE_FLOOR = 2.0**-12
# After the last layer there is no such resolution: a channel may be in a smaller unit than the others.
LAST_SCALE_FLOOR = 2.0**-24
LARGEST_BIAS = 2.0**30


class _Round(torch.autograd.Function):
    """Rounding whose gradient is that of the identity (straight-through estimator, Bengio et al. 2013)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004 - torch's signature
        return x.round()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:  # noqa: ARG004 - torch's signature
        return grads[0]


def _round(x: Tensor) -> Tensor:
    rounded: Tensor = _Round.apply(x)  # type: ignore[no-untyped-call]  # torch does not type Function.apply
    return rounded


def fake_quantize(x: Tensor, scale: Tensor, *, unsigned: bool = False) -> Tensor:
    """Round x to int8 or uint8 steps of `scale`; x is divided by `scale`, to agree with QuantizeLinear to the last bit.

    The gradient in the scale is that of LSQ (Esser et al. 2020): q - x/s inside the range, the bound outside.
    """
    return _round((x / scale).clamp(*(UNSIGNED if unsigned else (LOWEST, HIGHEST)))) * scale


def weight_scale(weight: Tensor, least: Tensor | None = None, *, narrow: bool = False) -> Tensor:
    """Return the scale of each output channel (axis 0) of a weight; the scale of a channel of zeros is positive too.

    `least` has the smallest scale of each channel, instead of a fraction of the layer's largest. With `narrow`, two weights
    that x86 without VNNI adds have a sum of at most 128 steps: 255 * 128 fits into 16 bits.
    """
    scale = _full_scale(weight, least)
    return scale.maximum(largest_pair(weight.detach()) / HIGHEST) if narrow else scale


def largest_pair(weight: Tensor) -> Tensor:
    """Return the largest sum of two weights of one sign that x86 without VNNI adds in 16 bits, for each output channel.

    Kernels add neighbours of the dot product in pairs. Its order is (kernel position, input channel) in ONNX Runtime;
    OpenVINO pads the input channels of each position to an even number.
    """
    rows = weight.movedim(1, -1)
    orders = (
        [rows.flatten(1)] if rows.shape[-1] % 2 == 0 else [rows.flatten(1), nn.functional.pad(rows, (0, 1)).flatten(1)]
    )
    orders = [nn.functional.pad(row, (0, row.shape[1] % 2)) for row in orders]
    signs = [part for row in orders for part in (row.clamp_min(0), (-row).clamp_min(0))]
    return torch.stack([(part[:, ::2] + part[:, 1::2]).amax(1) for part in signs]).amax(0)


def _full_scale(weight: Tensor, least: Tensor | None) -> Tensor:
    largest = weight.detach().abs().flatten(1).amax(1)
    most = largest.max()
    if most == 0:
        return torch.ones_like(largest)
    return (
        (largest / HIGHEST).maximum(least)
        if least is not None
        else largest.clamp_min(float(most) * SCALE_FLOOR) / HIGHEST
    )


def least_scale(weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
    """Return the least scale of each channel of a layer whose result is not rounded, for an input of a scale.

    The bias fits into int32, whose step is the product of the scales.
    """
    floor = float(weight.detach().abs().max()) * LAST_SCALE_FLOOR / HIGHEST
    least = weight.new_full((len(weight),), floor)
    return least if bias is None else least.maximum(bias.abs() / scale / LARGEST_BIAS)


def quantized_weight(weight: Tensor, least: Tensor | None = None, *, narrow: bool = False) -> tuple[Tensor, Tensor]:
    """Return the weight as int8 in [-127, 127], and its scales (float32, one for each output channel).

    `least` and `narrow` are those of `weight_scale`.
    """
    scale = weight_scale(weight, least, narrow=narrow)
    return (weight.detach() / _per_channel(scale, weight)).round().to(torch.int8), scale


def fake_quantize_weight(weight: Tensor, *, narrow: bool = False) -> Tensor:
    """Round a weight to int8 steps per output channel; the scale follows the weight, so nothing is ever clipped."""
    scale = _per_channel(weight_scale(weight, narrow=narrow), weight)
    return _round(weight / scale) * scale


def fake_quantize_bias(
    bias: Tensor, weight: Tensor, scale: Tensor, least: Tensor | None = None, *, narrow: bool = False
) -> Tensor:
    """Round a bias to int32 steps of input scale times weight scale, as integer kernels do.

    ONNX Runtime rounds the bias even if the file does not. The rounding changes answers (2 % of them on MLPerf Tiny's
    ResNet-8), so the fake-quantized model includes it. With a scale of 0, which is not calibrated, nothing is rounded.
    `least` and `narrow` are those of `weight_scale`.
    """
    step = scale.detach().abs() * weight_scale(weight, least, narrow=narrow)
    return torch.where(step > 0, _round(bias / step.clamp_min(SMALLEST_STEP)) * step, bias)


def _per_channel(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (weight.dim() - 1))


class ActivationQuantizer(nn.Module):
    """Rounds a tensor to int8; the parameter `scale` is 0 until calibration, and until then nothing is rounded.

    Below `floor`, the reader of the tensor gives the same result for every value, so calibration clips values there.
    `unsigned` rounds to uint8 instead, for a tensor that is never negative.
    """

    def __init__(self, floor: float | None = None, *, unsigned: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))
        self.floor = floor
        self.unsigned = unsigned
        self.highest = UNSIGNED[1] if unsigned else HIGHEST
        self.calibrated = False
        self._histogram: MagnitudeHistogram | None = None

    @property
    def step(self) -> Tensor:
        """The scale to round with: positive, even if training makes the parameter negative."""
        return self.scale.abs().clamp_min(SMALLEST_SCALE)

    def forward(self, x: Tensor) -> Tensor:
        """Return x (N, ...), rounded if calibrated."""
        if self._histogram is not None:
            self._histogram.update(x if self.floor is None else x.clamp_min(self.floor))
            return x
        if not self.calibrated:
            return x
        step = self.step
        if step.requires_grad:
            # The scale's gradient is a sum over all elements; LSQ scales it down by their number.
            elements = x[0].numel()
            factor = (elements * self.highest) ** -0.5
            step.register_hook(lambda gradient: gradient * factor)  # type: ignore[no-untyped-call]  # untyped in torch
        return fake_quantize(x, step, unsigned=self.unsigned)

    def observe(self) -> None:
        """Record the magnitudes of tensors, without rounding them, until `settle`."""
        self._histogram = MagnitudeHistogram()

    def settle(self, ranges: Ranges) -> None:
        """Set the scale from the recorded magnitudes, and start to round."""
        assert self._histogram is not None
        with torch.no_grad():
            self.scale.fill_(self._histogram.bound(ranges, self.highest) / self.highest)
        self._histogram, self.calibrated = None, True

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.calibrated = bool(self.scale != 0)
