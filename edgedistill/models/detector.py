"""A small anchor-free detector: a separable backbone, a path aggregation network, and heads with box distributions.

Outputs per cell of the strides 8, 16 and 32 are class logits and distributions over the distances from the cell's centre to the
four sides of the box (GFL, Li et al., NeurIPS 2020). Classes and boxes have separate heads: in int8 they never share a scale.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgedistill.losses.cells import BINS, STRIDES
from edgedistill.models.depthwise import Residual, conv_bn_relu, separable
from edgedistill.models.scale import repeats

PRIOR: Final = 0.01
"""The score of every class at the start of a training, which keeps the many background cells from dominating it (Lin et al. 2017)."""


class Backbone(nn.Module):
    """Five stages; each halves the size by a dense convolution and refines the result by residual blocks."""

    def __init__(self, channels: int, sizes: tuple[int, ...], blocks: tuple[int, ...]) -> None:
        super().__init__()
        before = (channels, *sizes)
        self.stages = nn.ModuleList(
            nn.Sequential(conv_bn_relu(before[i], size, (3, 3), (2, 2)), *(Residual(size) for _ in range(blocks[i])))
            for i, size in enumerate(sizes)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features of the strides 8, 16 and 32."""
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features[-len(STRIDES) :]


class PathAggregation(nn.Module):
    """Mix the features of all levels, from coarse to fine and back (PANet, Liu et al., CVPR 2018), by additions."""

    def __init__(self, sizes: tuple[int, ...], out: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(conv_bn_relu(size, out, (1, 1), (1, 1)) for size in sizes)
        self.fine = nn.ModuleList(separable(out, out, 1) for _ in sizes[1:])
        self.down = nn.ModuleList(separable(out, out, 2) for _ in sizes[1:])
        self.coarse = nn.ModuleList(separable(out, out, 1) for _ in sizes[1:])

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Map features, the finest first, to features of `out` channels."""
        mixed = [lateral(x) for lateral, x in zip(self.lateral, features, strict=True)]
        for i in range(len(mixed) - 2, -1, -1):
            upsampled = functional.interpolate(mixed[i + 1], size=mixed[i].shape[2:], mode="nearest")
            mixed[i] = self.fine[i](mixed[i] + upsampled)
        for i in range(len(mixed) - 1):
            mixed[i + 1] = self.coarse[i](mixed[i + 1] + self.down[i](mixed[i]))
        return mixed


class Head(nn.Module):
    """One output map per level: a separable and a 1x1 convolution, with weights of their own."""

    def __init__(self, channels: int, out: int, bias: float) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(separable(channels, channels, 1), nn.Conv2d(channels, out, 1)) for _ in STRIDES
        )
        for level in self.levels:
            last = level[-1]  # type: ignore[index]  # torch types the levels as modules
            nn.init.normal_(last.weight, std=0.01)
            nn.init.constant_(last.bias, bias)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Map the features of all levels to values (B, A, out) of all cells."""
        maps = [level(x) for level, x in zip(self.levels, features, strict=True)]
        return torch.cat([one.permute(0, 2, 3, 1).flatten(1, 2) for one in maps], 1)


class Detector(nn.Module):
    """A detector with raw outputs, for training."""

    def __init__(self, backbone: Backbone, neck: PathAggregation, classes: Head, boxes: Head) -> None:
        super().__init__()
        self.backbone, self.neck, self.classes, self.boxes = backbone, neck, classes, boxes

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map (B, C, H, W) to logits: "classes" (B, A, classes) and "boxes" (B, A, 4 * BINS)."""
        features = self.neck(self.backbone(x))
        return {"classes": self.classes(features), "boxes": self.boxes(features)}


def detector(classes: int, channels: int, width: float, depth: float) -> nn.Module:
    """Build a detector of (16, 32, 64, 128, 256) * width channels and 2 * depth residual blocks per stride, for images of 64 pixels or more."""
    sizes = tuple(max(8, round(base * width)) for base in (16, 32, 64, 128, 256))
    blocks = (0, 0, *(repeats(2, depth) for _ in STRIDES))
    neck = max(8, round(64 * width))
    return Detector(
        Backbone(channels, sizes, blocks),
        PathAggregation(sizes[-len(STRIDES) :], neck),
        Head(neck, classes, -math.log((1 - PRIOR) / PRIOR)),
        Head(neck, 4 * BINS, 0.0),
    )
