"""Computing in bfloat16 where the hardware supports it, and in float32 where bfloat16 gives wrong gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

ATEN: Final = torch.ops.aten
FORWARD: Final = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
TRANSPOSED: Final = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
PARAMETERS: Final[dict[Any, tuple[str, ...]]] = {
    **dict.fromkeys((functional.conv1d, functional.conv2d, functional.conv3d), FORWARD),
    **dict.fromkeys((ATEN.conv1d.default, ATEN.conv2d.default, ATEN.conv3d.default), FORWARD),
    **dict.fromkeys((ATEN.conv1d.padding, ATEN.conv2d.padding, ATEN.conv3d.padding), FORWARD),
    **dict.fromkeys(
        (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d), TRANSPOSED
    ),
    **dict.fromkeys(
        (ATEN.conv_transpose1d.default, ATEN.conv_transpose2d.input, ATEN.conv_transpose3d.input), TRANSPOSED
    ),
}
"""The names of the parameters of each convolution, in their order."""
Steps = int | Sequence[int]


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Return whether to compute in bfloat16: as requested, or for "auto" if the device supports it."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())  # noqa: SLF001 - torch has no public function


@contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """Compute in bfloat16 if the precision says so, but for the convolutions of `FloatConvolutions` on a CPU."""
    bf16 = uses_bf16(precision, device)
    with (
        torch.autocast(device.type, torch.bfloat16, enabled=bf16),
        FloatConvolutions() if bf16 and device.type == "cpu" else nullcontext(),
    ):
        yield


class FloatConvolutions(TorchFunctionMode):
    """Compute those convolutions in float32 for which oneDNN 3.12 (in torch 2.13) returns memory that nothing has written.

    In bfloat16, with AVX512-BF16 or AMX, these are:

    - the gradients of the weights of depthwise convolutions with dilation, with channels last, a stride of 1, and rows of 30 pixels or more;
    - the gradients of the weights, and some outputs, of convolutions whose stride is larger than the axis: 2 on a map of 1x1;
    - the gradients of the weights of 3-D convolutions whose kernel is larger than the axis, on an AMD EPYC without AMX.

    The same holds for transposed convolutions.

    Such values are up to 1e36, or small enough that nobody notices them.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch; the parameters are those of torch's protocol."""
        given = kwargs or {}
        if func not in PARAMETERS:
            return func(*args, **given)
        named = dict(zip(PARAMETERS[func], args, strict=False)) | given
        if not _is_wrong(named["input"], named["weight"], named.get("stride", 1), named.get("dilation", 1)):
            return func(*args, **given)
        with torch.autocast("cpu", enabled=False):
            return func(**{name: _as_float32(value) for name, value in named.items()})


def _is_wrong(inputs: Tensor, weight: Tensor, stride: Steps, dilation: Steps) -> bool:
    sizes = inputs.shape[2 - weight.ndim :]
    dilations = _by_axis(dilation, len(sizes))
    is_dilated_depthwise = weight.shape[1] == 1 and any(step > 1 for step in dilations)
    reach = [step * (side - 1) + 1 for step, side in zip(dilations, weight.shape[2:], strict=True)]
    is_large_kernel = len(sizes) == 3 and any(side > size for side, size in zip(reach, sizes, strict=True))
    is_large_stride = any(step > size for step, size in zip(_by_axis(stride, len(sizes)), sizes, strict=True))
    return is_dilated_depthwise or is_large_kernel or is_large_stride


def _by_axis(steps: Steps, axes: int) -> tuple[int, ...]:
    given = (steps,) if isinstance(steps, int) else tuple(steps)
    return given * axes if len(given) == 1 else given


def _as_float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) else value
