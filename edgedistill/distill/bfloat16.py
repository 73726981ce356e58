"""Computing in bfloat16 where the hardware supports it, and in float32 where bfloat16 gives wrong gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

CONVOLUTIONS: Final = (functional.conv2d, torch.ops.aten.conv2d.default)
PARAMETERS: Final = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
"""Of CONVOLUTIONS, in their order."""


def uses_bf16(precision: str) -> bool:
    """Return whether to compute in bfloat16: as requested, or for "auto" if the hardware supports it."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())  # noqa: SLF001 - torch has no public function


@contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """Compute in bfloat16 if the precision says so, but for the convolutions of `FloatDilated` on a CPU."""
    bf16 = uses_bf16(precision)
    with (
        torch.autocast(device.type, torch.bfloat16, enabled=bf16),
        FloatDilated() if bf16 and device.type == "cpu" else nullcontext(),
    ):
        yield


class FloatDilated(TorchFunctionMode):
    """Compute depthwise convolutions with dilation in float32.

    For the weights of such a convolution in bfloat16, with channels last, a stride of 1 and rows of 30 pixels or more, oneDNN 3.12
    (in torch 2.13) returns gradients that contain memory which nothing has written: values up to 1e36, infinity, or wrong ones that
    nobody notices.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch; the parameters are those of torch's protocol."""
        given = kwargs or {}
        if func not in CONVOLUTIONS:
            return func(*args, **given)
        named = dict(zip(PARAMETERS, args, strict=False)) | given
        if not _is_dilated_depthwise(named["weight"], named.get("dilation", 1)):
            return func(*args, **given)
        with torch.autocast("cpu", enabled=False):
            return func(**{name: _as_float32(value) for name, value in named.items()})


def _is_dilated_depthwise(weight: Tensor, dilation: int | tuple[int, ...]) -> bool:
    steps = (dilation,) if isinstance(dilation, int) else dilation
    return weight.shape[1] == 1 and any(step > 1 for step in steps)


def _as_float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) else value
