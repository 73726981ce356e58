"""TensorRT's own compiler on the CPU: our files come out in integers, planted faults do not."""

import importlib.util
import sys

import pytest

from edgedistill.errors import ConfigError
from edgedistill.export.lint.report import lint
from edgedistill.export.trt_check import MODULE, CompiledLayer, check_with_tensorrt, read_layer
from edgedistill.graphs.encodings import encode
from edgedistill.graphs.float16 import float32_nodes, to_float16
from edgedistill.graphs.opset import to_opset
from tests.support.families import EACH_FAMILY, case
from tests.support.lint_models import ZOO, Plant, clean, kit, zoo
from tests.support.plants import (
    PLANTED,
    activation_axis,
    activation_type,
    activation_zero_point,
    between,
    computed_scale,
    depthwise_activation_axis,
    dynamic_shape,
    float_input,
    integer_bias,
    scale,
    scale_pair,
    transposed_convolution,
    uint8_input,
    unsupported_operator,
    unsupported_type,
    weight_axis,
    weight_zero_point,
)

compiler = pytest.mark.skipif(importlib.util.find_spec(MODULE) is None, reason="the extra trt-check is not installed")

CONVOLUTION = (
    "Name: node_of_y_myl0_1, LayerType: correlation, Inputs: [ { Name: __mye246_2_myl0, Dimensions: [1,4,16,16], "
    "Strides: [1024,1,64,4], StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) Channel major format }], "
    "Constants: [ { Name: __mye250dconst_myl0, Dimensions: [8,4,3,3], Strides: [36,1,12,4], StrideOrder: [3,0,2,1], "
    "Datatype: Int8, Format: (NHWC) Channel major format }, { Name: __mye255dconst_myl0, Dimensions: [1,8,1,1], "
    "Strides: [8,1,8,8], StrideOrder: [3,0,2,1], Datatype: Float, Format: (NHWC) Channel major format }], Outputs: "
    "[ { Name: __myln_k_arg__bb1_3_myl0, Dimensions: [1,8,16,16], Strides: [2048,1,128,8], StrideOrder: [3,0,2,1], "
    "Datatype: Float, Format: (NHWC) Channel major format }], TacticName: __myelin_CASK_STUB, StreamId: 0, "
    "Metadata: [ONNX Layer: node7][ONNX Layer: node1]"
)
FLOAT_PRODUCT = (
    "Name: __myl_CastMulCastMulCastFc_myl0_1, LayerType: runtime_fusion, Inputs: [ { Name: __myln_k_arg__bb1_2_myl0, "
    "Dimensions: [64,16], Strides: [16,1], StrideOrder: [1,0], Datatype: Int8, Format: (Linear) Row major linear "
    "format }], Constants: [ { Name: __mye214_dconst_myl0, Dimensions: [16,8], Strides: [8,1], StrideOrder: [1,0], "
    "Datatype: Int8, Format: (Linear) Row major linear format }, { Name: __mye250_dconst_myl0, Dimensions: [16,1], "
    "Strides: [1,1], StrideOrder: [1,0], Datatype: Float, Format: (Linear) Row major linear format }], Outputs: "
    "[ { Name: y, Dimensions: [64,8], Strides: [8,1], StrideOrder: [1,0], Datatype: Float, Format: (Linear) Row "
    "major linear format }], TacticName: , StreamId: 0, Metadata: [ONNX Layer: node2][ONNX Layer: node7]"
)
GENERATED = (
    "Name: __myl_MoveConcCorrMulAddReluMulMinMaxRounCast_myl0_1, LayerType: kgen, Inputs: [ { Name: val_1.1_myl0, "
    "Dimensions: [1,1,64,1], Datatype: Int8, Format: (Transposed) Transposed format }], Constants: [ { Name: "
    "__mye3574_dconst_myl0, Dimensions: [16,4,5,1], Datatype: Int8, Format: (NHWC) Channel major format }], Outputs: "
    "[ { Name: __mye2769_q8_3_myl0, Dimensions: [1,16,64,1], Datatype: Int8, Format: (NHWC) Channel major format }], "
    "TacticName: __myl_MoveConcCorrMulAddReluMulMinMaxRounCast_0x27, StreamId: 0, Metadata: [ONNX Layer: node7]"
)


def test_a_recorded_layer_is_read_with_its_types_and_nodes():
    layer = read_layer(CONVOLUTION, {"node7": "block/conv[0]", "node1": "dequantize"})
    assert (layer.type, layer.precision) == ("correlation", "int8")
    assert (layer.inputs, layer.constants, layer.outputs) == (("Int8",), ("Int8", "Float"), ("Float",))
    assert layer.nodes == ("block/conv[0]", "dequantize")


def test_a_recorded_kernel_that_casts_its_integers_before_the_product_is_float():
    assert read_layer(FLOAT_PRODUCT, {}).precision == "fp32"


def test_a_recorded_kernel_that_multiplies_integers_is_int8():
    assert read_layer(GENERATED, {}).precision == "int8"
    rounds_first = GENERATED.replace("MoveConcCorr", "MulMinMaxRounCastCorr").replace(
        "Datatype: Int8", "Datatype: Float", 1
    )
    assert read_layer(rounds_first, {}).precision == "int8"


