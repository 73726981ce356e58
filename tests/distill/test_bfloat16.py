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


def require_right_gradients(net, inputs):
    wanted = gradients(net, inputs, "fp32")
    for _ in range(3):
        for found, right in zip(gradients(net, inputs, "bf16"), wanted, strict=True):
            assert (found - right).abs().max() < 0.05 * right.abs().max()


@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("groups", [1, 64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("convolution", [nn.Conv2d, nn.ConvTranspose2d])
def test_gradients_of_dilated_convolutions_are_right(convolution, dilation, groups, layout):
    torch.manual_seed(0)
    dilated = convolution(64, 64, 3, padding=dilation, dilation=dilation, groups=groups, bias=False)
    net = nn.Sequential(nn.Conv2d(3, 64, 1), dilated)
    require_right_gradients(net, torch.randn(2, 3, 40, 40).to(memory_format=layout))


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize(
    "convolution",
    [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d],
)
def test_gradients_of_strides_and_kernels_beyond_the_input_are_right(convolution, stride, size, kernel):
    torch.manual_seed(0)
    net = nn.Sequential(convolution(16, 16, 1), convolution(16, 16, kernel, stride, kernel // 2, bias=False))
    axes = net[0].weight.ndim - 2
    require_right_gradients(net, torch.randn(4, 16, *[size] * axes))


def test_other_convolutions_are_computed_in_bfloat16():
    inputs, weight = torch.randn(1, 8, 8, 8), torch.randn(8, 1, 3, 3)
    conv = nn.functional.conv2d
    with autocast(torch.device("cpu"), "bf16"):
        plain = [conv(inputs, weight, groups=8), conv(inputs, weight, None, 8, 1, 1, 8)]
        wrong = [conv(inputs, weight, dilation=2, groups=8), conv(inputs, weight, None, (1, 9), groups=8)]
        named = conv(input=inputs, weight=weight, stride=9, groups=8)
    assert [one.dtype for one in plain] == [torch.bfloat16] * 2
    assert [one.dtype for one in (*wrong, named)] == [torch.float32] * 3
    with autocast(torch.device("cpu"), "fp32"):
        assert conv(inputs, weight, groups=8).dtype == torch.float32
