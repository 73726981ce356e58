"""Repairs are exact: the repaired model answers bit for bit as the file, computed node by node, does."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper

from edgedistill.export.lint.fix import fix
from edgedistill.export.lint.report import limits_of, lint
from edgedistill.graphs.encodings import encode
from edgedistill.graphs.run import run_onnx
from tests.support.lint_models import Plant, clean, kit
from tests.support.plants import activation_type, float_weight, missing_zero_point, scale
from tests.support.small_onnx import text_model

F = np.float32
OLD = kit("tensorrt").model_copy(update={"opset": 19, "form": ()})
TENSORRT = limits_of(OLD, "x86_64")


@pytest.fixture(scope="module")
def requests():
    return {"input": np.random.default_rng(0).normal(0, 2, (8, 1, 3, 8, 8)).astype(F)}


def answers(model: onnx.ModelProto, requests: dict) -> np.ndarray:
    (outputs,) = run_onnx(model.SerializeToString(), requests).values()
    return outputs


def planted(*plants) -> onnx.ModelProto:
    model = clean()
    for plant in plants:
        plant(Plant(model))
    return model


@pytest.mark.parametrize("plant", [float_weight, missing_zero_point, scale(0.0)])
def test_a_planted_fault_is_repaired_exactly(plant, requests):
    broken = planted(plant)
    fixed = fix(broken)
    assert len(fixed.changes) == 1
    assert lint(fixed.model, OLD, "x86_64").findings == ()
    np.testing.assert_array_equal(answers(fixed.model, requests), answers(broken, requests))


@pytest.mark.parametrize("encoding", ["s8-i32", "u8-i32"])
def test_another_encoding_of_ours_becomes_tensorrts_exactly(encoding, requests):
    other = encode(clean(), encoding)
    fixed = fix(other, TENSORRT)
    assert lint(fixed.model, OLD, "x86_64").findings == ()
    np.testing.assert_array_equal(answers(fixed.model, requests), answers(other, requests))


@pytest.mark.parametrize(("step", "repaired"), [(1e-5, True), (1.0, False)])
def test_large_int32_biases_with_float16_scales_are_kept_or_repaired_exactly(step, repaired, requests):
    """float16 ends at 65,504: an integer can be larger than that where its product with the scale is not."""
    rng, half = np.random.default_rng(0), np.float16
    model = text_model(
        "(float16[1, 3, 8, 8] input) => (float16[1, 4, 6, 6] y) { q = QuantizeLinear(input, s, z) d = DequantizeLinear(q, s, z)"
        " v = DequantizeLinear<axis = 0>(w, ws, wz) c = DequantizeLinear<axis = 0>(b, bs, bz) y = Conv(d, v, c) }", 19,
        s=half(0.05), z=np.int8(0), w=rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8), ws=np.full(4, 2e-4, half),
        wz=np.zeros(4, np.int8), b=np.int32([200_000, -170_001, 3, 65_505]), bs=np.full(4, step, half), bz=np.zeros(4, np.int32),
    )  # fmt: skip
    fixed = fix(model, TENSORRT)
    assert fixed.changes == (("y: bias of 4 int32 stored as floats",) if repaired else ())
    inputs = {"input": requests["input"].astype(half)}
    np.testing.assert_array_equal(answers(fixed.model, inputs), answers(model, inputs))


def test_a_dead_channel_keeps_its_zeros_whatever_integers_it_stored(requests):
    broken = planted(scale(0.0))
    weight = Plant(broken).weight()
    assert Plant(broken).value(weight.input[0])[3].any()
    fixed = fix(broken).model
    weight = Plant(fixed).weight()
    assert Plant(fixed).value(weight.input[1])[3] == 1
    assert not Plant(fixed).value(weight.input[0])[3].any()
    np.testing.assert_array_equal(answers(fixed, requests), answers(broken, requests))


def test_what_is_not_exact_is_left_alone():
    for broken in (planted(activation_type), planted(scale(-0.01)), planted(scale(float("nan")))):
        fixed = fix(broken, TENSORRT)
        assert fixed.changes == ()
        assert lint(fixed.model, OLD, "x86_64") == lint(broken, OLD, "x86_64")
    ort = limits_of(kit("ort"), "x86_64")
    assert fix(clean(), ort).changes == ()  # float biases are not rounded, int8 does not become uint8


def test_unsigned_integers_that_something_else_computes_with_stay_unsigned():
    model = encode(clean(), "u8-i32")
    plant = Plant(model)
    integers = plant.node("QuantizeLinear").output[0]
    plant.graph.node.append(helper.make_node("Cast", [integers], ["seen"], to=TensorProto.FLOAT, name="seen"))
    plant.graph.output.append(helper.make_tensor_value_info("seen", TensorProto.FLOAT, None))
    changes = fix(model, TENSORRT).changes
    assert not any("roundings" in change for change in changes)


def test_a_newer_opset_is_converted_where_it_answers_the_same(requests):
    newer = clean(21)
    fixed = fix(newer, TENSORRT)
    assert fixed.changes == ("opset 21 converted to 19, with the same answers",)
    assert lint(fixed.model, OLD, "x86_64").findings == ()
    np.testing.assert_allclose(answers(fixed.model, requests), answers(newer, requests), atol=1e-6)


def test_an_opset_that_cannot_be_lowered_is_left_with_the_reason():
    value = helper.make_tensor_value_info
    node = helper.make_node("RMSNormalization", ["x", "scale"], ["y"], name="norm")
    shape = [1, 4]
    graph = helper.make_graph(
        [node], "new", [value("x", TensorProto.FLOAT, shape)], [value("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.ones(4, F), "scale")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    fixed = fix(model, TENSORRT)
    assert fixed.changes == ()
    assert "RMSNormalization" in fixed.inexact[0]
    assert [finding.rule for finding in lint(fixed.model, OLD, "x86_64").findings] == ["opset"]


def test_repairs_leave_the_model_as_it_is():
    broken = planted(float_weight, scale(0.0))
    before = broken.SerializeToString(deterministic=True)
    fix(broken, TENSORRT)
    assert broken.SerializeToString(deterministic=True) == before


def test_metadata_survives_a_repair():
    broken = planted(float_weight)
    helper.set_model_props(broken, {"labels": "cat,dog"})
    assert {entry.key: entry.value for entry in fix(broken).model.metadata_props} == {"labels": "cat,dog"}


floats = st.floats(-1000, 1000, width=32)


@settings(max_examples=60, deadline=None)
@given(
    weight=arrays(F, (3, 4), elements=floats),
    scales=arrays(F, (3,), elements=st.floats(F(1e-6), 100, width=32)),
    zero=st.integers(0, 255),
    signed=st.booleans(),
    axis=st.sampled_from([0, -2]),
)
def test_stored_weights_are_the_integers_that_quantizelinear_makes(weight, scales, zero, signed, axis):
    kind = np.int8 if signed else np.uint8
    zeros = np.full(3, zero - 128 if signed else zero, kind)
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "s", "z"], ["q"], axis=axis),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], axis=axis),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in (("w", weight), ("s", scales), ("z", zeros))]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, [3, 3])], [value("y", TensorProto.FLOAT, [3, 4])], tensors
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    fixed = fix(model)
    assert "QuantizeLinear" not in {node.op_type for node in fixed.model.graph.node}
    identity = {"x": np.eye(3, dtype=F)[None]}
    np.testing.assert_array_equal(answers(fixed.model, identity), answers(model, identity))
