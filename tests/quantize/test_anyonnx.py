"""int8 for graphs of other exporters: written by hand here, and the families' float files."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgedistill.errors import ConfigError
from edgedistill.export.lint.report import lint
from edgedistill.export.parity import compare_outputs
from edgedistill.graphs.encodings import encode
from edgedistill.graphs.index import name_nodes
from edgedistill.graphs.run import run_onnx
from edgedistill.graphs.write import serialized
from edgedistill.quantize.onnx_file import quantize_onnx
from tests.support.families import EACH_FAMILY, case
from tests.support.kernels import kernels_of
from tests.support.small_onnx import requests_for, text_model

RNG = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray:
    return RNG.normal(0, 0.3, shape).astype(np.float32)


def quantized(model: onnx.ModelProto, skip: tuple[str, ...] = ()) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Quantize, and hold the result against the float model, the standard and the linter."""
    name_nodes(model.graph)
    requests = requests_for(model, 64)
    result, layers = quantize_onnx(model, requests, skip)
    onnx.checker.check_model(result, full_check=True)
    assert [finding.rule for finding in lint(result).findings if finding.severity == "error"] == []
    for encoding in ("s8-f32", "u8-i32"):
        encoded = encode(result, encoding)
        for (name, wanted), got in zip(
            run_onnx(serialized(model), requests).items(), run_onnx(serialized(encoded), requests).values(), strict=True
        ):
            error = ((got - wanted) ** 2).sum() / ((wanted - wanted.mean()) ** 2).sum()
            assert error < 0.02, (name, encoding)
    return result, layers


def kinds(model: onnx.ModelProto, name: str) -> list[str]:
    """Return the operators that make the inputs of a node, "stored" for what none makes."""
    producer = {output: node.op_type for node in model.graph.node for output in node.output}
    (node,) = (node for node in model.graph.node if node.name == name)
    return [producer.get(tensor, "stored") for tensor in node.input]


RESIDUAL = (
    "(float[1, 3, 8, 8] x) => (float[1, 4, 8, 8] y) {"
    " a = Conv<pads=[1, 1, 1, 1]>(x, w, b) r = Relu(a)"
    " c = Conv<pads=[1, 1, 1, 1]>(r, v) s = Add(c, r) t = Relu(s)"
    " y = Conv<pads=[1, 1, 1, 1]>(t, u) }"
)


def test_layers_and_residuals_read_and_write_through_roundings():
    model = text_model(RESIDUAL, 13, w=weights(4, 3, 3, 3), b=weights(4), v=weights(4, 4, 3, 3), u=weights(4, 4, 3, 3))
    result, layers = quantized(model)
    assert layers == {"a": "int8", "c": "int8", "y": "int8"}
    assert kinds(result, "c") == ["DequantizeLinear"] * 2
    assert kinds(result, "s") == ["DequantizeLinear"] * 2
    assert kinds(result, "r") == ["Conv"]  # nothing stands between a layer and its ReLU
    readers = [node.op_type for node in result.graph.node if {"r", "t", "c"} & set(node.input)]
    assert readers == ["QuantizeLinear"] * 3
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in result.graph.initializer}
    scale = {node.name: stored[node.input[1]] for node in result.graph.node if node.op_type == "DequantizeLinear"}
    (layer,) = (node for node in result.graph.node if node.name == "a")
    steps = stored[layer.input[2]] / (scale["x_rounded"] * scale["a_weight_rounded"])
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-2)  # the bias lies on the grid of its int32 form


@pytest.mark.parametrize("transposed", [0, 1])
def test_dense_layers_have_the_axis_that_engines_run(transposed):
    shape = (5, 8) if transposed else (8, 5)
    model = text_model(
        f"(float[1, 8] x) => (float[1, 3] y) {{ g = Gemm<transB={transposed}>(x, w, b) h = Relu(g) m = MatMul(h, v) y = Add(m, c) }}",
        13, w=weights(*shape), b=weights(5), v=weights(5, 3), c=weights(3),
    )  # fmt: skip
    result, layers = quantized(model)
    assert set(layers.values()) == {"int8"}
    axes = {
        node.name: next(entry.i for entry in node.attribute if entry.name == "axis")
        for node in result.graph.node if "weight_rounded" in node.name
    }  # fmt: skip
    assert axes == {"g_weight_rounded": 0, "m_weight_rounded": 1}
    (gemm,) = (node for node in result.graph.node if node.op_type == "Gemm")
    assert [entry.i for entry in gemm.attribute if entry.name == "transB"] == [1]