def test_a_record_is_json_and_back():
    layer = read_layer(CONVOLUTION, {})
    assert CompiledLayer.model_validate_json(layer.model_dump_json()) == layer


def test_without_the_compiler_the_line_that_installs_it_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, MODULE, None)
    with pytest.raises(ConfigError, match=r"python3 -m pip install 'edgedistill\[trt-check\]'"):
        check_with_tensorrt(clean())


@compiler
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_every_int8_layer_of_every_family_is_compiled_to_integers(family):
    check = check_with_tensorrt(case(family).int8)
    assert check.report.findings == ()
    int8 = sum(form == "int8" for form in case(family).prepared.layers.values())
    assert [one.compiled for one in check.products if one.stored == "int8"] == ["int8"] * int8
    assert {one.compiled for one in check.products if one.stored == "float"} <= {"fp32"}
    assert check.build_ns > 0


@compiler
@pytest.mark.parametrize("name", ZOO)
def test_every_layer_of_the_zoo_is_compiled_to_integers(name):
    check = check_with_tensorrt(zoo(name))
    assert check.report.findings == ()
    assert {(one.stored, one.compiled) for one in check.products} == {("int8", "int8")}


@compiler
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_every_float_layer_is_compiled_to_float32(family):
    check = check_with_tensorrt(case(family).float32)
    assert check.refused is None
    assert {one.compiled for one in check.products} == {"fp32"}
    assert {one.stored for one in check.products} == {"float"}


@compiler
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_float16_is_compiled_to_float16_and_its_int8_layers_to_integers(family):
    requests = {name: values[:20] for name, values in case(family).requests.items()}
    half = to_float16(case(family).float32, float32_nodes(case(family).float32, requests))
    strong = encode(to_opset(case(family).int8, 19, requests), "s8-f16")
    for model, stored in ((half, {("float", "fp16")}), (strong, {("float", "fp16"), ("int8", "int8")})):
        check = check_with_tensorrt(model)
        assert check.report.findings == ()
        assert {(one.stored, one.compiled) for one in check.products} <= stored
        assert lint(model, kit("tensorrt"), "x86_64").errors == 0


SILENT = {
    "weight-axis": (weight_axis("Conv", 1), "node_conv2d"),
    "weight-axis of a product": (weight_axis("MatMul", 0), "node_MatMul_20"),
    "activation-axis": (activation_axis, "node_conv2d"),
    "depthwise-activation-axis": (depthwise_activation_axis, "node_conv2d_3"),
    "between": (between("Relu"), "node_conv2d_1"),
    "float-input": (float_input, "node_conv2d_1"),
    "transposed-convolution": (transposed_convolution, "node_conv2d_2"),
}


@compiler
@pytest.mark.parametrize(("plant", "node"), SILENT.values(), ids=SILENT)
def test_a_quantized_layer_that_comes_out_as_float_is_an_error(plant, node):
    model = clean()
    plant(Plant(model))
    (finding,) = check_with_tensorrt(model).report.findings
    assert (finding.severity, finding.node) == ("error", node)
    assert "runs in fp32" in finding.message
    assert lint(model, kit("tensorrt"), "x86_64").findings


REFUSED = {
    "activation-zero-point": (activation_zero_point, "Non-zero zero point"),
    "weight-zero-point": (weight_zero_point, "Non-zero zero point"),
    "scale of zero": (scale(0.0), "must all be positive"),
    "negative scale": (scale(-0.01), "must all be positive"),
    "bias-type": (integer_bias, "Int32"),
    "unsupported operator": (unsupported_operator, "QLinearMatMul 'planted'"),
    "unsupported type": (unsupported_type, "Failed to convert"),
    "dynamic-shape": (dynamic_shape, "no optimization profile"),
    "uint8-input": (uint8_input, "UINT8"),
}


@compiler
@pytest.mark.parametrize(("plant", "words"), REFUSED.values(), ids=REFUSED)
def test_what_the_linter_calls_an_error_is_refused_by_the_compiler(plant, words):
    model = clean()
    plant(Plant(model))
    check = check_with_tensorrt(model)
    assert words in check.refused
    (finding,) = check.report.findings
    assert words in finding.message
    assert lint(model, kit("tensorrt"), "x86_64").errors >= 1


@compiler
def test_a_crash_of_the_compiler_is_a_finding():
    model = clean()
    computed_scale(Plant(model))
    check = check_with_tensorrt(model)
    assert "crashed with SIGSEGV" in check.refused
    assert check.engine.startswith("tensorrt-rtx 1.")
    assert check.layers == ()


@compiler
@pytest.mark.parametrize("plant", [activation_type, scale_pair])
def test_the_linter_sees_what_the_compiler_accepts_in_silence(plant):
    model = clean()
    plant(Plant(model))
    assert check_with_tensorrt(model).report.findings == ()
    assert lint(model, kit("tensorrt"), "x86_64").findings


def test_every_silent_loss_and_refusal_has_a_rule():
    planted = {row[0] for row in PLANTED}
    named = {name for name in (*SILENT, *REFUSED) if " " not in name}
    assert named <= planted
