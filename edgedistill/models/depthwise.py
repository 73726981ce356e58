"""Depthwise-separable networks: DS-CNN for keyword spotting, and MobileNetV1; and their blocks."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from edgedistill.models.scale import repeats


def conv_bn_relu(
    channels: int, out: int, kernel: tuple[int, int], stride: tuple[int, int], groups: int = 1
) -> nn.Module:
    """Build a convolution, batch normalisation and ReLU, with padding for odd kernels; ReLU in place makes training 10 % faster."""
    padding = (kernel[0] // 2, kernel[1] // 2)
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )


def separable(channels: int, out: int, stride: int) -> nn.Module:
    """Build a 3x3 depthwise convolution and a 1x1 convolution (Howard et al. 2017)."""
    return nn.Sequential(
        conv_bn_relu(channels, channels, (3, 3), (stride, stride), groups=channels),
        conv_bn_relu(channels, out, (1, 1), (1, 1)),
    )


class Residual(nn.Module):
    """A 3x3 depthwise and a 1x1 convolution, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = conv_bn_relu(channels, channels, (3, 3), (1, 1), groups=channels)
        self.pointwise = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return functional.relu(x + self.pointwise(self.depthwise(x)))


class InvertedResidual(nn.Module):
    """MobileNetV2's block (Sandler et al. 2018): expand by a factor, 3x3 depthwise, project without ReLU, and add if shapes allow.

    The depthwise convolution has the stride and the dilation.
    """

    def __init__(self, channels: int, out: int, expansion: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        middle = channels * expansion
        self.expand = conv_bn_relu(channels, middle, (1, 1), (1, 1))
        self.depthwise = nn.Sequential(
            nn.Conv2d(middle, middle, 3, stride, dilation, dilation, groups=middle, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
        )
        self.project = nn.Sequential(nn.Conv2d(middle, out, 1, bias=False), nn.BatchNorm2d(out))
        self.adds = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out, ceil(H / stride), ceil(W / stride))."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.adds else y


class SeparableNet(nn.Module):
    """A stem convolution, separable blocks, mean over positions, and a dense layer."""

    def __init__(self, stem: nn.Module, blocks: list[nn.Module], features: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.stem = stem
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to logits (B, classes)."""
        y: Tensor = self.fc(self.dropout(self.blocks(self.stem(x)).mean((2, 3))))
        return y


def ds_cnn(classes: int, channels: int, width: float, depth: float) -> nn.Module:
    """DS-CNN-S (Zhang et al., "Hello Edge", 2017): 64 * width features, 4 * depth blocks, for spectrograms (time, frequency) of speech."""
    size = max(1, round(64 * width))
    stem = nn.Sequential(
        nn.Conv2d(channels, size, (10, 4), (2, 2), (5, 1), bias=False), nn.BatchNorm2d(size), nn.ReLU(), nn.Dropout(0.2)
    )
    return SeparableNet(stem, [separable(size, size, 1) for _ in range(repeats(4, depth))], size, classes, 0.4)


def mobilenetv1(classes: int, channels: int, width: float, depth: float) -> nn.Module:
    """MobileNetV1 (Howard et al. 2017) with width multiplier, for images of 96 pixels or more.

    `depth` multiplies the five equal blocks of 512 * width channels.
    """
    middle = (512,) * repeats(5, depth)
    sizes = [max(8, round(base * width)) for base in (32, 64, 128, 128, 256, 256, 512, *middle, 1024, 1024)]
    strided = {2, 4, 6, len(sizes) - 2}
    blocks = [separable(sizes[i - 1], sizes[i], 2 if i in strided else 1) for i in range(1, len(sizes))]
    return SeparableNet(conv_bn_relu(channels, sizes[0], (3, 3), (2, 2)), blocks, sizes[-1], classes, 0.0)
