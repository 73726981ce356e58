"""Outlier channels behind a normalisation: the same function in float, a smaller error in int8."""

import numpy as np
import onnx
import pytest

from edgedistill.graphs.index import name_nodes
from edgedistill.graphs.run import run_onnx
from edgedistill.graphs.write import serialized
from edgedistill.quantize.onnx_file import quantize_onnx
from edgedistill.quantize.smoothing import smoothed
from tests.support.small_onnx import requests_for, text_model

RNG = np.random.default_rng(0)
CHANNELS = 32
NORM = "n = LayerNormalization<axis=-1>(x, g, b)"
PARTS = "m = ReduceMean<axes=[-1]>(x) c = Sub(x, m) q = Mul(c, c) v = ReduceMean<axes=[-1]>(q) d = Sqrt(v) h = Div(c, d) s = Mul(h, g) n = Add(s, b)"
HEAD = "(float[1, 6, 32] x) => (float[1, 6, 32] y)"
BODIES = {
    "layer norm": (17, f"{NORM} y = MatMul(n, w)"),
    "written out": (17, f"{PARTS} y = MatMul(n, w)"),
    "with a residual": (17, f"{NORM} p = MatMul(n, w) y = Add(p, n)"),
    "behind a reshape": (17, f"{NORM} r = Reshape(n, flat) p = Gemm<transB=1>(r, w) y = Reshape(p, whole)"),
}


def model_of(name: str) -> onnx.ModelProto:
    """Return a model whose normalisation has two channels that are 60 times as large as the others."""
    opset, body = BODIES[name]
    gains = RNG.uniform(0.5, 1, CHANNELS).astype(np.float32)
    gains[[3, 17]] = 60
    stored = {"g": gains, "b": RNG.normal(0, 0.1, CHANNELS).astype(np.float32)}
    stored["w"] = (RNG.normal(0, 1, (CHANNELS, CHANNELS)) / gains[:, None] ** 0.5).astype(np.float32)
    if "reshape" in name:
        stored |= {"flat": np.array([6, 32]), "whole": np.array([1, 6, 32]), "w": np.ascontiguousarray(stored["w"].T)}
    model = text_model(f"{HEAD} {{ {body} }}", opset, **stored)
    name_nodes(model.graph)
    return model


def error(model: onnx.ModelProto, wanted: np.ndarray, requests: dict) -> float:
    got = next(iter(run_onnx(serialized(model), requests).values()))
    return float(((got - wanted) ** 2).sum() / ((wanted - wanted.mean()) ** 2).sum())


@pytest.mark.parametrize("name", BODIES)
def test_the_function_stays_and_the_error_of_int8_falls(name):
    model = model_of(name)
    requests = requests_for(model, 32)
    (wanted,) = run_onnx(serialized(model), requests).values()
    changed, count = smoothed(model, requests)
    onnx.checker.check_model(changed, full_check=True)
    assert count == 1
    assert error(changed, wanted, requests) < 1e-10
    before, after = (error(quantize_onnx(one, requests)[0], wanted, requests) for one in (model, changed))
    assert after < before / 2


def test_what_dense_layers_do_not_read_stays_as_it_is():
    model = text_model(f"{HEAD} {{ {NORM} y = Relu(n) }}", 17, g=np.ones(32, np.float32), b=np.zeros(32, np.float32))
    changed, count = smoothed(model, requests_for(model))
    assert count == 0
    assert changed == model
