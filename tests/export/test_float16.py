"""Float16: what is converted answers as before, and what float16 does not hold stays in float32, and is named."""

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from edgedistill.config.data import MelConfig
from edgedistill.data.preprocess import Preprocess
from edgedistill.data.settings import Normalization
from edgedistill.errors import ConfigError
from edgedistill.export.onnx_export import export_onnx
from edgedistill.export.parity import compare_outputs, require_parity
from edgedistill.graphs.float16 import HEADROOM, LARGEST, emulated, float32_nodes, to_float16
from edgedistill.graphs.opset import to_opset
from edgedistill.graphs.run import run_onnx
from edgedistill.graphs.write import serialized
from edgedistill.records.stages import InputRecord
from tests.support.families import EACH_FAMILY, case
from tests.support.small_onnx import requests_for, text_model


def types_of(model: onnx.ModelProto) -> dict:
    """Return the element type of every tensor, by name."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    known = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    return known | {tensor.name: tensor.data_type for tensor in graph.initializer}


def converted(model: onnx.ModelProto, requests: dict) -> tuple[tuple[str, ...], onnx.ModelProto]:
    kept = float32_nodes(model, requests)
    result = to_float16(model, kept)
    for before, after in zip(
        (*model.graph.input, *model.graph.output), (*result.graph.input, *result.graph.output), strict=True
    ):
        assert (before.name, before.type.tensor_type.elem_type) == (after.name, after.type.tensor_type.elem_type)
    return kept, result


def answers(model: onnx.ModelProto, requests: dict) -> np.ndarray:
    return next(iter(run_onnx(model.SerializeToString(), requests).values()))


def halved(model: onnx.ModelProto, requests: dict) -> np.ndarray:
    """Answer as an engine does that rounds every result to float16."""
    assert answers(model, requests).dtype == np.float32  # ONNX Runtime takes the file
    return answers(emulated(model), requests)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [17, 18, 20])
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_every_family_is_whole_in_float16(family, opset):
    made = case(family)
    requests = {"input": made.requests["input"][:200]}
    model = to_opset(made.float32, opset, requests)
    kept, half = converted(model, requests)
    assert kept == ()
    assert TensorProto.FLOAT not in {tensor.data_type for tensor in half.graph.initializer}
    (first, last) = (kind for kind in (types_of(half)[half.graph.input[0].name], types_of(half)["logits"]))
    assert (first, last) == (types_of(model)[model.graph.input[0].name], TensorProto.FLOAT)
    expected = answers(model, requests)
    require_parity(compare_outputs(expected, halved(half, requests)), expected, "fp16", family)
    # At most a cast at each end: uint8 images and tokens are cast in the model anyway.
    casts = (Counter(node.op_type for node in graph.node)["Cast"] for graph in (half.graph, model.graph))
    assert next(casts) - next(casts) <= 2


@pytest.mark.slow
def test_the_file_is_half_as_large():
    made = case("resnet")
    half = to_float16(made.float32)
    weights = [
        numpy_helper.to_array(t).nbytes for m in (half, made.float32) for t in m.graph.initializer if t.data_type != 7
    ]
    assert sum(weights[: len(weights) // 2]) * 2 == sum(weights[len(weights) // 2 :])


NORM = (
    "(float[1, 8] x) => (float[1, 8] y) { s = Mul(x, hundred) q = Mul(s, s) m = ReduceMean<axes=[1]>(q)"
    " r = Sqrt(m) n = Div(s, r) y = Relu(n) }"
)


def test_a_part_that_overflows_stays_in_float32_from_end_to_end():
    """A square of 1e4 passes through no float16 on its way to the square root."""
    model = text_model(NORM, 17, hundred=np.float32(100))
    requests = requests_for(model, size=100)
    kept, half = converted(model, requests)
    assert kept == ("s", "q", "m", "r", "n")  # s is 100 * 100 * 3, of which float16 holds no quarter
    np.testing.assert_allclose(halved(half, requests), answers(model, requests), atol=2e-3)
    assert not halved(to_float16(model), requests).any()  # everything divided by infinity


def test_onnx_runtime_alone_does_not_see_an_overflow():
    """Why float16 models are judged by `emulated`: should this fail one day, it can go."""
    model = text_model(NORM, 17, hundred=np.float32(100))
    requests = requests_for(model, size=100)
    np.testing.assert_allclose(answers(to_float16(model), requests), answers(model, requests), atol=2e-3)


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-6, 1e8), st.integers(0, 2**32 - 1))
def test_values_of_every_size_survive(size, seed):
    model = text_model(NORM, 17, hundred=np.float32(100))
    requests = requests_for(model, size=size, seed=seed)
    _, half = converted(model, requests)
    np.testing.assert_allclose(halved(half, requests), answers(model, requests), atol=8e-3)


def test_values_that_may_double_stay_in_float32():
    model = text_model("(float[1, 4] x) => (float[1, 4] y) { z = Add(x, x) y = Relu(z) }")
    just = LARGEST / HEADROOM / 2
    assert float32_nodes(model, {"x": np.full((1, 1, 4), just * 0.99, np.float32)}) == ()
    assert float32_nodes(model, {"x": np.full((1, 1, 4), just * 1.01, np.float32)}) == ("z", "y")


@pytest.mark.parametrize(
    ("constant", "kept"), [(1e-5, ()), (1e-7, ("z",)), (1e-12, ("z",)), (1e5, ("z", "y")), (6e4, ("z", "y"))]
)
def test_a_constant_that_float16_lacks_keeps_its_reader_in_float32(constant, kept):
    model = text_model("(float[1, 4] x) => (float[1, 4] y) { z = Add(x, c) y = Sigmoid(z) }", c=np.float32(constant))
    requests = requests_for(model)
    found, half = converted(model, requests)
    assert found == kept
    np.testing.assert_allclose(halved(half, requests), answers(model, requests), atol=2e-3)


def test_a_constant_that_both_read_is_rounded_for_one_only():
    model = text_model(
        "(float[1, 4] x) => (float[1, 4] y) { a = Mul(x, c) b = Mul(a, big) d = Div(b, big) e = Mul(d, c) y = Add(e, a) }",
        c=np.float32(1 / 3), big=np.float32(1e6),
    )  # fmt: skip
    requests = requests_for(model)
    kept, half = converted(model, requests)
    assert kept == ("b", "d")
    half = to_float16(model, ("b", "d", "e"))
    kinds = [tensor.data_type for tensor in half.graph.initializer if numpy_helper.to_array(tensor) < 1]
    assert sorted(kinds) == [TensorProto.FLOAT, TensorProto.FLOAT16]
    np.testing.assert_allclose(halved(half, requests), answers(model, requests), atol=2e-3)


def test_nodes_without_names_are_told_apart():
    model = text_model(NORM, 17, hundred=np.float32(100))
    assert {node.name for node in model.graph.node} == {""}
    assert all(float32_nodes(model, requests_for(model, size=100)))


def test_resize_keeps_its_scales_and_layer_norm_its_epsilon():
    model = text_model(
        "(float[1, 2, 4, 4] x) => (float[1, 2, 8, 8] y)"
        ' { z = LayerNormalization<axis=-1, epsilon=0.0000001>(x, g, h) y = Resize<mode="linear">(z,,scales) }', 17,
        g=np.full(4, 1.5, np.float32), h=np.zeros(4, np.float32), scales=np.array([1, 1, 2, 2], np.float32),
    )  # fmt: skip
    requests = requests_for(model)
    kept, half = converted(model, requests)
    assert kept == ()
    (resize,) = (node for node in half.graph.node if node.op_type == "Resize")
    assert types_of(half)[resize.input[2]] == TensorProto.FLOAT
    assert types_of(half)[resize.input[0]] == TensorProto.FLOAT16
    np.testing.assert_allclose(halved(half, requests), answers(model, requests), atol=5e-3)


def test_casts_in_the_model_go_to_float16():
    model = text_model(
        "(float[1, 4] x) => (float[1, 4] y) { i = Cast<to=7>(x) f = Cast<to=1>(i) y = Mul(f, c) }", c=np.float32(0.5)
    )
    requests = requests_for(model, size=10)
    _, half = converted(model, requests)
    assert types_of(half)["f"] == TensorProto.FLOAT16
    np.testing.assert_array_equal(halved(half, requests), answers(model, requests))


def test_an_operator_without_float16_stays_in_float32():
    """QuantizeLinear takes float16 from opset 19 on."""
    made = case("signal")
    requests = {"input": made.requests["input"][:20]}
    kinds = {node.name: node.op_type for node in made.int8.graph.node}
    kept = float32_nodes(made.int8, requests)
    assert {name for name, kind in kinds.items() if kind in {"QuantizeLinear", "DequantizeLinear"}} <= set(kept)
    assert float32_nodes(to_opset(made.int8, 19, requests), requests) == ()


def test_control_flow_is_refused():
    model = text_model(
        "(float[1, 4] x) => (float[1, 4] y)"
        " { y = If<then_branch = g () => (float[1, 4] a) { a = Relu(x) },"
        " else_branch = h () => (float[1, 4] b) { b = Neg(x) }>(c) }",
        19, c=np.array(True),
    )  # fmt: skip
    with pytest.raises(
        ConfigError, match=r"If 'y' contains a subgraph, which cannot be converted to float16; use fp32"
    ):
        float32_nodes(model, requests_for(model))


@pytest.mark.slow
def test_the_same_model_gives_the_same_bytes():
    model = case("mobilenet_v3").float32
    assert serialized(to_float16(model)) == serialized(to_float16(model))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_emulation_rounds_as_numpy_does(seed):
    model = to_float16(
        text_model(
            "(float[1, 64] x) => (float[1, 64] y) { a = Mul(x, x) b = Add(a, c) y = Mul(b, a) }", c=np.float32(3)
        )
    )
    requests = requests_for(model, size=5, seed=seed)
    with np.errstate(over="ignore"):  # numpy's vector code warns of lanes that it does not use
        square = requests["x"].astype(np.float16) ** 2
        expected = (square + np.float16(3)) * square
    np.testing.assert_array_equal(halved(model, requests), expected.astype(np.float32))


def test_the_emulation_takes_float16_inputs_and_shows_float16_outputs_as_float32():
    model = text_model(
        "(float16[1, 64] x) => (float16[1, 64] y, float16[1, 64] a) { a = Mul(x, x) b = Add(a, c) y = Mul(b, a) }",
        c=np.float16(3),
    )
    x = requests_for(model, size=5)["x"].astype(np.float16)
    with np.errstate(over="ignore"):
        square = x**2
        expected = {"y": (square + np.float16(3)) * square, "a": square}
    got = run_onnx(emulated(model).SerializeToString(), {"x": x})
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name], values.astype(np.float32))


def test_speech_from_its_16_bits_to_log_mel_is_cut_where_float16_ends():
    """Samples of 16 bits do not fit, and the floor under the logarithm would be rounded."""
    waveform = InputRecord(kind="signal", dtype="int16", shape=(2048,))
    prepare = Preprocess(waveform, Normalization(), MelConfig(rate=8000, high_hz=3800))
    time = np.arange(2048) / 8000
    loudness = np.array([0, 1e-4, 1e-2, 0.1, 0.9])[:, None]
    speech = (32767 * loudness * np.sin(2 * np.pi * 700 * time + 3000 * time**2)).astype(np.int16)
    model = export_onnx(prepare, (torch.from_numpy(speech[:1]),), 17)
    requests = {"input": speech[:, None]}
    kept, half = converted(model, requests)
    kinds = {node.name: node.op_type for node in model.graph.node}
    assert {kinds[name] for name in kept} == {"Cast", "Unsqueeze", "Transpose", "Div", "Add"}
    # Lines without sound, at -13.8, carry the rounding of loud ones: whether a model minds is for its own answers to say.
    expected, got = answers(model, requests), halved(half, requests)
    assert np.abs(got - expected)[expected > -7].max() < 0.1
