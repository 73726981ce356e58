"""Data and networks for the quantization tables: CIFAR-10-JPEG or a fixed part of it, and small mobile networks."""

import functools
import sys
from pathlib import Path

import torch
from torch import nn

sys.path.append(str(Path(__file__).resolve().parents[1] / "cifar10"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "wrist"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "sms"))

import cifar10_jpeg

EVERY = 5
"""The file is sorted by class, so a part of it is every fifth image: 10,000 to train on, 2,000 to test with."""


@functools.cache
def part(name):
    images, labels, classes = cifar10_jpeg.decode(name)
    return images[::EVERY], labels[::EVERY], classes


def train():
    return part("train")


def test():
    return part("test")


def whole_train():
    return cifar10_jpeg.train()


def whole_test():
    return cifar10_jpeg.test()


class SqueezeExcite(nn.Module):
    """A gate per channel, from the channels' means (Hu et al. 2018)."""

    def __init__(self, channels, act=nn.ReLU, gate=nn.Hardsigmoid):
        super().__init__()
        self.pool, self.reduce = nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels // 4, 1)
        self.relu, self.expand, self.gate = act(), nn.Conv2d(channels // 4, channels, 1), gate()

    def forward(self, x):
        return x * self.gate(self.expand(self.relu(self.reduce(self.pool(x)))))


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, squeeze-excite and projection (Howard et al. 2019)."""

    def __init__(self, cin, wide, cout, stride, *, gate, act):
        super().__init__()
        self.adds = stride == 1 and cin == cout
        self.layers = nn.Sequential(
            nn.Conv2d(cin, wide, 1, bias=False), nn.BatchNorm2d(wide), act(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide),
            SqueezeExcite(wide) if gate else nn.Identity(), act(),
            nn.Conv2d(wide, cout, 1, bias=False), nn.BatchNorm2d(cout),
        )  # fmt: skip

    def forward(self, x):
        y = self.layers(x)
        return x + y if self.adds else y


def mobilenetv3(classes, channels):
    """MobileNetV3-Small's first blocks at half its width, for 32x32 images."""
    relu, hard = nn.ReLU, nn.Hardswish
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), hard(),
        InvertedResidual(16, 16, 16, 2, gate=True, act=relu),
        InvertedResidual(16, 72, 24, 2, gate=False, act=relu),
        InvertedResidual(24, 88, 24, 1, gate=False, act=relu),
        InvertedResidual(24, 96, 40, 2, gate=True, act=hard),
        InvertedResidual(40, 240, 40, 1, gate=True, act=hard),
        nn.Conv2d(40, 240, 1, bias=False), nn.BatchNorm2d(240), hard(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(240, 128), hard(), nn.Linear(128, classes),
    )  # fmt: skip


class Uneven(nn.Sequential):
    """A depthwise-separable block whose channels start 1 : 10,000 in size, and whose next layer makes up for it.

    Trained MobileNets come to such ranges by themselves (Nagel et al. 2019, "Data-Free Quantization Through Weight
    Equalization"); int8 has one step for all channels of an activation, so the small ones are lost.
    """

    def __init__(self, cin, cout, stride):
        norm, point = nn.BatchNorm2d(cin), nn.Conv2d(cin, cout, 1, bias=False)
        super().__init__(
            nn.Conv2d(cin, cin, 3, stride, 1, groups=cin, bias=False), norm, nn.ReLU(),
            point, nn.BatchNorm2d(cout), nn.ReLU(),
        )  # fmt: skip
        with torch.no_grad():
            norm.weight.copy_(torch.logspace(-2, 2, cin))
            point.weight.div_(norm.weight.reshape(1, -1, 1, 1))


def uneven_mobilenet(classes, channels):
    """A small MobileNetV1 (Howard et al. 2017) of uneven blocks, on which post-training int8 fails."""
    return nn.Sequential(
        nn.Conv2d(channels, 24, 3, 1, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU(),
        Uneven(24, 32, 2), Uneven(32, 64, 2), Uneven(64, 64, 1), Uneven(64, 96, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, classes),
    )  # fmt: skip


class UnevenGated(nn.Module):
    """EfficientNet's block (Tan and Le 2019) with SiLU and squeeze-excite; its channels start 1 : 10,000 in size."""

    def __init__(self, cin, cout, stride):
        super().__init__()
        wide, norm = 4 * cin, nn.BatchNorm2d(4 * cin)
        project = nn.Conv2d(wide, cout, 1, bias=False)
        self.adds = stride == 1 and cin == cout
        self.layers = nn.Sequential(
            nn.Conv2d(cin, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.SiLU(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), norm, nn.SiLU(),
            SqueezeExcite(wide, nn.SiLU, nn.Sigmoid), project, nn.BatchNorm2d(cout),
        )  # fmt: skip
        with torch.no_grad():
            norm.weight.copy_(torch.logspace(-2, 2, wide))
            project.weight.div_(norm.weight.reshape(1, -1, 1, 1))

    def forward(self, x):
        y = self.layers(x)
        return x + y if self.adds else y


def uneven_efficientnet(classes, channels):
    """A small EfficientNet of uneven blocks: post-training int8 loses accuracy, and int8 is slower than float on x86."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.SiLU(),
        UnevenGated(16, 24, 2), UnevenGated(24, 24, 1), UnevenGated(24, 40, 2), UnevenGated(40, 40, 1),
        UnevenGated(40, 80, 2), UnevenGated(80, 80, 1),
        nn.Conv2d(80, 160, 1, bias=False), nn.BatchNorm2d(160), nn.SiLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(160, classes),
    )  # fmt: skip
