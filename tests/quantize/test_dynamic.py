"""Dynamic activations: dense layers in integers, with a scale that each inference finds."""

import re

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnxruntime.quantization import QuantType, quantize_dynamic

from edgedistill.cli.main import cli
from edgedistill.export.lint.report import lint
from edgedistill.graphs.dynamic import with_dynamic_inputs
from edgedistill.graphs.encodings import encode
from edgedistill.graphs.index import name_nodes
from edgedistill.graphs.run import run_onnx
from edgedistill.graphs.write import serialized
from edgedistill.quantize.onnx_file import quantize_onnx
from tests.support.kernels import kernels_of
from tests.support.small_onnx import requests_for, text_model

RNG = np.random.default_rng(0)
BODY = (
    "(float[1, 16, 32] x) => (float[1, 16, 8] y) { h = MatMul(x, w) a = Add(h, b) g = Sigmoid(a) s = Mul(a, g)"
    " l = LayerNormalization(s, n, b) k = MatMul(l, v) y = Add(k, c) }"
)


def model() -> onnx.ModelProto:
    shapes = {"w": (32, 64), "b": (64,), "n": (64,), "v": (64, 8), "c": (8,)}
    made = text_model(
        BODY, 17, **{name: RNG.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    )
    name_nodes(made.graph)
    return made


def error(candidate: bytes, wanted: np.ndarray, requests: dict[str, np.ndarray]) -> float:
    (got,) = run_onnx(candidate, requests).values()
    return float(((got - wanted) ** 2).mean() / wanted.var())


def test_dense_layers_run_as_one_integer_kernel_and_are_as_exact_as_those_of_onnx_runtime(tmp_path):
    source = model()
    calibration, requests = requests_for(source, 8), requests_for(source, 8, size=4.0, seed=1)
    (wanted,) = run_onnx(serialized(source), requests).values()
    static, _ = quantize_onnx(source, calibration)
    layers = with_dynamic_inputs(static)[1]
    assert layers == 2
    made = encode(static, "dyn-i32")
    onnx.checker.check_model(made, full_check=True)
    kinds = {node.op_type for node in made.graph.node}
    assert kinds.isdisjoint({"QuantizeLinear", "DequantizeLinear", "Gemm", "MatMul"})
    onnx.save(source, str(tmp_path / "float.onnx"))
    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "peer.onnx", per_channel=True, weight_type=QuantType.QInt8)
    peer = error((tmp_path / "peer.onnx").read_bytes(), wanted, requests)
    assert error(serialized(made), wanted, requests) <= 1.01 * peer
    # The inputs are four times as large as those of the calibration: static ranges clip them.
    assert error(serialized(encode(static, "u8-i32")), wanted, requests) > 4 * peer
    fused = kernels_of(made, tmp_path)
    assert fused["DynamicQuantizeMatMul"] + fused["MatMulIntegerToFloat"] == layers


def test_convolutions_keep_their_static_scales():
    stored = {"w": RNG.normal(0, 0.3, (4, 3, 3, 3)), "v": RNG.normal(0, 0.3, (16, 5))}
    graph = "(float[1, 3, 4, 4] x) => (float[1, 5] y) { c = Conv<pads=[0,0,0,0]>(x, w) r = Relu(c) f = Flatten(r) y = MatMul(f, v) }"
    source = text_model(graph, 17, **{name: value.astype(np.float32) for name, value in stored.items()})
    name_nodes(source.graph)
    requests = requests_for(source, 16)
    encoded = encode(quantize_onnx(source, requests)[0], "dyn-i32")
    kinds = [node.op_type for node in encoded.graph.node]
    assert (kinds.count("MatMulInteger"), kinds.count("Conv")) == (1, 1)
    assert kinds.count("QuantizeLinear") >= 1
    assert [finding.rule for finding in lint(encoded).findings if finding.severity == "error"] == []
    assert error(serialized(encoded), run_onnx(serialized(source), requests)["y"], requests) < 0.01


