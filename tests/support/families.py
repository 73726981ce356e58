"""Tiny nets, one for each family of layers that the placement must know, trained for seconds on real digits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from edgedistill.export.onnx_export import export_onnx
from edgedistill.quantize.prepare import Prepared, calibrate, prepare
from edgedistill.records.base import Scheme

OPSET = 18


class Unit(nn.Module):
    """Convolution, batch norm, and an activation."""

    def __init__(
        self, cin: int, cout: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: type[nn.Module] = nn.ReLU
    ):
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(cout)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class CifarBlock(nn.Module):
    """Two convolutions and the parameterless shortcut of He et al. 2016 (option A)."""

    def __init__(self, cin: int, cout: int, stride: int):
        super().__init__()
        self.first, self.second = Unit(cin, cout, 3, stride), Unit(cout, cout, act=nn.Identity)
        self.stride, self.extra = stride, cout - cin

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x))
        if self.stride > 1:
            half = self.extra // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.extra - half))
        y += x
        return F.relu(y, inplace=True)


class ResNet(nn.Sequential):
    def __init__(self):
        blocks = [CifarBlock(8, 8, 1), CifarBlock(8, 16, 2), CifarBlock(16, 32, 2)]
        super().__init__(Unit(1, 8), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(32, 10))


class SameConv(nn.Conv2d):
    """TensorFlow's "same": at stride 2 the padding is on the right and below."""

    def forward(self, x: Tensor) -> Tensor:
        total = [
            max((-(-n // s) - 1) * s + k - n, 0)
            for n, s, k in zip(x.shape[-2:], self.stride, self.kernel_size, strict=True)
        ]
        (top, left) = (t // 2 for t in total)
        return super().forward(F.pad(x, (left, total[1] - left, top, total[0] - top)))


class MobileNetV1(nn.Sequential):
    def __init__(self):
        def unit(cin: int, cout: int, kernel: int, stride: int, groups: int = 1) -> list[nn.Module]:
            return [SameConv(cin, cout, kernel, stride, groups=groups, bias=False), nn.BatchNorm2d(cout), nn.ReLU6()]

        layers = unit(1, 16, 3, 1)
        for cin, cout, stride in ((16, 32, 2), (32, 32, 1), (32, 64, 2)):
            layers += unit(cin, cin, 3, stride, cin) + unit(cin, cout, 1, 1)
        super().__init__(*layers, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 10))


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))))


class InvertedResidual(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int):
        super().__init__()
        wide = 3 * cin
        self.body = nn.Sequential(
            Unit(cin, wide, 1, act=nn.Hardswish),
            Unit(wide, wide, 3, stride, wide, act=nn.Hardswish),
            SqueezeExcite(wide),
            Unit(wide, cout, 1, act=nn.Identity),
        )
        self.shortcut = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.shortcut else self.body(x)


class MobileNetV3(nn.Sequential):
    def __init__(self):
        blocks = [InvertedResidual(16, 16, 1), InvertedResidual(16, 24, 2), InvertedResidual(24, 24, 1)]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 64), nn.Hardswish(), nn.Linear(64, 10)]
        super().__init__(Unit(1, 16, act=nn.Hardswish), *blocks, Unit(24, 48, 1, act=nn.Hardswish), *head)


class SignalNet(nn.Sequential):
    def __init__(self):
        def unit(cin: int, cout: int) -> list[nn.Module]:
            return [nn.Conv1d(cin, cout, 5, padding=2), nn.BatchNorm1d(cout), nn.ReLU(), nn.MaxPool1d(2)]

        super().__init__(
            *unit(1, 16), *unit(16, 32), *unit(32, 32), nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10)
        )


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.place = nn.Embedding(17, 32), nn.Parameter(torch.randn(1, 16, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.1, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.encoder(self.embed(tokens) + self.place)).mean(1))


class Normalize(nn.Module):
    """What export bakes in: uint8 images of shape (N, H, W, C) to normalised floats of shape (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.permute(0, 3, 1, 2).float() / 16 - 0.3) / 0.4


FAMILIES = {
    "resnet": (ResNet, "image"),
    "mobilenet_v1": (MobileNetV1, "image"),
    "mobilenet_v3": (MobileNetV3, "image"),
    "signal": (SignalNet, "signal"),
    "transformer": (Transformer, "tokens"),
}


@dataclass(frozen=True)
class Trained:
    """A trained net, its raw inputs (797 to calibrate on, 1,000 to test on), labels, and preprocessing."""

    model: nn.Module
    preprocess: nn.Module
    train: Tensor
    test: Tensor
    labels: Tensor


def digits(kind: str) -> tuple[Tensor, Tensor]:
    """Return the 1,797 digits as uint8 images (N, 8, 8, 1), float signals (N, 1, 64) or int64 tokens (N, 16)."""
    pixels, labels = load_digits(return_X_y=True)
    values = torch.from_numpy(pixels)
    forms = {
        "image": values.reshape(-1, 8, 8, 1).to(torch.uint8),
        "signal": ((values - 4.9) / 6).float().reshape(-1, 1, 64),
        "tokens": F.avg_pool2d(values.reshape(-1, 1, 8, 8), 2).flatten(1).long(),
    }
    return forms[kind], torch.from_numpy(labels)


FAST = ("resnet",)
EACH_FAMILY = [pytest.param(family, marks=() if family in FAST else pytest.mark.slow, id=family) for family in FAMILIES]
"""Every family for a test's parameters; those that take long to train and to export are slow."""


@cache
def train(family: str, epochs: int = 9) -> Trained:
    """Train a family on the first 797 digits; who changes its model takes a copy."""
    torch.manual_seed(0)
    build, kind = FAMILIES[family]
    inputs, labels = digits(kind)
    preprocess = Normalize() if kind == "image" else nn.Identity()
    model, ready = build(), preprocess(inputs)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(797).split(32):
            loss = F.cross_entropy(model(ready[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return Trained(model.eval(), preprocess, inputs[:797], inputs[797:], labels[797:])


@dataclass(frozen=True)
class Case:
    trained: Trained
    prepared: Prepared
    requests: dict
    expected: np.ndarray
    float32: onnx.ModelProto
    int8: onnx.ModelProto

    def accuracy(self, scores: np.ndarray) -> float:
        return float((scores.reshape(1000, 10).argmax(1) == self.trained.labels.numpy()).mean())


@cache
def case(family: str, activations: str = "signed") -> Case:
    trained = train(family)
    ready = trained.preprocess(trained.test)
    prepared = prepare(trained.model, (ready,), scheme=Scheme.model_validate({"activations": activations}))
    calibrate(prepared, zip(trained.preprocess(trained.train).split(100)))
    with torch.no_grad():
        expected = prepared(ready).numpy()[:, None]
    float32, int8 = (
        export_onnx(nn.Sequential(trained.preprocess, model), (trained.test[:1],), OPSET)
        for model in (trained.model, prepared)
    )
    return Case(trained, prepared, {"input": trained.test.numpy()[:, None]}, expected, float32, int8)


def quantized_layers(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the layers whose input and weight both come directly from DequantizeLinear."""
    producer = {name: node.op_type for node in graph.node for name in node.output}
    layers = [node for node in graph.node if node.op_type in {"Conv", "Gemm", "MatMul"}]
    return [node for node in layers if {producer.get(name) for name in node.input[:2]} == {"DequantizeLinear"}]
