"""Int8 convolutions that read pixels: the same function as normalization and convolution, also at the border."""

import functools

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgedistill.export.lint.report import lint
from edgedistill.export.onnx_export import export_onnx
from edgedistill.graphs.encodings import encode
from edgedistill.graphs.pair_sums import MARK
from edgedistill.graphs.run import run_onnx
from edgedistill.graphs.write import serialized
from edgedistill.kits.kits import find_kits
from edgedistill.quantize.onnx_file import quantize_onnx
from edgedistill.records.base import Scheme
from tests.support.kernels import kernels_of


class Baked(nn.Module):
    """A network with its normalization: (B, H, W, C) pixels in, as `[export] bake` writes it."""

    def __init__(self, first, mean, std):
        super().__init__()
        self.first, self.last = first, nn.Conv2d(first.out_channels, 4, 1)
        self.register_buffer("mean", 255 * torch.tensor(mean))
        self.register_buffer("factor", 1 / (255 * torch.tensor(std)))

    def forward(self, raw):
        x = raw.to(torch.float32).movedim(-1, 1)
        x = nn.functional.batch_norm(x, self.mean, torch.ones_like(self.mean), self.factor, eps=0.0)
        return self.last(self.first(x).relu()).relu()


class Twice(Baked):
    """Another layer reads the normalized picture too."""

    def forward(self, raw):
        x = raw.to(torch.float32).movedim(-1, 1)
        x = nn.functional.batch_norm(x, self.mean, torch.ones_like(self.mean), self.factor, eps=0.0)
        return self.last(self.first(x).relu() + x.mean(1, keepdim=True)).relu()


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pictures(size, channels=3):
    return np.random.default_rng(0).integers(0, 256, (12, 1, *size, channels), np.uint8)


PICTURES = pictures((12, 12))


def quantized(network, inputs):
    """Return a network as a float file and as a canonical int8 file."""
    torch.manual_seed(0)
    model = export_onnx(network.eval(), (torch.from_numpy(inputs[0]),), 20)
    return model, quantize_onnx(model, {"input": inputs})[0]


@functools.cache
def usual():
    """Return a network of one convolution and one of 1x1 as a float file."""
    torch.manual_seed(0)
    return export_onnx(Baked(nn.Conv2d(3, 16, 3, padding=1), MEAN, STD).eval(), (torch.from_numpy(PICTURES[0]),), 20)


def answers(model, inputs):
    (values,) = run_onnx(serialized(model), {"input": inputs}).values()
    return values[:, 0]


def operators(model):
    return {node.op_type for node in model.graph.node}


def errors(got, wanted):
    """Return the squared error over variance, of the border and of the inside of maps (N, C, H, W)."""
    squared = (got - wanted) ** 2 / wanted.var()
    inside = squared[:, :, 1:-1, 1:-1]
    return (squared.sum() - inside.sum()) / (squared.size - inside.size), inside.mean()


def check_same_function(network, inputs):
    """Check that the pixels are read, and that the errors are as small as with a normalization in float, also at the border."""
    model, canonical = quantized(network, inputs)
    unsigned = encode(canonical, "u8-i32")
    assert operators(unsigned).isdisjoint({"Cast", "BatchNormalization"})
    wanted = answers(model, inputs)
    border, inside = errors(answers(unsigned, inputs), wanted)
    assert max(border, inside) < 0.01
    assert border < 4 * inside + 1e-3
    before = errors(answers(encode(canonical, "s8-i32"), inputs), wanted)
    assert border + inside < 2 * sum(before) + 1e-3


@pytest.mark.parametrize(
    ("mean", "std", "bias", "stride"),
    [
        (MEAN, STD, True, 1), (MEAN, STD, False, 2), ((0.05, 0.5, 0.95), (0.4, 0.05, 0.2), True, 2),
        ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), True, 1),
    ],
)  # fmt: skip
def test_it_is_the_same_function(mean, std, bias, stride):
    check_same_function(Baked(nn.Conv2d(3, 16, 3, stride, 1, bias=bias), mean, std), pictures((12, 10)))