def test_only_weights_are_int8_and_no_activation_is_rounded():
    source = model()
    calibration, requests = requests_for(source, 8), requests_for(source, 8, size=4.0, seed=1)
    (wanted,) = run_onnx(serialized(source), requests).values()
    static, _ = quantize_onnx(source, calibration)
    made = encode(static, "w8-f32")
    onnx.checker.check_model(made, full_check=True)
    kinds = [node.op_type for node in made.graph.node]
    assert (kinds.count("QuantizeLinear"), kinds.count("DequantizeLinear"), kinds.count("MatMul")) == (0, 2, 2)
    assert error(serialized(made), wanted, requests) < error(serialized(encode(static, "dyn-i32")), wanted, requests)


@pytest.fixture
def files(tmp_path):
    source = model()
    onnx.save(source, str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "data.npz", x=requests_for(source, 16)["x"])
    return tmp_path


def test_the_command_writes_them_for_onnx_runtime_and_refuses_tensorrt(files):
    def quantize(kit):
        words = [
            "quantize",
            "m.onnx",
            "--data",
            "data.npz",
            "--target",
            kit,
            "--activations",
            "dynamic",
            "--no-ranking",
            "-o",
            f"{kit}.onnx",
        ]
        return CliRunner().invoke(
            cli, [str(files / word) if word.endswith((".onnx", ".npz")) else word for word in words]
        )

    done = quantize("ort")
    assert done.exit_code == 0, done.output + str(done.exception)
    assert "2 dense layers choose the scale of their input in each inference" in done.output
    assert "int8: dynamic inputs of dense layers (as set); other layers: unsigned activations" in done.output
    done = quantize("tensorrt")
    assert "DynamicQuantizeLinear is not supported" in str(done.exception)
    assert not (files / "tensorrt.onnx").exists()


TEXTS = (
    "(int64[1, T] ids) => (float[1, 8] y) { e = Gather(t, ids) l = LayerNormalization(e, n, b) k = MatMul(l, v) a = Add(k, c)"
    " y = ReduceMean<axes=[1], keepdims=0>(a) }"
)


@pytest.fixture
def texts(tmp_path):
    shapes = {"t": (50, 64), "b": (64,), "n": (64,), "v": (64, 8), "c": (8,)}
    source = text_model(
        TEXTS, 17, **{name: RNG.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    )
    onnx.save(source, str(tmp_path / "m.onnx"))
    lengths = np.arange(12) % 5 + 2
    ids = np.where(np.arange(6) < lengths[:, None], RNG.integers(1, 50, (12, 6)), 0)
    np.savez(tmp_path / "data.npz", ids=ids, lengths=lengths)
    return tmp_path


def quantized(folder, *words):
    given = ["m.onnx", "--data", "data.npz", "--no-ranking", "-o", "out.onnx", *words]
    paths = [str(folder / word) if word.endswith((".onnx", ".npz")) else word for word in given]
    done = CliRunner().invoke(cli, ["quantize", *paths])
    assert done.exit_code == 0, done.output + str(done.exception)
    assert "samples keep their own lengths" in done.output
    made = onnx.load(folder / "out.onnx")
    for length in (1, 9):
        requests = {"ids": np.full((1, 1, length), 7)}
        wanted, got = (run_onnx(folder / name, requests)["y"] for name in ("m.onnx", "out.onnx"))
        np.testing.assert_allclose(got, wanted, atol=0.1)
    return done.output, {node.op_type for node in made.graph.node}


def test_samples_of_several_lengths_leave_the_length_open_and_float_activations_round_weights_alone(texts):
    _, kinds = quantized(texts, "--target", "openvino", "--activations", "float")
    assert ("QuantizeLinear" in kinds, "DequantizeLinear" in kinds) == (False, True)


def test_a_dry_run_says_that_forms_will_be_timed(texts):
    given = ["quantize", str(texts / "m.onnx"), "--data", str(texts / "data.npz"), "--target", "ort", "--dry-run"]
    assert "the forms of the transformer will be timed" in CliRunner().invoke(cli, given).output
    assert "will be timed" not in CliRunner().invoke(cli, [*given, "--activations", "dynamic"]).output


@pytest.mark.slow
def test_the_fastest_form_of_a_transformer_is_measured_unless_one_is_chosen(texts):
    output, kinds = quantized(texts, "--target", "ort")
    for form in ("static", "dynamic"):
        assert re.search(rf"ort: int8, {form}, takes [0-9.]+ .*times at 6 tokens", output)
    assert ("DynamicQuantizeLinear" in kinds) != ("QuantizeLinear" in kinds)
