"""The order of a network's weights in memory."""

from __future__ import annotations

from torch import nn

from edgedistill.models.interface import Interface

SAFE_CHANNELS = 8
"""From this many input channels on, oneDNN's kernels of the case below were seen to write inside their buffers."""


def arrange(model: nn.Module, interface: Interface) -> nn.Module:
    """Put an image network's weights in channels-last order, which trains fastest on a CPU, wherever that is safe.

    oneDNN 3.x on a processor with AVX2 and without AVX-512 writes past its buffers in the backward pass of a 1x1 convolution
    with a stride and few input channels in channels-last order (seen with torch 2.13, 1 to 5 channels): the process dies.
    """
    import torch

    pictures = any(one.kind == "image" for one in interface.inputs)
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