@pytest.mark.parametrize("width", [16, 17, 18, 19])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        (1, 1, 0),
        (2, 1, 1),
        (3, 1, 0),
        (3, 2, 0),
        (3, 2, 1),
        (3, 3, 1),
        (3, 4, 1),
        (4, 1, 2),
        (5, 2, 2),
        (7, 2, 3),
        (7, 4, 3),
        (9, 1, 4),
    ],
)
def test_it_is_the_same_function_with_every_kernel_and_width(kernel, stride, padding, width):
    check_same_function(Baked(nn.Conv2d(3, 5, kernel, stride, padding), MEAN, STD), pictures((14, width)))


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_it_is_the_same_function_with_any_number_of_channels(channels):
    mean, std = (np.linspace(low, high, channels).tolist() for low, high in ((0.3, 0.6), (0.2, 0.4)))
    check_same_function(Baked(nn.Conv2d(channels, 16, 3, padding=1), mean, std), pictures((12, 11), channels))


@pytest.mark.parametrize("size", [(24, 16), (16, 8), (19, 16)])
def test_patches_are_read_without_padding(size):
    network = Baked(nn.Conv2d(3, 16, 8, 8), MEAN, STD)
    inputs = pictures(size)
    model, canonical = quantized(network, inputs)
    unsigned = encode(canonical, "u8-i32")
    assert operators(unsigned).isdisjoint({"BatchNormalization", "Concat", "Pad", "Slice"})
    wanted = answers(model, inputs)
    assert ((answers(unsigned, inputs) - wanted) ** 2).mean() < 0.01 * wanted.var()


@pytest.mark.parametrize(("mean", "std"), [((-0.5, 0.0, 0.5), (1.0, 1.0, 1.0)), ((0.5, 0.5, 1.2), STD)])
def test_no_pixel_can_be_the_padding(mean, std):
    inputs = pictures((12, 12))
    _, canonical = quantized(Baked(nn.Conv2d(3, 16, 3, padding=1), mean, std), inputs)
    assert "BatchNormalization" in operators(encode(canonical, "u8-i32"))
    check_same_function(Baked(nn.Conv2d(3, 16, 3), mean, std), inputs)


def test_onnx_runtime_multiplies_the_pixels(tmp_path):
    canonical, _ = quantize_onnx(usual(), {"input": PICTURES})
    unsigned = encode(canonical, "u8-i32")
    found = kernels_of(unsigned, tmp_path)
    assert found["QLinearConv"] == 2
    assert found["QuantizeLinear"] == 0
    assert found["Pad"] == 0
    assert found["Transpose"] == 1  # the results, which the file has channels first
    report = lint(unsigned, find_kits()["ort"])
    assert [finding.rule for finding in report.findings if finding.severity == "error"] == []
    onnx.checker.check_model(unsigned, full_check=True)


def test_narrow_weights_stay_narrow():
    canonical, _ = quantize_onnx(usual(), {"input": PICTURES}, scheme=Scheme(weights="narrow"))
    unsigned = encode(canonical, "u8-i32")
    assert "BatchNormalization" not in operators(unsigned)
    assert {(entry.key, entry.value) for entry in unsigned.metadata_props} >= set(MARK.items())


@pytest.mark.parametrize(
    ("network", "size", "channels"),
    [
        pytest.param(Baked(nn.Conv2d(3, 64, 3), MEAN, STD), (9, 9), 3, id="many products with zeros"),
        pytest.param(Baked(nn.Conv2d(3, 16, 8, 8), MEAN, STD), (16, 23), 3, id="the last pixels are not read"),
        pytest.param(Baked(nn.Conv2d(3, 16, 3, dilation=2), MEAN, STD), (9, 9), 3, id="dilation"),
        pytest.param(Baked(nn.Conv2d(6, 16, 3, groups=2), MEAN * 2, STD * 2), (9, 9), 6, id="groups"),
        pytest.param(Twice(nn.Conv2d(3, 16, 3, padding=1), MEAN, STD), (9, 9), 3, id="two readers"),
    ],
)
def test_other_networks_normalize_in_float(network, size, channels):
    inputs = pictures(size, channels)
    _, canonical = quantized(network, inputs)
    unsigned = encode(canonical, "u8-i32")
    assert "BatchNormalization" in operators(unsigned)
    np.testing.assert_allclose(answers(unsigned, inputs), answers(encode(canonical, "s8-i32"), inputs), atol=1e-5)


@pytest.mark.parametrize("encoding", ["s8-f32", "s8-i32", "u8-f32"])
def test_other_encodings_normalize_in_float(encoding):
    canonical, _ = quantize_onnx(usual(), {"input": PICTURES})
    assert "BatchNormalization" in operators(encode(canonical, encoding))
