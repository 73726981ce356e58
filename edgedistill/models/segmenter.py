"""A small network for semantic segmentation: a separable encoder of five stages, and a decoder that adds their features.

The form is that of U-Net (Ronneberger et al. 2015) with the additions of FPN (Lin et al. 2017) in place of concatenations. It holds
convolutions, batch normalisation, ReLU, additions and nearest-neighbour upsampling only, which all engines run in int8.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from edgedistill.models.depthwise import Residual, conv_bn_relu, separable
from edgedistill.models.scale import repeats


class Segmenter(nn.Module):
    """An encoder whose stages each halve the size, and a decoder with `features` channels up to stride 4."""

    def __init__(
        self, channels: int, sizes: tuple[int, ...], blocks: tuple[int, ...], features: int, classes: int
    ) -> None:
        super().__init__()
        before = (channels, *sizes)
        self.stages = nn.ModuleList(
            nn.Sequential(_reduce(before[i], size), *(Residual(size) for _ in range(blocks[i])))
            for i, size in enumerate(sizes)
        )
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(size, features, 1, bias=False), nn.BatchNorm2d(features)) for size in sizes[1:]
        )
        self.mix = nn.ModuleList(separable(features, features, 1) for _ in sizes[1:])
        self.classes = nn.Conv2d(features, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to logits (B, classes, h, w), h = ceil(H / 4) and w = ceil(W / 4)."""
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        y = functional.relu(self.lateral[-1](features[-1]))
        for i in range(len(features) - 3, -1, -1):
            upsampled = functional.interpolate(y, size=features[i + 1].shape[2:], mode="nearest")
            y = self.mix[i + 1](functional.relu(self.lateral[i](features[i + 1]) + upsampled))
        logits: Tensor = self.classes(self.mix[0](y))
        return logits


def _reduce(channels: int, out: int) -> nn.Module:
    """Build a convolution of stride 2: dense for few channels, separable for many."""
    return conv_bn_relu(channels, out, (3, 3), (2, 2)) if channels < 64 else separable(channels, out, 2)


def segmenter(classes: int, channels: int, width: float, depth: float) -> nn.Module:
    """Build a segmenter of (16, 32, 64, 128, 192) * width channels, for images of 64 pixels or more."""
    sizes = tuple(max(8, round(base * width)) for base in (16, 32, 64, 128, 192))
    blocks = (0, *(repeats(base, depth) for base in (1, 3, 4, 4)))
    return Segmenter(channels, sizes, blocks, max(8, round(48 * width)), classes)
