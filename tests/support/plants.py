"""Faults to plant in a clean model, and the rule, the kit and the node that each belongs to."""

import numpy as np
from onnx import TensorProto, helper

from edgedistill.graphs.index import set_axis
from tests.support.lint_models import Plant

F = np.float32


def invalid(plant: Plant) -> None:
    plant.node("Relu").input[0] = "nothing"


def half_scale_in_an_old_opset(plant: Plant) -> None:
    node = plant.node("QuantizeLinear")
    node.input[1] = plant.store("planted", plant.value(node.input[1]).astype(np.float16))


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


def foreign_operator(domain: str):
    def planted(plant: Plant) -> None:
        node = plant.node("Relu")
        node.op_type, node.domain = "QuickGelu", domain
        plant.model.opset_import.append(helper.make_opsetid(domain, 1))

    return planted


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
    restored.input[1] = plant.store("planted", plant.value(restored.input[1]) * np.float32(2))


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


def depthwise_activation_axis(plant: Plant) -> None:
    layer = plant.node("Conv", 3)
    pair = plant.quantizer_before(layer), plant.index.producer[layer.input[0]]
    names = plant.store("scales", np.linspace(0.01, 0.02, 8, dtype=F)), plant.store("zeros", np.zeros(8, np.int8))
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


def unrounded_output(plant: Plant) -> None:
    plant.graph.output.append(helper.make_tensor_value_info(plant.node("Conv", 2).output[0], TensorProto.FLOAT, None))


def transposed_convolution(plant: Plant) -> None:
    layer = plant.node("Conv", 2)  # of 1x1: its weight may be turned around
    layer.op_type = "ConvTranspose"
    set_axis(plant.weight("ConvTranspose"), 1)


def signed_concat(plant: Plant) -> None:
    """Let the second convolution read its tensor, signed, as two halves, the other way round."""
    layer, data = plant.node("Conv", 1), plant.node("Conv", 1).input[0]
    zero = plant.store("signed", np.int8(0))
    for node in (plant.quantizer_before(layer), plant.index.producer[data]):
        node.input[2] = zero
    sizes = plant.store("halves", np.array([4, 4]))
    plant.insert(helper.make_node("Split", [data, sizes], ["first", "second"], axis=1, name="split"), layer)
    plant.insert(helper.make_node("Concat", ["second", "first"], ["joined"], axis=1, name="planted"), layer)
    names = plant.quantizer_before(layer).input[1:]
    plant.insert(helper.make_node("QuantizeLinear", ["joined", *names], ["integers"], name="round"), layer)
    plant.insert(helper.make_node("DequantizeLinear", ["integers", *names], ["restored"], name="restore"), layer)
    layer.input[0] = "restored"


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


def not_finite(value: float):
    def planted(plant: Plant) -> None:
        layer = plant.node("Gemm")
        bias = plant.value(layer.input[2]).copy()
        bias[1] = value
        layer.input[2] = plant.store("bias", bias)

    return planted


def nothing(plant: Plant) -> None:
    pass


PLANTED = (
    ("valid", "tensorrt", invalid, "model"),
    ("valid", "tensorrt", half_scale_in_an_old_opset, "model"),
    ("opset", "old", opset, "model"),
    ("unsupported", "tensorrt", unsupported_operator, "planted"),
    ("unsupported", "tensorrt", unsupported_type, "input"),
    ("unsupported", "tensorrt", foreign_operator("com.microsoft"), "node_relu"),
    ("foreign-operator", "tensorrt", foreign_operator("acme"), "node_relu"),
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
    ("depthwise-activation-axis", "tensorrt", depthwise_activation_axis, "node_QuantizeLinear_9"),
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
    ("unrounded-output", "ort", unrounded_output, "node_conv2d_2"),
    ("transposed-convolution", "tensorrt", transposed_convolution, "node_conv2d_2"),
    ("signed-concat", "openvino", signed_concat, "planted"),
    ("finite", "tensorrt", not_finite(float("nan")), "bias"),
    ("finite", "openvino", not_finite(float("inf")), "bias"),
    ("half-overflow", "tensorrt", half(float("inf")), "half"),
    ("half-overflow", "openvino", cast_beyond_half, "large"),
    ("half-precision", "tensorrt", half(65504), "half"),
    ("half-precision", "tensorrt", half(1e-6), "half"),
    ("int8-slow", "web", nothing, "model"),
)  # fmt: skip
