"""A small network for semantic segmentation: inverted residuals up to stride 16, and class maps of three strides, added.

The form is that of LR-ASPP (Howard et al., "Searching for MobileNetV3", 2019, section 6.4) with ReLU and without the attention gate:
it holds convolutions, batch normalisation, ReLU, additions and bilinear upsampling only.
"""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn
from torch.nn import functional

from edgedistill.models.depthwise import InvertedResidual, conv_bn_relu
from edgedistill.models.scale import repeats

DILATIONS: Final = (1, 1, 2, 2, 4)
"""Of the blocks of stride 16: the last sees an area of about 400 pixels."""


class Segmenter(nn.Module):
    """Stages of stride 2, 4, 8 and 16; the last three give class maps, which are upsampled to stride 4 and added."""

    def __init__(self, stages: list[nn.Module], sizes: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.classes = nn.ModuleList(nn.Conv2d(size, classes, 1) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to logits (B, classes, h, w), h = ceil(H / 4) and w = ceil(W / 4)."""
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        logits: Tensor = self.classes[-1](features[-1])
        for classes, finer in zip(self.classes[-2::-1], features[-2:0:-1], strict=True):
            logits = classes(finer) + functional.interpolate(
                logits, size=finer.shape[2:], mode="bilinear", align_corners=False
            )
        return logits


def segmenter(classes: int, channels: int, width: float, depth: float) -> nn.Module:
    """Build a segmenter of (16, 24, 48, 96) * width channels, for images of 64 pixels or more.

    `depth` multiplies the residual blocks of the strides 8 and 16: 2 and 5.
    """
    stem, quarter, eighth, sixteenth, context = (max(8, round(base * width)) for base in (16, 24, 48, 96, 64))
    deep = repeats(len(DILATIONS), depth)
    stages: list[nn.Module] = [
        conv_bn_relu(channels, stem, (3, 3), (2, 2)),
        conv_bn_relu(stem, quarter, (3, 3), (2, 2)),
        nn.Sequential(
            InvertedResidual(quarter, eighth, 3, 2),
            *(InvertedResidual(eighth, eighth, 3) for _ in range(repeats(2, depth))),
        ),
        nn.Sequential(
            InvertedResidual(eighth, sixteenth, 4, 2),
            *(
                InvertedResidual(sixteenth, sixteenth, 3, dilation=DILATIONS[i * len(DILATIONS) // deep])
                for i in range(deep)
            ),
            conv_bn_relu(sixteenth, 2 * context, (1, 1), (1, 1)),
            conv_bn_relu(2 * context, context, (1, 1), (1, 1)),
        ),
    ]
    return Segmenter(stages, (quarter, eighth, context), classes)
