"""Layers that are left in float stay in float in ONNX Runtime, which would round weights between DequantizeLinear and QuantizeLinear."""

import numpy as np
import onnxruntime
import pytest

from edgedistill.graphs.encodings import encode
from edgedistill.graphs.run import run_onnx
from edgedistill.graphs.write import serialized
from tests.support.small_onnx import requests_for, text_model

LAYERS = {
    "Conv": ("float[1, 4, 6, 6]", "float[1, 8, 6, 6]", (8, 4, 1, 1), "Conv(d, w, b)"),
    "Conv without bias": ("float[1, 4, 6, 6]", "float[1, 8, 6, 6]", (8, 4, 1, 1), "Conv(d, w)"),
    "ConvTranspose": ("float[1, 4, 6, 6]", "float[1, 8, 6, 6]", (4, 8, 1, 1), "ConvTranspose(d, w)"),
    "Gemm": ("float[3, 4]", "float[3, 8]", (4, 8), "Gemm(d, w, b)"),
    "Gemm, transposed": ("float[3, 4]", "float[3, 8]", (8, 4), "Gemm<transB = 1>(d, w)"),
}


def uneven(shape: tuple[int, ...]) -> np.ndarray:
    """Return weights of which most are far below one step of an int8 scale for the whole tensor."""
    numbers = np.random.default_rng(0)
    return (numbers.standard_normal(shape) * 10.0 ** numbers.uniform(-4, 1, shape)).astype(np.float32)


@pytest.mark.parametrize("encoding", ["u8-i32", "s8-i32"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_float_layer_between_roundings_stays_in_float(name: str, encoding: str) -> None:
    given, made, shape, layer = LAYERS[name]
    stored = {"w": uneven(shape), "s": np.float32(0.02), "t": np.float32(0.1), "z": np.int8(0)}
    if ", b)" in layer:
        stored["b"] = np.array([0, 1e-6, -3, 2, 0.5, -0.25, 100, -1e-3], np.float32)
    model = text_model(
        f"({given} x) => ({made} y) {{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) f = {layer} "
        "r = Relu(f) p = QuantizeLinear(r, t, z) y = DequantizeLinear(p, t, z) }",
        **stored,
    )
    model.graph.node[2].name = "layer"
    encoded = encode(model, encoding)
    requests = requests_for(model)
    expected = run_onnx(serialized(model), requests)["y"]
    assert np.ptp(expected) > 5
    np.testing.assert_array_equal(run_onnx(serialized(encoded), requests)["y"], expected)
    np.testing.assert_allclose(run_onnx(serialized(encoded), requests, optimise=True)["y"], expected, atol=0.1 + 1e-6)
    assert np.mean(run_onnx(serialized(encoded), requests, optimise=True)["y"] == expected) > 0.99


def test_without_that_onnx_runtime_rounds_the_weights() -> None:
    """The reason for it: where this fails, ONNX Runtime has changed, and the encoding needs no such bias."""
    given, made, shape, layer = LAYERS["Conv without bias"]
    model = text_model(
        f"({given} x) => ({made} y) {{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) f = {layer} "
        "p = QuantizeLinear(f, s, z) y = DequantizeLinear(p, s, z) }",
        w=uneven(shape), s=np.float32(0.02), z=np.uint8(128),
    )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    requests = requests_for(model)
    got = np.stack([session.run(None, {"x": request})[0] for request in requests["x"]])
    alike = np.mean(got == run_onnx(serialized(model), requests)["y"])
    if alike == 1 and tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 32):
        pytest.skip(f"ONNX Runtime {onnxruntime.__version__} does not round these weights; 1.32 does")
    assert alike < 0.9
