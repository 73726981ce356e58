"""Export of a torch module to a self-contained ONNX model, in exactly the requested opset."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Final

import onnx
import onnxscript
import torch
from torch import Tensor, nn

from edgedistill.errors import ConfigError
from edgedistill.graphs.canonical import canonical
from edgedistill.graphs.index import Names
from edgedistill.graphs.opset import opset_of, to_opset
from edgedistill.graphs.slim import slim
from edgedistill.graphs.stored import all_nodes
from edgedistill.quantize.convert import convert
from edgedistill.quantize.outputs import Outputs, returning_tensors, returns_of
from edgedistill.quantize.torch_export import quiet, reason_of

# torch writes opset 18 and converts upwards; for other opsets, it writes 18 without an error. Per-channel weights begin
# with 13.
TORCH_OPSETS: Final = range(18, 24)
OPSETS: Final = range(13, TORCH_OPSETS.stop)


def export_onnx(
    model: nn.Module,
    examples: tuple[Tensor, ...],
    opset: int,
    input_names: Sequence[str] = ("input",),
    output_names: Sequence[str] = ("logits",),
    length: str | None = None,
) -> onnx.ModelProto:
    """Export a module for inputs of exactly the examples' shapes; the prepared models in it become int8.

    With `length`, the last axis of each input varies, and has this name.

    Int8 weights are stored as int8, scales and zero points are written out, biases are float. The encoding is "s8-f32",
    or "u8-f32" for unsigned activations.

    Args:
        model: a module that takes positional tensors and returns a tensor, or a tuple, list, dict or dataclass of
            tensors; it is not changed.
        examples: one tensor of the shape to export for each input, (1, ...) for a batch of one.
        opset: the version of the ONNX operator set that the file declares.
        input_names: the names of the graph's inputs, in the order of the examples.
        output_names: the names of the graph's outputs; several outputs that the model itself names keep these names.
        length: the name of the last axis of all inputs if it varies, otherwise None.

    Raises:
        ConfigError: torch cannot export the model; the opset cannot be exported, or not with the same answers; a prepared model
            is not calibrated; or the numbers of names, inputs and outputs do not match.
    """
    if opset not in OPSETS:
        raise ConfigError(
            f"opset {opset} cannot be exported: {OPSETS[0]} to {OPSETS[-1]} can; "
            "choose one of these, or a kit that takes one of them"
        )
    requested = max(opset, TORCH_OPSETS.start)
    if len(input_names) != len(examples):
        raise ConfigError(f"{len(examples)} inputs have {len(input_names)} names: name each input")
    deployed = convert(model)
    written_names = _names_in_order(returns_of(deployed, examples), output_names, type(model).__name__)
    exported = _exported(deployed, examples, requested, (input_names, written_names), length)
    written = opset_of(exported)
    if written != requested:
        raise ConfigError(
            f"opset {requested} cannot be exported: torch wrote opset {written} for {type(model).__name__}, which has "
            f"an operator that it cannot convert; choose opset {written}"
        )
    result = canonical(slim(exported))
    _order_outputs(result.graph, output_names)
    onnx.checker.check_model(result, full_check=True)
    return to_opset(result, opset, {name: one.numpy()[None] for name, one in zip(input_names, examples, strict=True)})


def _names_in_order(outputs: Outputs, names: Sequence[str], owner: str) -> Sequence[str]:
    """Return the names of the outputs in the order in which the model returns them."""
    keyed = outputs.keyed and len(outputs.names) > 1
    if len(outputs.names) != len(names) or (keyed and set(names) != set(outputs.names)):
        raise ConfigError(
            f"{owner} returns {len(outputs.names)} outputs ({', '.join(outputs.names)}), but the output names are "
            f"{', '.join(names) or 'none'}: name each output{' as the model does' if keyed else ''}"
        )
    return outputs.names if keyed else names


def _order_outputs(graph: onnx.GraphProto, names: Sequence[str]) -> None:
    values = {value.name: value for value in graph.output}
    ordered = [values[name] for name in names]
    del graph.output[:]
    graph.output.extend(ordered)


def _exported(
    model: nn.Module,
    examples: tuple[Tensor, ...],
    opset: int,
    names: tuple[Sequence[str], Sequence[str]],
    length: str | None,
) -> onnx.ModelProto:
    try:
        with quiet(), returning_tensors(model):
            program = torch.onnx.export(
                model,
                examples,
                dynamo=True,
                external_data=False,
                verbose=False,
                opset_version=opset,
                input_names=[f"input.{place}" for place in range(len(names[0]))],
                output_names=[f"output.{place}" for place in range(len(names[1]))],
                custom_translation_table=_translations(),
                dynamic_shapes=None if length is None else _varying(model, examples, length),
            )
    except torch.onnx.OnnxExporterError as error:
        raise ConfigError(
            f"{_class_of(model)} cannot be exported to ONNX ({reason_of(error)}); write this part of the network with other "
            "operations, without control flow that depends on values"
        ) from error
    assert program is not None
    exported = program.model_proto
    _name_ends(exported.graph, names)
    return exported


def _class_of(model: nn.Module) -> str:
    """Return the class of a model, or of the user's model inside modules of torch and edgedistill."""
    own = (one for one in model.modules() if not type(one).__module__.startswith(("torch.", "edgedistill.")))
    return type(next(own, model)).__name__


def _varying(model: nn.Module, examples: tuple[Tensor, ...], length: str) -> tuple[Any, ...]:
    """Return shapes for torch.export in which the last axis of each input varies; `forward(*inputs)` takes them as one tuple."""
    axis = torch.export.Dim(length, min=2)
    shapes = tuple({example.ndim - 1: axis} for example in examples)
    kinds = [parameter.kind for parameter in inspect.signature(model.forward).parameters.values()]
    return (shapes,) if kinds[:1] == [inspect.Parameter.VAR_POSITIONAL] else shapes


def _name_ends(graph: onnx.GraphProto, names: tuple[Sequence[str], Sequence[str]]) -> None:
    """Name inputs and outputs; rename an inner tensor with the same name, which torch would write twice."""
    pool, renamed = Names.of(graph), dict[str, str]()
    taken = {name for node in graph.node for name in node.output} | {tensor.name for tensor in graph.initializer}
    for values, wanted in ((graph.input, names[0]), (graph.output, names[1])):
        for value, name in zip(values, wanted, strict=True):
            if name in taken and name not in renamed:
                renamed[name] = pool.new(name)
            renamed[value.name] = name
    for node in all_nodes(graph):
        for field in (node.input, node.output):
            for place, name in enumerate(field):
                field[place] = renamed.get(name, name)
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = renamed.get(value.name, value.name)


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the ONNX form of the two rounding operators; old TensorRT requires the zero points."""
    op: Any = onnxscript.opset18
    zeros = [
        onnx.helper.make_tensor("zero_point", kind, (), [0]) for kind in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    ]

    def quantize_dequantize(x: Any, scale: Any, unsigned: bool) -> Any:  # noqa: FBT001 - the operator's signature
        zero_point = op.Constant(value=zeros[unsigned])
        return op.DequantizeLinear(op.QuantizeLinear(x, scale, zero_point), scale, zero_point)

    def dequantize_weight(weight: Any, scale: Any) -> Any:
        return op.DequantizeLinear(weight, scale, axis=0)

    operators = torch.ops.edgedistill
    return {
        operators.quantize_dequantize.default: quantize_dequantize,
        operators.dequantize_weight.default: dequantize_weight,
    }
