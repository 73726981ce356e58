"""Each rule finds the fault that is planted for it in a clean model, and nothing else."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from lint_models import STRICT, Plant, clean, kit
from onnx import TensorProto, helper

from edgedistill.deploy.kits import Kit, find_kits
from edgedistill.errors import ConfigError, LintError
from edgedistill.export.encodings import encode
from edgedistill.export.graph import set_axis
from edgedistill.export.lint.report import lint, require_clean, severities
from edgedistill.export.lint.rules import RULES

F = np.float32


def invalid(plant: Plant) -> None:
    plant.node("Relu").input[0] = "nothing"


def opset(plant: Plant) -> None:
    plant.model.opset_import[0].version = 23


def unsupported_operator(plant: Plant) -> None:
    names = [plant.store("scale", F(0.1)), plant.store("zero", np.int8(0))]
    weight = plant.store("square", np.ones((5, 5), np.int8))
    plant.graph.node.extend(
        [
            helper.make_node("QuantizeLinear", ["logits", *names], ["q"], name="round"),
            helper.make_node("QLinearMatMul", ["q", *names, weight, *names, *names], ["product"], name="planted"),
            helper.make_node("DequantizeLinear", ["product", *names], ["scores"], name="restore"),
        ]
    )
    plant.graph.output[0].name = "scores"


def unsupported_type(plant: Plant) -> None:
    plant.graph.input[0].type.tensor_type.elem_type = TensorProto.INT16
    first = plant.node("QuantizeLinear")
    plant.insert(helper.make_node("Cast", ["input"], ["planted"], to=TensorProto.FLOAT, name="planted"), first)
    first.input[0] = "planted"


def foreign_operator(plant: Plant) -> None:
    node = plant.node("Relu")
    node.op_type, node.domain = "QuickGelu", "com.microsoft"
    plant.model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def dynamic_shape(plant: Plant) -> None:
    plant.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    plant.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"


def uint8_input(plant: Plant) -> None:
    plant.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    first = plant.node("QuantizeLinear")
    transpose = helper.make_node("Identity", ["input"], ["planted"], name="planted")
    plant.insert(transpose, first)
    plant.insert(helper.make_node("Cast", ["planted"], ["cast"], to=TensorProto.FLOAT), first)
    first.input[0] = "cast"


def scale(number: float):
    def planted(plant: Plant) -> None:
        dequantizer = plant.weight()
        scales = plant.value(dequantizer.input[1])
        scales[3] = number
        dequantizer.input[1] = plant.store("planted", scales)

    return planted


def computed_scale(plant: Plant) -> None:
    first = plant.node("QuantizeLinear")
    plant.insert(helper.make_node("ReduceMax", ["input"], ["planted"], keepdims=0), first)
    first.input[1] = plant.index.producer[plant.node("Conv").input[0]].input[1] = "planted"


def scale_pair(plant: Plant) -> None:
    restored = plant.index.producer[plant.node("Conv").input[0]]
    restored.input[1] = plant.store("planted", plant.value(restored.input[1]) * 2)


def missing_zero_point(plant: Plant) -> None:
    del plant.weight().input[2:]


def activation_zero_point(plant: Plant) -> None:
    zero = plant.store("planted", np.int8(3))
    plant.node("QuantizeLinear").input[2] = plant.index.producer[plant.node("Conv").input[0]].input[2] = zero


def weight_zero_point(plant: Plant) -> None:
    plant.weight().input[2] = plant.store("planted", np.full(8, 3, np.int8))


def activation_type(plant: Plant) -> None:
    zero = plant.store("planted", np.uint8(0))
    plant.node("QuantizeLinear").input[2] = plant.index.producer[plant.node("Conv").input[0]].input[2] = zero


def activation_axis(plant: Plant) -> None:
    layer = plant.node("Conv")
    pair = plant.quantizer_before(layer), plant.index.producer[layer.input[0]]
    names = plant.store("scales", np.array([0.01, 0.02, 0.03], F)), plant.store("zeros", np.zeros(3, np.int8))
    for node in pair:
        node.input[1:] = names
        set_axis(node, 1)


def weight_axis(kind: str, axis: int):
    def planted(plant: Plant) -> None:
        dequantizer = plant.weight(kind, 0)
        size = plant.value(dequantizer.input[0]).shape[axis]
        dequantizer.input[1] = plant.store("planted", np.linspace(0.01, 0.02, size, dtype=F))
        dequantizer.input[2] = plant.store("zeros", np.zeros(size, np.int8))
        set_axis(dequantizer, axis)

    return planted


def float_weight(plant: Plant) -> None:
    dequantizer = plant.weight()
    scales = plant.value(dequantizer.input[1])
    floats = plant.value(dequantizer.input[0]).astype(F) * scales.reshape(-1, 1, 1, 1)
    names = [plant.store("floats", floats), *dequantizer.input[1:]]
    plant.insert(helper.make_node("QuantizeLinear", names, ["integers"], axis=0, name="planted"), dequantizer)
    dequantizer.input[0] = "integers"


def integer_bias(plant: Plant) -> None:
    layer, scale = plant.node("Conv"), plant.value(plant.weight().input[1])
    data = plant.value(plant.quantizer_before(layer).input[1])
    names = [plant.store("integers", np.arange(8, dtype=np.int32)), plant.store("steps", (scale * data).astype(F))]
    plant.insert(helper.make_node("DequantizeLinear", names, ["bias"], axis=0, name="planted"), layer)
    layer.input[2] = "bias"


def float_bias(plant: Plant) -> None:
    layer = plant.node("Conv", 2)
    layer.input[2] = plant.store("planted", np.ones(8, F))


def bias_scale(plant: Plant) -> None:
    restored = plant.index.producer[plant.node("Conv", 2).input[2]]
    restored.input[1] = plant.store("planted", plant.value(restored.input[1]) * 3)


def between(kind: str, **attributes):
    def planted(plant: Plant) -> None:
        plant.between(kind, plant.node("Conv", 1), **attributes)

    return planted


def flatten(plant: Plant) -> None:
    plant.between("Flatten", plant.node("Gemm"))


def float_input(plant: Plant) -> None:
    plant.node("Conv", 1).input[0] = plant.quantizer_before(plant.node("Conv", 1)).input[0]


def float_weight_beside_int8(plant: Plant) -> None:
    layer = plant.node("Conv", 1)
    layer.input[1] = plant.store("planted", np.ones((8, 8, 3, 3), F))


def float_residual(plant: Plant) -> None:
    addition = plant.node("Add")
    skip = plant.index.producer[addition.input[0]]
    addition.input[0] = plant.index.producer[skip.input[0]].input[0]


def unrounded_result(plant: Plant) -> None:
    layer = plant.node("Conv", 2)
    rounding = next(node for node in plant.graph.node if layer.output[0] in node.input)
    plant.insert(helper.make_node("Elu", [layer.output[0]], ["planted"], name="planted"), rounding)
    rounding.input[0] = "planted"


def transposed_convolution(plant: Plant) -> None:
    layer = plant.node("Conv", 2)  # of 1x1: its weight may be turned around
    layer.op_type = "ConvTranspose"
    set_axis(plant.weight("ConvTranspose"), 1)


def half(value: float):
    def planted(plant: Plant) -> None:
        layer = plant.node("Gemm")
        name = plant.store("half", np.full(5, value, np.float16))
        plant.graph.node.append(helper.make_node("Cast", [name], ["wide"], to=TensorProto.FLOAT, name="wide"))
        plant.graph.node.append(helper.make_node("Add", [layer.output[0], "wide"], ["scores"], name="planted"))
        plant.graph.output[0].name = "scores"

    return planted


def cast_beyond_half(plant: Plant) -> None:
    layer = plant.node("Gemm")
    name = plant.store("large", np.full(5, 1e5, F))
    plant.graph.node.append(helper.make_node("Cast", [name], ["narrow"], to=TensorProto.FLOAT16, name="narrow"))
    plant.graph.node.append(helper.make_node("Cast", ["narrow"], ["wide"], to=TensorProto.FLOAT, name="wide"))
    plant.graph.node.append(helper.make_node("Add", [layer.output[0], "wide"], ["scores"], name="planted"))
    plant.graph.output[0].name = "scores"


def nothing(plant: Plant) -> None:
    pass


PLANTED = (
    ("valid", "tensorrt", invalid, "model"),
    ("opset", "tensorrt", opset, "model"),
    ("unsupported", "tensorrt", unsupported_operator, "planted"),
    ("unsupported", "tensorrt", unsupported_type, "input"),
    ("foreign-operator", "tensorrt", foreign_operator, "node_relu"),
    ("dynamic-shape", "tensorrt", dynamic_shape, "input"),
    ("uint8-input", "tensorrt", uint8_input, "planted"),
    ("scale", "tensorrt", scale(0.0), "node_dequantize_weight"),
    ("scale", "openvino", scale(-0.01), "node_dequantize_weight"),
    ("scale", "openvino", scale(float("nan")), "node_dequantize_weight"),
    ("computed-scale", "tensorrt", computed_scale, "node_QuantizeLinear_1"),
    ("scale-pair", "tensorrt", scale_pair, "node_quantize_dequantize"),
    ("missing-zero-point", "tensorrt", missing_zero_point, "node_dequantize_weight"),
    ("activation-zero-point", "tensorrt", activation_zero_point, "node_QuantizeLinear_1"),
    ("weight-zero-point", "tensorrt", weight_zero_point, "node_dequantize_weight"),
    ("weight-zero-point", "openvino", weight_zero_point, "node_dequantize_weight"),
    ("activation-type", "tensorrt", activation_type, "node_QuantizeLinear_1"),
    ("activation-axis", "openvino", activation_axis, "node_QuantizeLinear_1"),
    ("weight-axis", "tensorrt", weight_axis("Conv", 1), "node_conv2d"),
    ("weight-axis", "tensorrt", weight_axis("MatMul", 0), "node_MatMul_20"),
    ("weight-axis", "openvino", weight_axis("Gemm", 1), "node_linear_1"),
    ("float-weight", "openvino", float_weight, "planted"),
    ("bias-type", "tensorrt", integer_bias, "node_conv2d"),
    ("bias-type", "ort", float_bias, "node_conv2d_2"),
    ("bias-scale", "ort", bias_scale, "node_conv2d_2"),
    ("between", "tensorrt", between("Sigmoid"), "node_conv2d_1"),
    ("between", "ort", between("Relu"), "node_conv2d_1"),
    ("between", "openvino", between("AveragePool", kernel_shape=[3, 3], pads=[1] * 4), "node_conv2d_1"),
    ("moved-between", "ort", flatten, "node_linear_1"),
    ("float-input", "tensorrt", float_input, "node_conv2d_1"),
    ("float-operand", "tensorrt", float_weight_beside_int8, "node_conv2d_1"),
    ("float-operand", "tensorrt", float_residual, "node_add"),
    ("unrounded-result", "ort", unrounded_result, "node_conv2d_2"),
    ("transposed-convolution", "tensorrt", transposed_convolution, "node_conv2d_2"),
    ("half-overflow", "tensorrt", half(float("inf")), "half"),
    ("half-overflow", "openvino", cast_beyond_half, "large"),
    ("half-precision", "tensorrt", half(65504), "half"),
    ("half-precision", "tensorrt", half(1e-6), "half"),
    ("int8-slow", "web", nothing, "model"),
)  # fmt: skip


def target(name: str) -> Kit:
    if name == "web":
        return kit("openvino").model_copy(update={"name": "web", "rules": {"int8-slow": "warning", "bias-type": "off"}})
    return kit(name)


def model_for(target: Kit) -> onnx.ModelProto:
    return encode(clean(), target.encoding_for("x86_64"))


@pytest.mark.parametrize(
    ("rule", "name", "plant", "node"), PLANTED, ids=[f"{row[0]}-{row[1]}-{row[2].__qualname__.split('.')[0]}" for row in PLANTED]
)  # fmt: skip
def test_each_planted_fault_is_found_where_it_is_and_nothing_else(rule, name, plant, node):
    chosen = target(name)
    model = model_for(chosen)
    plant(Plant(model))
    findings = lint(model, chosen, "x86_64").findings
    assert {finding.rule for finding in findings} == {rule}
    assert findings[0].node == node
    assert {finding.severity for finding in findings} == {severities(chosen)[rule]}
    assert all(finding.fix and finding.source and finding.message for finding in findings)


def test_every_rule_has_a_planted_fault():
    assert {row[0] for row in PLANTED} == {rule.name for rule in RULES}


@pytest.mark.parametrize("name", ["openvino", "ort", "tensorrt"])
@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_a_clean_model_is_clean_for_the_kit_it_is_encoded_for(name, arch):
    model = encode(clean(), kit(name).encoding_for(arch))
    assert lint(model, kit(name), arch).findings == ()
    assert lint(model).findings == ()
    require_clean(model, [kit(name)], arch, "student.onnx")


@pytest.mark.parametrize("kind", ["Identity", "MaxPool", "Transpose"])
def test_what_every_engine_moves_a_dequantizer_across_is_no_fault(kind):
    attributes = {"MaxPool": {"kernel_shape": [3, 3], "pads": [1] * 4}, "Transpose": {"perm": [0, 1, 3, 2]}}
    for name in ("openvino", "ort", "tensorrt"):
        model = model_for(kit(name))
        between(kind, **attributes.get(kind, {}))(Plant(model))
        assert lint(model, kit(name), "x86_64").findings == ()


def test_a_weight_that_is_transposed_after_it_is_restored_has_its_axis_where_the_layer_reads_it():
    model = clean()
    plant = Plant(model)
    layer, dequantizer = plant.node("Conv", 1), plant.weight("Conv", 1)
    dequantizer.input[0] = plant.store("turned", plant.value(dequantizer.input[0]).transpose(1, 0, 2, 3))
    set_axis(dequantizer, 1)
    plant.insert(helper.make_node("Transpose", [layer.input[1]], ["planted"], perm=[1, 0, 2, 3]), layer)
    layer.input[1] = "planted"
    assert lint(model, kit("tensorrt"), "x86_64").findings == ()
    set_axis(dequantizer, 0)
    assert [finding.rule for finding in lint(model, kit("tensorrt"), "x86_64").findings] == ["weight-axis"]


def test_scales_for_blocks_of_a_weight_are_no_scales_for_outputs():
    model = clean(21)
    plant = Plant(model)
    dequantizer = plant.weight("MatMul")
    dequantizer.input[1] = plant.store("blocks", np.full((2, 8), 0.01, F))
    dequantizer.input[2] = plant.store("zeros", np.zeros((2, 8), np.int8))
    set_axis(dequantizer, 0)
    dequantizer.attribute.append(helper.make_attribute("block_size", 4))
    (finding,) = lint(model).findings
    assert finding.rule == "weight-axis"
    assert "blocks" in finding.message


def test_a_kit_decides_how_bad_a_rule_is():
    lenient = kit("ort").model_copy(update={"rules": {"bias-type": "off", "activation-type": "error"}})
    found = lint(clean(), lenient, "x86_64")
    assert {(finding.rule, finding.severity) for finding in found.findings} == {("activation-type", "error")}
    assert found.errors == 8
    assert found.warnings == 0


def test_a_kit_with_a_rule_that_does_not_exist_is_refused_with_the_nearest():
    wrong = kit("ort").model_copy(update={"rules": {"bias-typ": "off"}})
    with pytest.raises(ConfigError, match=r"target\.toml: \[rules\] has no 'bias-typ'; perhaps 'bias-type'"):
        lint(clean(), wrong)


@pytest.mark.parametrize("found", find_kits().values(), ids=lambda found: found.name)
def test_every_kit_of_the_project_names_real_rules(found):
    assert severities(found).keys() == {rule.name for rule in RULES}


def test_the_strict_rules_are_real():
    assert set(STRICT) <= {rule.name for rule in RULES}


def test_a_model_with_an_error_is_not_shipped():
    model = clean()
    weight_axis("Conv", 1)(Plant(model))
    with pytest.raises(LintError, match=r"student\.onnx: rule weight-axis of kit 'openvino' at 'node_conv2d'"):
        require_clean(model, [kit("openvino")], "x86_64", "student.onnx")


def test_an_architecture_that_a_kit_does_not_know_is_refused():
    with pytest.raises(ConfigError, match=r"\[encoding\] has no 'riscv64'"):
        lint(clean(), kit("ort"), "riscv64")


def test_a_kit_for_another_architecture_only_is_linted_for_that():
    phone = kit("ort").model_copy(update={"encoding": {"aarch64": "s8-i32"}})
    report = lint(encode(clean(), "s8-i32"), phone)
    assert (report.arch, report.findings) == ("aarch64", ())


def test_rules_leave_the_model_as_it_is(tmp_path: Path):
    model = clean()
    before = model.SerializeToString(deterministic=True)
    lint(model, kit("tensorrt"))
    assert model.SerializeToString(deterministic=True) == before