def test_what_only_moves_values_keeps_their_scale():
    model = text_model(
        "(float[1, 3, 8, 8] x) => (float[1, 4] y) { a = Conv(x, w) r = Relu(a) p = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(r)"
        " q = Pad(p, pads) c = Conv(q, v) f = Reshape(c, shape) y = MatMul(f, u) }", 13,
        w=weights(4, 3, 3, 3), v=weights(2, 4, 3, 3), u=weights(18, 4), shape=np.array([1, 18], np.int64),
        pads=np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
    )  # fmt: skip
    result, _ = quantized(model)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in result.graph.initializer}
    scale = {node.input[0]: stored[node.input[1]] for node in result.graph.node if node.op_type == "QuantizeLinear"}
    assert scale["r"] == scale["q"]
    assert scale["c"] == scale["f"]
    assert scale["x"] != scale["r"]


@pytest.mark.parametrize(
    ("attributes", "keeps"),
    [
        ("", True), ('<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">', True),
        ('<mode="linear">', False),
    ],
)  # fmt: skip
def test_enlarging_by_copies_keeps_the_scale_and_interpolation_does_not(attributes, keeps):
    model = text_model(
        "(float[1, 3, 6, 6] x) => (float[1, 2, 10, 10] y) { a = Conv(x, w) r = Relu(a)"
        f" u = Resize{attributes}(r, , , sizes) y = Conv(u, v) }}", 13,
        w=weights(4, 3, 3, 3), v=weights(2, 4, 1, 1), sizes=np.array([1, 4, 10, 10], np.int64),
    )  # fmt: skip
    result, _ = quantized(model)
    scale = {node.input[0]: node.input[1] for node in result.graph.node if node.op_type == "QuantizeLinear"}
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in result.graph.initializer}
    assert (stored[scale["r"]] == stored[scale["u"]]) == keeps


def test_a_weight_of_two_layers_and_a_dead_channel():
    shared = weights(3, 3, 1, 1)
    shared[1] = 0
    model = text_model(
        "(float[1, 3, 4, 4] x) => (float[1, 3, 4, 4] y) { a = Conv(x, w, b) y = Conv(a, w, b) }",
        13,
        w=shared,
        b=weights(3),
    )
    result, _ = quantized(model)
    assert all((numpy_helper.to_array(t) > 0).all() for t in result.graph.initializer if t.name.endswith("_scale"))


def test_skipped_layers_and_what_has_no_placement_stay_float():
    model = text_model(
        "(float[1, 3, 8, 8] x) => (float[1, 2, 10, 10] y) { a = Conv(x, w) c = Conv(a, v) t = ConvTranspose(c, u)"
        " i = Identity(k) d = Conv(t, i) y = ConvTranspose(d, z) }", 13,
        w=weights(4, 3, 3, 3), v=weights(4, 4, 1, 1), u=weights(4, 4, 3, 3), k=weights(4, 4, 1, 1), z=weights(4, 2, 3, 3),
    )  # fmt: skip
    result, layers = quantized(model, ("c",))
    assert layers["a"] == "int8"
    assert layers["c"] == "float: skipped"
    assert layers["d"] == "float: its weight is computed, not stored"
    assert layers["t"].startswith("float: TensorRT runs a quantized transposed convolution")
    assert kinds(result, "c")[1] == "stored"


def test_squeeze_excite_stays_float():
    model = text_model(
        "(float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y) { a = Conv(x, w) p = GlobalAveragePool(a) c = Conv(p, v, b) r = Relu(c)"
        " d = Conv(r, u) g = HardSigmoid(d) m = Mul(a, g) y = Conv(m, w) }", 13,
        w=weights(4, 4, 1, 1), v=weights(2, 4, 1, 1), b=weights(2), u=weights(4, 2, 1, 1),
    )  # fmt: skip
    _, layers = quantized(model)
    assert layers == {"a": "int8", "c": "float: squeeze-excite", "d": "float: squeeze-excite", "y": "int8"}


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        ("{ y = Relu(x) }", "no layer can be quantized: the model has no convolution or dense layer"),
        ("{ y = ConvTranspose(x, w) }", "no layer can be quantized: float: TensorRT"),
    ],
)
def test_a_model_without_int8_layers_is_refused(graph, words):
    model = text_model(f"(float[1, 3, 4, 4] x) => (float[1, n, h, k] y) {graph}", 13, w=weights(3, 3, 1, 1))
    name_nodes(model.graph)
    with pytest.raises(ConfigError, match=words):
        quantize_onnx(model, requests_for(model))


