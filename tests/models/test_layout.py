"""Weights are in channels-last order, except where a kernel of oneDNN's would write past its buffers."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from edgedistill.models.layout import arrange
from edgedistill.models.resnet import mlperf_resnet8
from tests.support.learning import interface

TRAIN = """
import torch
from edgedistill.models.interface import Interface
from edgedistill.models.layout import arrange
from edgedistill.records.stages import InputRecord
torch.set_num_threads(1)
one = InputRecord(kind="image", dtype="float32", shape=(8, 8, {channels}))
layer = arrange(torch.nn.Conv2d({channels}, 8, 1, 2), Interface(inputs=(one,), values=8))
for _ in range(100):
    layer(torch.randn(128, {channels}, 8, 8, requires_grad=True)).square().sum().backward()
"""


@pytest.mark.parametrize(
    ("width", "kind", "last"), [(1.0, "image", True), (0.25, "image", False), (1.0, "signal", False)]
)
def test_a_narrow_shortcut_with_a_stride_keeps_the_order_of_torch(width: float, kind: str, last: bool) -> None:
    model = arrange(mlperf_resnet8(10, 3, width, 1.0), interface(kind, (8, 8, 3)))
    weights = [
        layer.weight for layer in model.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)
    ]
    assert all(
        weight.is_contiguous(memory_format=torch.channels_last) == last for weight in weights if weight.shape[1] > 1
    )


@pytest.mark.parametrize("channels", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_narrow_shortcut_is_trained_and_the_process_lives(channels: int) -> None:
    done = subprocess.run([sys.executable, "-c", TRAIN.format(channels=channels)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
