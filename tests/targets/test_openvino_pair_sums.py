"""Narrow weights, which OpenVINO's kit compiles where sums of 8-bit products overflow."""

import importlib.util
from pathlib import Path

import numpy as np
import openvino
import pair_sums
import pytest

from edgedistill.export.parity import compare_outputs
from edgedistill.graphs.write import serialized
from tests.support.families import case
from tests.support.jobs import TARGETS
from tests.support.small_onnx import text_model

SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}


def int8_weights(model: openvino.Model) -> list[np.ndarray]:
    constants = (node for node in model.get_ops() if node.get_type_name() == "Constant")
    return [
        node.get_data()
        for node in constants
        if node.get_output_element_type(0) == openvino.Type.i8 and len(node.get_output_shape(0)) > 1
    ]


@pytest.mark.slow
@pytest.mark.parametrize("activations", ["signed", "unsigned"])
def test_narrow_weights_answer_alike_on_every_processor(activations: str) -> None:
    made = case("signal", activations)
    model = openvino.Core().read_model(serialized(made.int8))
    largest = [int(np.abs(weight.astype(int)).max()) for weight in int8_weights(model)]
    assert pair_sums.narrow(model) == len(largest) - 1, "all but the layer of one input channel, which has no pairs"
    assert set(largest) == {127}
    compiled = openvino.Core().compile_model(model, "CPU", SETTINGS)
    got = np.stack([next(iter(compiled(request).values())) for request in made.requests["input"]])
    assert compare_outputs(made.expected, got).agreement >= 0.99


@pytest.mark.parametrize(("zero", "changed"), [(0, 1), (3, 0)])
def test_a_weight_with_a_zero_point_is_left_alone(zero: int, changed: int) -> None:
    weight = np.random.default_rng(0).integers(-127, 127, (16, 8)).astype(np.int8)
    model = openvino.Core().read_model(
        text_model(
            "(float[4, 16] x) => (float[4, 8] y) { w = DequantizeLinear(wq, ws, wz) y = MatMul(x, w) }",
            wq=weight, ws=np.float32(0.01), wz=np.int8(zero),
        ).SerializeToString()
    )  # fmt: skip
    assert pair_sums.narrow(model) == changed
    (kept,) = int8_weights(model)
    assert np.array_equal(kept, weight) == (changed == 0)
    x = np.random.default_rng(1).standard_normal((4, 16)).astype(np.float32)
    got = next(iter(openvino.Core().compile_model(model, "CPU", SETTINGS)(x).values()))
    np.testing.assert_allclose(got, x @ ((weight.astype(np.float32) - zero) * 0.01), atol=0.01 * 16)


def test_a_compiled_model_tells_that_its_weights_are_narrow(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("openvino_engine", TARGETS / "openvino" / "engine.py")
    assert spec is not None
    assert spec.loader is not None
    engine = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(engine)
    made = case("signal")
    for precision, model in (("fp32", made.float32), ("int8", made.int8)):
        folder = tmp_path / precision
        folder.mkdir()
        (folder / "model.onnx").write_bytes(serialized(model))
        engine.compile(folder / "model.onnx", folder, precision, 1)
        counts, remark = engine.load(folder / "model.xml", precision, 1).executed()
        assert counts
        assert (remark == pair_sums.REMARK) == (precision == "int8" and pair_sums.overflows())
