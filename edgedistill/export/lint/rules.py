"""The rules of `edgedistill lint` in one table: name, severity, check, effect, fix and source.

An error is a fault that an engine refuses, computes wrongly, or runs in float although the file stores integers.
`[rules]` in a kit's target.toml changes the severity of a rule where the kit's engine differs. "measured" means a
measurement with ONNX Runtime 1.20 and 1.32 and OpenVINO 2026.4 on x86-64, and with TensorRT-RTX 1.7, which builds on a
CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edgedistill.export.lint import placement, roundings, whole
from edgedistill.export.lint.roundings import Faults
from edgedistill.export.lint.view import View
from edgedistill.kits.kits import Severity

ONNX = "https://onnx.ai/onnx/operators/onnx__QuantizeLinear"
TENSORRT = "https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html"
EXPLICIT = (
    "https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-explicit-quantization.html"
)
RESIDUALS = (
    "https://docs.nvidia.com/deeplearning/tensorrt/tensorflow-quantization-toolkit/docs/docs/add_custom_qdq_cases.html"
)
RUNTIME = "https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html"
OPENVINO = (
    "https://docs.openvino.ai/2024/documentation/openvino-extensibility/openvino-plugin-library/advanced-guides/"
    "low-precision-transformations/step3-main/convolution/convolution.html"
)
OPERATORS = "https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md"


@dataclass(frozen=True, slots=True)
class Rule:
    """One check of a model; an `of_kit` rule compares the model with a kit's limits, and runs only with a kit.

    `effect` is the consequence of the fault, `fix` the next step, `source` the documentation or the measurement.
    """

    name: str
    severity: Severity
    check: Callable[[View], Faults]
    effect: str
    fix: str
    source: str
    of_kit: bool = False


RULES: Final = (
    Rule(
        "valid", "error", whole.validity,
        "the file breaks the ONNX standard",
        "export it again; float16 scales need opset 19",
        "onnx.checker.check_model(full_check=True)",
    ),
    Rule(
        "opset", "error", whole.opset,
        "the engine refuses the file, or applies the rules of an older opset to its operators",
        "export with a lower [export] opset; --fix converts the file if its outputs stay the same",
        "the kit's target.toml", of_kit=True,
    ),
    Rule(
        "unsupported", "error", whole.unsupported,
        "the engine refuses the file",
        "export QuantizeLinear and DequantizeLinear instead of integer operators, cast types on the host, and export from the "
        "framework instead of ONNX Runtime's optimiser",
        OPERATORS, of_kit=True,
    ),
    Rule(
        "foreign-operator", "warning", whole.foreign_operators,
        "only the engine that defines the operator can run the model",
        "export from the framework, not from an optimised session",
        "https://onnx.ai/onnx/operators",
    ),
    Rule(
        "dynamic-shape", "warning", whole.dynamic_shapes,
        "engines compile for fixed sizes; TensorRT refuses an open size without a profile",
        "export with fixed shapes, or fix them: edgedistill bench --shape NAME=1x3x224x224",
        "measured: 'no optimization profile has been defined'",
    ),
    Rule(
        "uint8-input", "off", whole.unsigned_inputs,
        "TensorRT refuses the model",
        "cast the input to float first, as edgedistill export does",
        "measured: 'first input has type UInt8'",
    ),
    Rule(
        "scale", "error", roundings.scales,
        "TensorRT refuses scales that are not positive, OpenVINO computes wrong outputs for negative scales",
        "set a positive minimum for scales when quantizing; --fix writes 1 for stored channels whose values are all 0",
        f"{RUNTIME} ('scale is a positive real number'); measured",
    ),
    Rule(
        "computed-scale", "warning", roundings.computed_scales,
        "engines need scales that are stored in the file; TensorRT's builder crashes",
        "quantize statically, with calibration data",
        f"{ONNX}; measured",
    ),
    Rule(
        "scale-pair", "warning", roundings.scale_pairs,
        "the two scales differ, so the pair multiplies the tensor by a factor, and no engine reports this",
        "give QuantizeLinear and DequantizeLinear the same scale",
        "measured",
    ),
    Rule(
        "missing-zero-point", "warning", roundings.missing_zero_points,
        "the ONNX standard then assumes uint8, TensorRT int8; TensorRT 8 refuses a DequantizeLinear without one",
        "write the zero point; --fix does",
        f"{ONNX}; measured",
    ),
    Rule(
        "activation-zero-point", "off", roundings.zero_points_of_activations,
        "TensorRT refuses zero points other than 0",
        "quantize symmetrically (ONNX Runtime: ActivationSymmetric); --fix turns uint8 around 128 into int8 around 0",
        f"{TENSORRT} (symmetric scheme); measured",
    ),
    Rule(
        "weight-zero-point", "warning", roundings.zero_points_of_weights,
        "TensorRT refuses zero points other than 0, OpenVINO runs the convolution in float",
        "quantize weights symmetrically (ONNX Runtime: WeightSymmetric)",
        f"{TENSORRT}; measured",
    ),
    Rule(
        "activation-type", "warning", roundings.types_of_activations,
        "TensorRT takes int8 only, and reads uint8 as int8 of the same scale, which cuts off the upper half; ONNX Runtime "
        "on x86 takes twice as long for int8, and runs layers beside a residual in float",
        "export in the kit's encoding; --fix turns uint8 around 128 into int8, a range of 0 to 255 needs new scales",
        f"{TENSORRT}; measured: 'Defaulting to INT8 instead'", of_kit=True,
    ),
    Rule(
        "activation-axis", "error", roundings.axes_of_activations,
        "every engine runs the layer in float",
        "use one scale for each activation",
        f"{OPENVINO} ('must be per-tensor'); {TENSORRT}; measured",
    ),
    Rule(
        "depthwise-activation-axis", "error", roundings.axes_of_depthwise_activations,
        "TensorRT and ONNX Runtime run the layer in float",
        "use one scale for each activation (NNCF: QuantizationParameters(per_channel=False))",
        f"{TENSORRT}; measured",
    ),
    Rule(
        "weight-axis", "error", roundings.axes_of_weights,
        "every engine runs the convolution in float, ONNX Runtime 1.20 fails on it",
        "give each output channel a scale: axis 0 for Conv and for Gemm with transB, axis 1 for ConvTranspose, the last axis for MatMul",
        f"{TENSORRT}; measured",
    ),
    Rule(
        "float-weight", "warning", roundings.float_weights,
        "the file is four times as large as it needs to be",
        "store the integers; --fix does",
        f"{EXPLICIT} (pre-quantized weights)",
    ),
    Rule(
        "bias-type", "warning", roundings.types_of_biases,
        "TensorRT refuses integer biases; with a float bias, ONNX Runtime 1.20 runs the layer in float, and 1.32 does so "
        "if no QuantizeLinear follows the layer",
        "export in the kit's encoding; --fix restores float biases, rounding them to int32 is not exact",
        "measured: 'input has type Int32'", of_kit=True,
    ),
    Rule(
        "bias-scale", "warning", roundings.scales_of_biases,
        "ONNX Runtime 1.32 runs the layer in float",
        "round the bias in steps of input scale times weight scale",
        "https://onnx.ai/onnx/operators/onnx__QLinearConv (B); measured",
    ),
    Rule(
        "between", "error", placement.between,
        "the layer runs in float, because its input is float",
        "round after the operator: QuantizeLinear, DequantizeLinear, layer",
        f"{EXPLICIT}; measured",
    ),
    Rule(
        "moved-between", "off", placement.moved_between,
        "ONNX Runtime runs the layer in float",
        "round after the operator: QuantizeLinear, DequantizeLinear, layer",
        "measured",
    ),
    Rule(
        "float-input", "error", placement.float_inputs,
        "the layer runs in float, and its weight is dequantized in every run",
        "round the input too, or leave the layer in float",
        f"{EXPLICIT}; measured",
    ),
    Rule(
        "float-operand", "warning", placement.float_operands,
        "the operation runs in float, and reads more memory than an int8 operand would take",
        "round both operands, also the skip connection of a residual block, or neither",
        f"{RESIDUALS}; measured",
    ),
    Rule(
        "unrounded-result", "off", placement.unrounded_results,
        "ONNX Runtime runs the layer in float",
        "let QuantizeLinear follow the layer directly; the encodings s8-i32 and u8-i32 of edgedistill export do",
        "measured",
    ),
    Rule(
        "unrounded-output", "off", placement.unrounded_outputs,
        "ONNX Runtime runs the layer in float, with the weight of the int8 layer",
        "leave the file as it is: the output keeps its precision",
        "measured",
    ),
    Rule(
        "transposed-convolution", "warning", placement.transposed_convolutions,
        "TensorRT and ONNX Runtime run it in float",
        "leave it in float: its roundings cost time and accuracy",
        "measured; https://github.com/NVIDIA/TensorRT/issues/1699",
    ),
    Rule(
        "signed-concat", "off", placement.signed_concatenations,
        "OpenVINO 2026.4 computes some of these wrongly on x86, by a third of the largest value; uint8 is correct",
        "compare the outputs before you deploy; use another kit, or leave the convolution in float",
        "measured against ONNX Runtime with its optimiser off",
    ),
    Rule(
        "finite", "error", whole.finite,
        "the model answers NaN or infinity",
        "export the model again from a sound checkpoint",
        "IEEE 754",
    ),
    Rule(
        "half-overflow", "error", whole.half_overflow,
        "the model computes infinities",
        "keep this part in float32",
        "IEEE 754 binary16",
    ),
    Rule(
        "half-precision", "warning", whole.half_precision,
        "the stored value differs from the trained value",
        "keep this part in float32",
        "IEEE 754 binary16",
    ),
    Rule(
        "int8-slow", "off", whole.int8_where_it_is_slow,
        "int8 is slower than float32 in this engine",
        "use fp32 or fp16 for this target",
        "measured: 2.5 to 5.7 times in onnxruntime-web's WebAssembly",
    ),
)  # fmt: skip
