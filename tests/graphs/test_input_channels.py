"""Channels of zeros for the first int8 convolution."""

import numpy as np
import pytest
import torch
from torch import nn

from edgedistill.export.lint.report import lint
from edgedistill.export.onnx_export import export_onnx
from edgedistill.graphs.encodings import encode
from edgedistill.graphs.run import run_onnx
from edgedistill.graphs.write import serialized
from edgedistill.kits.kits import find_kits
from edgedistill.quantize.prepare import calibrate, prepare
from tests.support.kernels import kernels_of


class Branches(nn.Module):
    """A convolution whose input another one reads too."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 16, 3), nn.Conv2d(3, 16, 3)

    def forward(self, x):
        return self.one(x).relu() + self.two(x).relu()


def pictures(first):
    return nn.Sequential(first, nn.ReLU(), nn.Conv2d(first.out_channels, 4, 1)).eval()


def quantized(model, size):
    torch.manual_seed(0)
    inputs = torch.randn(8, *size)
    prepared = prepare(model, (inputs,))
    calibrate(prepared, [(inputs,)])
    return export_onnx(prepared, (inputs[:1],), 20), inputs[:, None].numpy()


def answers(model, inputs):
    (values,) = run_onnx(serialized(model), {model.graph.input[0].name: inputs}).values()
    return values


def pads(model):
    return [node for node in model.graph.node if node.op_type == "Pad"]


@pytest.mark.parametrize(
    ("first", "size", "channels"),
    [
        (nn.Conv2d(3, 16, 3, padding=1), (3, 12, 10), 4),
        (nn.Conv2d(1, 24, 5, stride=2, bias=False), (1, 15, 15), 4),
        (nn.Conv2d(6, 16, 3, padding=1), (6, 8, 8), 8),
        (nn.Conv1d(3, 16, 5, padding=2), (3, 40), 4),
    ],
)
def test_few_channels_are_filled_up_and_no_answer_changes(first, size, channels, tmp_path):
    last = nn.Conv1d if isinstance(first, nn.Conv1d) else nn.Conv2d
    canonical, inputs = quantized(nn.Sequential(first, nn.ReLU(), last(first.out_channels, 4, 1)).eval(), size)
    signed, unsigned = encode(canonical, "s8-i32"), encode(canonical, "u8-i32")
    assert not pads(canonical)
    assert not pads(signed)
    assert len(pads(unsigned)) == 1
    weights = [one for one in unsigned.graph.initializer if list(one.dims[:1]) == [first.out_channels]]
    assert channels in {one.dims[1] for one in weights if len(one.dims) > 1}
    np.testing.assert_array_equal(answers(unsigned, inputs), answers(signed, inputs))
    assert (
        kernels_of(unsigned, tmp_path)["QLinearConv"] == 1
    )  # the last layer is float, because the model returns its result
    assert [
        finding.rule for finding in lint(unsigned, find_kits()["ort"]).findings if finding.severity == "error"
    ] == []


@pytest.mark.parametrize(
    ("model", "size"),
    [
        pytest.param(pictures(nn.Conv2d(3, 8, 3)), (3, 8, 8), id="few outputs"),
        pytest.param(pictures(nn.Conv2d(3, 16, 7)), (3, 9, 9), id="many taps"),
        pytest.param(pictures(nn.Conv2d(4, 16, 3)), (4, 8, 8), id="a multiple of four"),
        pytest.param(pictures(nn.Conv2d(10, 16, 3)), (10, 8, 8), id="many channels"),
        pytest.param(pictures(nn.Conv2d(6, 18, 3, groups=6)), (6, 8, 8), id="groups"),
        pytest.param(Branches().eval(), (3, 8, 8), id="two readers"),
    ],
)
def test_other_convolutions_stay_as_they_are(model, size):
    canonical, inputs = quantized(model, size)
    unsigned = encode(canonical, "u8-i32")
    assert not pads(unsigned)
    np.testing.assert_allclose(answers(unsigned, inputs), answers(encode(canonical, "s8-i32"), inputs), atol=1e-5)
