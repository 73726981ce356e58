"""Fake quantization to 8 bits with zero point 0, differentiable in the value and in the scale."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgedistill.graphs.rounding import HIGHEST, LOWEST, SMALLEST_STEP, UNSIGNED, per_channel, weight_scale
from edgedistill.quantize.ranges import MagnitudeHistogram
from edgedistill.records.base import Ranges

SMALLEST_SCALE = 1e-12


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


def fake_quantize_weight(weight: Tensor, *, narrow: bool = False) -> Tensor:
    """Round a weight to int8 steps per output channel; the scale follows the weight, so nothing is ever clipped."""
    scale = per_channel(weight_scale(weight.detach(), narrow=narrow), weight)
    return _round(weight / scale) * scale


def fake_quantize_bias(
    bias: Tensor, weight: Tensor, scale: Tensor, least: Tensor | None = None, *, narrow: bool = False
) -> Tensor:
    """Round a bias to int32 steps of input scale times weight scale, as integer kernels do.

    ONNX Runtime rounds the bias even if the file does not. The rounding changes answers (2 % of them on MLPerf Tiny's
    ResNet-8), so the fake-quantized model includes it. With a scale of 0, which is not calibrated, nothing is rounded.
    `least` and `narrow` are those of `weight_scale`. The gradient in the bias is that of the identity.
    """
    step = scale.detach().abs() * weight_scale(weight.detach(), least, narrow=narrow)
    return torch.where(step > 0, _round(bias / step.clamp_min(SMALLEST_STEP)) * step, bias)


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
            observed = x.detach() if self.floor is None else x.detach().clamp_min(self.floor)
            self._histogram.update(observed.float().cpu().numpy())
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
