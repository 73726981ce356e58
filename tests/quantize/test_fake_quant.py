import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgedistill.errors import ConfigError
from edgedistill.graphs.rounding import quantized_weight
from edgedistill.quantize.fake_quant import (
    ActivationQuantizer,
    fake_quantize,
    fake_quantize_bias,
    fake_quantize_weight,
)
from edgedistill.quantize.ranges import MagnitudeHistogram

SCALES = st.floats(2.0**-20, 2.0**10, width=32)


def onnx_rounding(x: np.ndarray, scale: np.float32, kind: type) -> np.ndarray:
    """QuantizeLinear, DequantizeLinear as ONNX Runtime computes them."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in "xy"]
    stored = [numpy_helper.from_array(np.array(scale), "scale"), numpy_helper.from_array(kind(0), "zero")]
    graph = helper.make_graph(nodes, "rounding", values[:1], values[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@settings(max_examples=40, deadline=None)
@given(SCALES, st.integers(0, 2**32 - 1))
def test_rounding_is_that_of_onnx_runtime_to_the_last_bit(scale, seed):
    scale = np.float32(scale)
    steps = np.random.default_rng(seed).uniform(-140, 280, 256)
    halves = np.arange(-130, 260) + 0.5
    x = (np.concatenate([steps, halves]).astype(np.float32) * scale).astype(np.float32)
    for unsigned in (False, True):
        ours = fake_quantize(torch.from_numpy(x), torch.tensor(scale), unsigned=unsigned).numpy()
        np.testing.assert_array_equal(ours, onnx_rounding(x, scale, np.uint8 if unsigned else np.int8))


def test_dead_and_nearly_dead_channels_have_positive_scales():
    weight = torch.randn(4, 3, 3, 3)
    weight[1] = 0
    weight[2] *= 1e-30
    stored, scale = quantized_weight(weight)
    assert (scale > 0).all()
    assert stored[1].abs().max() == 0
    assert stored.min() >= -127
    all_dead, scale = quantized_weight(torch.zeros(4, 3))
    assert (scale == 1).all()
    assert not all_dead.any()


def test_fake_and_stored_weights_are_the_same_numbers():
    weight = torch.randn(8, 5)
    stored, scale = quantized_weight(weight)
    assert torch.equal(fake_quantize_weight(weight), stored.float() * scale[:, None])
    assert ((fake_quantize_weight(weight) - weight).abs() <= scale[:, None] * 0.5001).all()


def test_a_bias_is_rounded_to_the_product_of_the_scales_once_there_is_one():
    weight, bias = torch.randn(4, 3), torch.randn(4, requires_grad=True)
    assert torch.equal(fake_quantize_bias(bias, weight, torch.tensor(0.0)), bias)
    rounded = fake_quantize_bias(bias, weight, torch.tensor(0.05))
    step = 0.05 * quantized_weight(weight)[1]
    assert ((rounded - bias).abs() <= step * 0.5001).all()
    torch.testing.assert_close((rounded / step).round() * step, rounded)
    rounded.sum().backward()
    assert torch.equal(bias.grad, torch.ones(4))


def test_gradients_are_straight_through_in_the_value_and_lsq_in_the_scale():
    x = torch.tensor([0.26, -0.74, 90.0, -90.0], requires_grad=True)
    scale = torch.tensor(0.5, requires_grad=True)
    fake_quantize(x, scale).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([1.0, 1.0, 0.0, 0.0]))
    inside = (1 - 0.26 / 0.5) + (-1 + 0.74 / 0.5)
    torch.testing.assert_close(scale.grad, torch.tensor(inside + 127 - 128))


def test_an_unsigned_activation_has_255_steps_up_to_its_bound_and_cuts_what_is_below_0():
    quantizer, x = ActivationQuantizer(unsigned=True), torch.linspace(0, 3, 1000)
    quantizer.observe()
    quantizer(x)
    quantizer.settle("minmax")
    assert quantizer.scale.item() == pytest.approx(3 / 255)
    assert quantizer(x).detach().unique().numel() == 256
    assert quantizer(torch.tensor([-1.0])).item() == 0
    scale = torch.tensor(0.5, requires_grad=True)
    fake_quantize(torch.tensor([0.26, 200.0, -3.0]), scale, unsigned=True).sum().backward()
    torch.testing.assert_close(scale.grad, torch.tensor((1 - 0.26 / 0.5) + 255 + 0))


def test_an_activation_passes_until_it_is_calibrated_and_a_loaded_one_is():
    quantizer, x = ActivationQuantizer(), torch.randn(8, 100)
    assert torch.equal(quantizer(x), x)
    quantizer.observe()
    assert torch.equal(quantizer(x), x)
    quantizer.settle("minmax")
    assert quantizer.scale.item() == pytest.approx(x.abs().max().item() / 127)
    assert not torch.equal(quantizer(x), x)
    loaded = ActivationQuantizer()
    loaded.load_state_dict(quantizer.state_dict())
    assert torch.equal(loaded(x), quantizer(x))


def test_training_and_evaluation_round_alike():
    quantizer, x = ActivationQuantizer(), torch.randn(8, 100)
    quantizer.observe()
    quantizer(x)
    quantizer.settle("mse")
    with torch.no_grad():
        expected = quantizer(x)
    assert torch.equal(quantizer(x).detach(), expected)


def test_least_squared_error_beats_the_largest_magnitude_where_one_value_lies_far_out():
    x = torch.cat([torch.randn(20_000), torch.tensor([40.0])])
    histogram = MagnitudeHistogram()
    histogram.update(x.numpy())
    errors = {}
    for ranges in ("mse", "minmax"):
        scale = torch.tensor(histogram.bound(ranges, 127) / 127)
        errors[ranges] = ((fake_quantize(x, scale) - x) ** 2).mean()
    assert histogram.bound("minmax", 127) == 40
    assert errors["mse"] <= errors["minmax"]


@pytest.mark.parametrize(("largest", "bound"), [(1e-45, 1.0), (1e-39, 1.0), (5e-36, 1.0), (1.1e-35, 1.1e-35)])
def test_a_tensor_of_values_near_the_smallest_float_counts_as_zeros(largest, bound):
    values = np.float32([0, -largest, largest])
    for batches in ([values], [np.zeros(3, np.float32), values]):
        histogram = MagnitudeHistogram()
        for batch in batches:
            histogram.update(batch)
        assert histogram.bound("minmax", 127) == pytest.approx(bound, rel=1e-6)
        assert 0 < histogram.bound("mse", 127) <= bound * 1.001


@given(st.permutations(range(5)))
def test_the_order_of_batches_does_not_matter(order):
    torch.manual_seed(0)
    batches = [torch.randn(64) * 3.0**exponent for exponent in range(5)]
    bounds = []
    for chosen in (range(5), order):
        histogram = MagnitudeHistogram()
        for index in chosen:
            histogram.update(batches[index].numpy())
        bounds.append(histogram.bound("mse", 127))
    # A value on the edge of a bin may fall to either side when bins of two widths are merged.
    assert bounds[0] == pytest.approx(bounds[1], rel=0.02)


def test_a_tensor_of_zeros_has_a_range_and_one_that_is_not_finite_is_refused():
    histogram = MagnitudeHistogram()
    histogram.update(np.zeros(10, np.float32))
    assert histogram.bound("mse", 127) == 1
    for value in (float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="not finite"):
            histogram.update(np.array([1.0, value], np.float32))