def test_an_unknown_layer_and_values_without_bounds_are_refused():
    model = text_model("(float[1, 3, 4, 4] x) => (float[1, 3, 4, 4] y) { y = Conv(x, w) }", 13, w=weights(3, 3, 1, 1))
    name_nodes(model.graph)
    with pytest.raises(ConfigError, match=r"no layer 'z' to keep in float.*'y'|no layer 'z'.*choose one of: y"):
        quantize_onnx(model, requests_for(model), ("z",))
    with pytest.raises(ConfigError, match="not finite"):
        quantize_onnx(model, {"x": np.full((1, 1, 3, 4, 4), np.inf, np.float32)})


@pytest.mark.slow
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_every_family_runs_in_integers_from_its_float_file(family, tmp_path):
    made = case(family)
    model = onnx.ModelProto()
    model.CopyFrom(made.float32)
    inputs = made.requests["input"]
    result, layers = quantize_onnx(model, {"input": inputs[:200]})
    ours = [form for form in made.prepared.layers.values() if "embedding" not in form]
    assert sorted(layers.values()).count("float: squeeze-excite") == ours.count("float: squeeze-excite")
    assert list(layers.values()).count("int8") >= ours.count("int8")  # torch's attention has two layers under one name
    assert len(set(layers.values()) - set(ours)) == 0
    expected = run_onnx(serialized(model), {"input": inputs[200:]}, optimise=True)["logits"]
    encoded = encode(result, "u8-i32")
    got = run_onnx(serialized(encoded), {"input": inputs[200:]}, optimise=True)["logits"]
    assert compare_outputs(expected, got).agreement >= 0.97
    kernels = kernels_of(encoded, tmp_path)
    assert kernels["QLinearConv"] + kernels["QGemm"] == list(layers.values()).count("int8")
    assert [finding.rule for finding in lint(result).findings if finding.severity == "error"] == []


EMBEDDING = "(int64[1, 6] i) => (float[1, 6, 8] y) { e = Gather(t, i) y = MatMul(e, w) }"


def embedding(rows: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    model = text_model(EMBEDDING, 17, t=weights(rows, 32) * np.logspace(-2, 0, 32, dtype=np.float32), w=weights(32, 8))
    name_nodes(model.graph)
    return model, {"i": RNG.integers(0, rows, (32, 1, 6))}


def test_a_large_table_is_stored_in_int8_and_only_its_rows_are_dequantized():
    model, requests = embedding(1000)
    result, layers = quantize_onnx(model, requests)
    assert layers == {"e": "int8", "y": "int8"}
    assert kinds(result, "e") == ["DequantizeLinear", "stored"]
    assert len(serialized(result)) < len(serialized(model)) / 3
    wanted = run_onnx(serialized(model), requests)["y"]
    for encoding in ("s8-f32", "u8-f32", "s8-i32", "u8-i32"):
        encoded = encode(result, encoding)
        onnx.checker.check_model(encoded, full_check=True)
        got = run_onnx(serialized(encoded), requests)["y"]
        assert ((got - wanted) ** 2).mean() < 1e-3 * wanted.var(), encoding
        # TensorRT reads Q/DQ around layers only, and folds the table to float.
        assert kinds(encoded, "e")[0] == ("DequantizeLinear" if encoding == "s8-f32" else "stored")
    assert [finding.rule for finding in lint(encode(result, "u8-i32")).findings if finding.severity == "error"] == []


def test_a_small_table_and_a_skipped_one_stay_in_float():
    model, requests = embedding(100)
    assert quantize_onnx(model, requests)[1] == {"y": "int8"}
    model, requests = embedding(1000)
    assert quantize_onnx(model, requests, skip=("e",))[1] == {"e": "float: skipped", "y": "int8"}
