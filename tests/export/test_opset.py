"""Other opsets: exact, or refused by the operator's name."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgedistill.errors import ConfigError
from edgedistill.graphs.opset import _require_same, opset_of, to_opset
from edgedistill.graphs.run import run_onnx
from edgedistill.graphs.write import serialized
from tests.support.families import EACH_FAMILY, case
from tests.support.small_onnx import requests_for, text_model

AXES = np.array([2, 3], np.int64)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_every_family_answers_to_the_bit_in_opset_17(family, precision):
    model = getattr(case(family), precision)
    requests = {"input": case(family).requests["input"][:100]}
    older = to_opset(model, 17, requests)
    assert (opset_of(older), older.ir_version) == (17, 8)
    expected, got = (run_onnx(serialized(each), requests)["logits"] for each in (model, older))
    np.testing.assert_array_equal(got, expected)


def lowered(model, opset=17):
    requests = requests_for(model)
    older = to_opset(model, opset, requests)
    for name, values in run_onnx(model.SerializeToString(), requests).items():
        np.testing.assert_array_equal(run_onnx(older.SerializeToString(), requests)[name], values)
    return older


def attributes(model) -> dict:
    return {entry.name: onnx.helper.get_attribute_value(entry) for entry in model.graph.node[0].attribute}


def test_the_axes_of_a_reduction_become_an_attribute():
    model = text_model(
        "(float[1, 2, 3, 4] x) => (float[1, 2, 1, 1] y) { y = ReduceMean<noop_with_empty_axes=0>(x, axes) }", axes=AXES
    )
    older = lowered(model)
    assert attributes(older) == {"axes": [2, 3]}
    assert not older.graph.initializer


def test_a_reduction_of_everything_stays_one():
    lowered(text_model("(float[1, 2, 3, 4] x) => (float[1, 1, 1, 1] y) { y = ReduceMax(x) }"))


def test_computed_axes_are_refused():
    model = text_model(
        "(float[1, 2, 3, 4] x) => (float[1, 2, 1, 1] y) { a = Identity(axes) y = ReduceMean(x, a) }", axes=AXES
    )
    with pytest.raises(ConfigError, match=r"opset 17: ReduceMean 'y' .* takes 1 inputs there, not 2"):
        to_opset(model, 17, requests_for(model))


@pytest.mark.parametrize(("size", "parts"), [(6, None), (7, [3, 3, 1])])
def test_equal_parts_go_without_saying_and_unequal_ones_are_written(size, parts):
    model = text_model(
        f"(float[1, {size}] x) => (float[1, n] a, float[1, n] b, float[1, m] c)"
        " { a, b, c = Split<axis=1, num_outputs=3>(x) }"
    )
    older = lowered(model)
    assert "num_outputs" not in attributes(older)
    assert [numpy_helper.to_array(t).tolist() for t in older.graph.initializer] == ([parts] if parts else [])


def test_padding_and_a_reshape_without_zeros_are_the_same():
    model = text_model(
        "(float[1, 2, 3] x) => (float[1, 10] y) { p = Pad(x, pads) y = Reshape<allowzero=1>(p, shape) }",
        pads=np.array([0, 0, 0, 0, 0, 2], np.int64), shape=np.array([1, -1], np.int64),
    )  # fmt: skip
    lowered(model)
    assert "allowzero" not in attributes(lowered(model, 13))


def test_options_at_their_defaults_are_dropped_and_others_refused():
    text = "(float[1, 1, 4, 4] x) => (float[1, 1, 2, 2] y) {{ y = Resize<mode='linear', antialias={}>(x,,,sizes) }}"
    sizes = np.array([1, 1, 2, 2], np.int64)
    assert "antialias" not in attributes(lowered(text_model(text.format(0).replace("'", '"'), sizes=sizes)))
    model = text_model(text.format(1).replace("'", '"'), sizes=sizes)
    with pytest.raises(ConfigError, match=r"Resize 'y' .* has no 'antialias' there"):
        to_opset(model, 17, requests_for(model))


@pytest.mark.parametrize(
    ("text", "opset", "words"),
    [
        ("{ y = Gelu(x) }", 20, "opset 17: Gelu 'y' has no exact form in it: Gelu does not exist there"),
        ("{ y = Mish(x) }", 18, "Mish does not exist there"),
        ("{ p = BitwiseNot(u) q = Cast<to=1>(p) y = Add(x, q) }", 18, "BitwiseNot does not exist there"),
    ],
)
def test_a_newer_operator_is_refused_by_name(text, opset, words):
    model = text_model(f"(float[1, 4] x) => (float[1, 4] y) {text}", opset, u=np.zeros(4, np.uint8))
    with pytest.raises(ConfigError, match=words):
        to_opset(model, 17, requests_for(model))


def test_control_flow_is_refused():
    model = text_model(
        "(float[1, 4] x) => (float[1, 4] y)"
        " { y = If<then_branch = g () => (float[1, 4] a) { a = Relu(x) },"
        " else_branch = h () => (float[1, 4] b) { b = Neg(x) }>(c) }",
        19, c=np.array(True),
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"If 'y' .* contains a subgraph"):
        to_opset(model, 17, requests_for(model))


def test_a_node_that_answers_otherwise_is_named():
    model = text_model("(float[1, 4] x) => (float[1, 4] y) { z = Relu(x) y = Round(z) }", 18)
    tampered = text_model("(float[1, 4] x) => (float[1, 4] y) { z = Relu(x) y = Ceil(z) }", 17)
    with pytest.raises(ConfigError, match=r"opset 17: Ceil 'y' gives other results than in opset 18"):
        _require_same(model, tampered, requests_for(model))


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_old_models_are_raised(opset):
    model = text_model("(float[1, 2, 3, 4] x) => (float[1, 2, 1, 1] y) { y = ReduceMean<axes=[2, 3]>(x) }", 11)
    newer = to_opset(model, opset, requests_for(model))
    assert opset_of(newer) == opset
    expected, got = (run_onnx(each.SerializeToString(), requests_for(model))["y"] for each in (model, newer))
    np.testing.assert_array_equal(got, expected)


def test_the_same_opset_is_a_copy():
    model = text_model("(float[1, 4] x) => (float[1, 4] y) { y = Relu(x) }")
    assert to_opset(model, 18, requests_for(model)) == model
    assert to_opset(model, 18, requests_for(model)) is not model
