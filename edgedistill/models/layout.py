"""The memory format of a network's weights."""

from __future__ import annotations

from torch import nn

from edgedistill.data.kinds import kind_of
from edgedistill.models.interface import Interface

SAFE_CHANNELS = 8
"""The number of input channels from which the oneDNN kernels below were correct in tests."""


def arrange(model: nn.Module, interface: Interface) -> nn.Module:
    """Convert the weights of an image network to channels-last, which trains fastest on a CPU, if that is safe.

    On processors with AVX2 but not AVX-512, oneDNN 3.x writes outside its buffers in the backward pass of a strided 1x1
    convolution with few input channels in channels-last format (seen with torch 2.13, 1 to 5 channels); the process crashes.
    """
    import torch

    pictures = any(kind_of(one).is_picture for one in interface.inputs)
    order = torch.channels_last if pictures and not _is_unsafe(model) else torch.contiguous_format
    return model.to(memory_format=order)  # type: ignore[call-overload]  # torch types to() for tensors only


def _is_unsafe(model: nn.Module) -> bool:
    return any(
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and max(layer.stride) > 1
        and layer.in_channels // layer.groups < SAFE_CHANNELS
        for layer in model.modules()
    )
