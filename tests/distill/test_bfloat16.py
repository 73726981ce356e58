"""Training in bfloat16: its gradients are those of float32, to within the rounding."""

import pytest
import torch
from torch import nn

from edgedistill.distill.bfloat16 import autocast


def gradients(net, inputs, precision):
    """Return the gradients of a net's weights, computed after memory with large values was freed."""
    net.zero_grad()
    with autocast(torch.device("cpu"), precision):
        outputs = net(inputs)
    freed = [torch.full((count,), 1e30) for count in (1000, 64 * 9, 64 * 9 * 4, 64 * 9 * 16, 64 * 9 * 64)]
    del freed
    (outputs.float() * torch.linspace(-1, 1, outputs.numel()).view(outputs.shape)).sum().backward()
    return [weight.grad.clone() for weight in net.parameters()]


@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("groups", [1, 64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_of_convolutions_are_right(dilation, groups, layout):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 64, 1), nn.Conv2d(64, 64, 3, padding=dilation, dilation=dilation, groups=groups, bias=False)
    )
    inputs = torch.randn(2, 3, 40, 40).to(memory_format=layout)
    wanted = gradients(net, inputs, "fp32")
    for _ in range(3):
        for found, right in zip(gradients(net, inputs, "bf16"), wanted, strict=True):
            assert (found - right).abs().max() < 0.05 * right.abs().max()


def test_other_convolutions_are_computed_in_bfloat16():
    inputs, weight = torch.randn(1, 8, 8, 8), torch.randn(8, 1, 3, 3)
    with autocast(torch.device("cpu"), "bf16"):
        plain = nn.functional.conv2d(inputs, weight, groups=8)
        dilated = nn.functional.conv2d(inputs, weight, dilation=2, groups=8)
    assert (plain.dtype, dilated.dtype) == (torch.bfloat16, torch.float32)
    with autocast(torch.device("cpu"), "fp32"):
        assert nn.functional.conv2d(inputs, weight, groups=8).dtype == torch.float32
