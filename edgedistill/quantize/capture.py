"""Capture a model as a graph without dropout, with batch norm folded and dead code removed."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from edgedistill.errors import ConfigError
from edgedistill.quantize.outputs import Outputs, returning_tensors, returns_of
from edgedistill.quantize.torch_export import quiet, reason_of

ATEN = torch.ops.aten
CONVOLUTION = {
    ATEN.conv1d.default,
    ATEN.conv1d.padding,
    ATEN.conv2d.default,
    ATEN.conv2d.padding,
    ATEN.conv3d.default,
    ATEN.conv3d.padding,
}
TRANSPOSED = {ATEN.conv_transpose1d.default, ATEN.conv_transpose2d.input, ATEN.conv_transpose3d.input}
LINEAR = {ATEN.linear.default}
OUTPUTS = "outputs"
"""The key of the outputs in a captured graph's `meta`."""


def capture(model: nn.Module, examples: tuple[Tensor, ...]) -> fx.GraphModule:
    """Return an evaluation-mode copy of a model as a graph of functional ATen operations.

    The graph takes the model's positional inputs. It returns a tensor, or a tuple if the model has several outputs;
    `outputs_of` returns their names. The graph takes any batch size if the model does, else one sample
    (`takes_batches`).

    Args:
        model: any module that takes and returns tensors (`named_outputs`); it is not changed.
        examples: one tensor (N, ...) for each input; only its first sample is used.

    Raises:
        ConfigError: torch.export cannot capture the model, the model returns anything but tensors, or it has an attribute with
            a name that torch.fx keeps for itself.
    """
    _require_free_names(model)
    model = copy.deepcopy(model).eval()
    samples = tuple(example[:1] for example in examples)
    outputs = _returns_of(model, samples)
    with returning_tensors(model):
        graph = _exported_for_batches(model, samples) or _exported(model, samples, None)
    _drop_copies(graph)
    _fold_batch_norms(graph)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    # A new graph module has only the parameters and buffers that its graph reads.
    result = fx.GraphModule(graph, graph.graph)
    result.meta[OUTPUTS] = outputs
    return result


def outputs_of(graph: fx.GraphModule) -> Outputs:
    """Return the names of a captured graph's outputs, and whether the model itself returns its outputs by name."""
    return cast("Outputs", graph.meta[OUTPUTS])


def takes_batches(graph: fx.GraphModule) -> bool:
    """Return whether every input of a captured graph takes any batch size."""
    entries = (node for node in graph.graph.nodes if node.op == "placeholder")
    return not any(isinstance(entry.meta["val"].shape[0], int) for entry in entries)


def tensor_at(graph: fx.GraphModule, node: fx.Node) -> Tensor:
    """Return the parameter or buffer that a `get_attr` node reads, detached."""
    owner, _, name = str(node.target).rpartition(".")
    return cast("Tensor", getattr(graph.get_submodule(owner), name)).detach()


def _require_free_names(model: nn.Module) -> None:
    """Raise ConfigError for parts of a model that have the name of an attribute of fx.GraphModule, which would hide them."""
    empty = fx.GraphModule(nn.Module(), fx.Graph())
    parts = (*model.named_children(), *model.named_parameters(recurse=False), *model.named_buffers(recurse=False))
    hidden = [name for name, _ in parts if hasattr(empty, name)]
    if hidden:
        raise ConfigError(
            f"{type(model).__name__} cannot be captured, because torch.fx uses the names {', '.join(hidden)} itself; rename "
            "these attributes of the model, or use [quantize] mode = 'none'"
        )


def _returns_of(model: nn.Module, samples: tuple[Tensor, ...]) -> Outputs:
    try:
        return returns_of(model, samples)
    except (RuntimeError, TypeError) as error:
        shapes = ", ".join(str(tuple(sample.shape)) for sample in samples)
        raise ConfigError(f"{type(model).__name__} does not run on inputs of shape {shapes}: {error}") from error


def _exported_for_batches(model: nn.Module, samples: tuple[Tensor, ...]) -> fx.GraphModule | None:
    # Batches of two, because torch.export treats a size of one as a constant.
    pairs = tuple(torch.cat([sample, sample]) for sample in samples)
    try:
        graph = _exported(model, pairs, {0: torch.export.Dim.AUTO})
    except ConfigError:
        return None
    return graph if takes_batches(graph) else None


def _exported(model: nn.Module, examples: tuple[Tensor, ...], sizes: dict[int, Any] | None) -> fx.GraphModule:
    shapes = None if sizes is None else tuple(sizes for _ in examples)
    try:
        with quiet():
            program = torch.export.export(model, examples, dynamic_shapes=shapes)
            # The empty table decomposes nothing; it makes in-place operations functional.
            exported = program.run_decompositions({}).module(check_guards=False)
    except RuntimeError as error:
        raise ConfigError(
            f"{type(model).__name__} cannot be captured by torch.export ({reason_of(error)}); "
            "remove control flow that depends on values, or use [quantize] mode = 'none'"
        ) from error
    graph = exported.graph
    (output,) = (node for node in graph.nodes if node.op == "output")
    results = tuple(output.args[0])
    output.args = (results if len(results) > 1 else results[0],)
    graph.set_codegen(fx.graph.CodeGen())
    return fx.GraphModule(exported, graph)


def _drop_copies(graph: fx.GraphModule) -> None:
    """Remove the copies that dropout becomes in evaluation mode."""
    for node in list(graph.graph.nodes):
        plain_copy = node.target is ATEN.clone.default and not node.kwargs
        if plain_copy or node.target is ATEN.dropout.default or node.target is ATEN.alias.default:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)


def _fold_batch_norms(graph: fx.GraphModule) -> None:
    """Fold each batch norm into the weight and bias of the layer before it, if it is the layer's only reader."""
    for node in list(graph.graph.nodes):
        if node.target is not ATEN._native_batch_norm_legit_no_training.default:  # noqa: SLF001 - its public name
            continue
        layer = node.args[0]
        results = list(node.users)
        if len(results) == 1 and results[0].args[1] == 0 and _foldable(layer):
            _fold(graph, layer, node)
            results[0].replace_all_uses_with(layer)
            graph.graph.erase_node(results[0])
            graph.graph.erase_node(node)


def _foldable(layer: fx.Node) -> bool:
    if layer.target in LINEAR and layer.meta["val"].dim() != 2:
        return False  # the batch norm normalizes another axis than the layer's outputs
    weighted = layer.target in CONVOLUTION | TRANSPOSED | LINEAR
    return weighted and len(layer.users) == 1 and cast("fx.Node", layer.args[1]).op == "get_attr"


def _fold(graph: fx.GraphModule, layer: fx.Node, norm: fx.Node) -> None:
    """Scale the weight by gamma / sqrt(var + eps) per output channel, and shift the bias to match (in float64)."""
    weight_node = cast("fx.Node", layer.args[1])
    weight = tensor_at(graph, weight_node).double()
    old_bias = layer.args[2] if len(layer.args) > 2 else None
    gamma, beta, mean, variance = (_value(graph, argument) for argument in norm.args[1:5])
    assert mean is not None
    assert variance is not None
    factor = (variance + cast("float", norm.args[6])).rsqrt()
    if gamma is not None:
        factor = factor * gamma
    bias = -mean if old_bias is None else tensor_at(graph, cast("fx.Node", old_bias)).double() - mean
    bias = bias * factor if beta is None else bias * factor + beta
    folded = _scaled_per_output(layer, weight, factor)
    owner = str(weight_node.target).rpartition(".")[0]
    prefix = f"{owner}." if owner else ""
    dtype = tensor_at(graph, weight_node).dtype
    arguments = [*layer.args[:2], None, *layer.args[3:]]
    arguments[1] = _new_parameter(graph, layer, str(weight_node.target), folded.to(dtype))
    arguments[2] = _new_parameter(graph, layer, f"{prefix}bias", bias.to(dtype))
    layer.args = tuple(arguments)


def _value(graph: fx.GraphModule, argument: Any) -> Tensor | None:
    return None if argument is None else tensor_at(graph, argument).double()


def _scaled_per_output(layer: fx.Node, weight: Tensor, factor: Tensor) -> Tensor:
    if layer.target not in TRANSPOSED:
        return weight * factor.reshape(-1, *[1] * (weight.dim() - 1))
    # A transposed weight is (in, out / groups, ...), its inputs ordered by group.
    groups = cast("int", layer.args[6]) if len(layer.args) > 6 else 1
    by_group = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return (by_group * factor.reshape(groups, 1, -1, 1)).reshape(weight.shape)


def _new_parameter(graph: fx.GraphModule, before: fx.Node, name: str, value: Tensor) -> fx.Node:
    """Store a parameter and return a node that reads it, before another node; a name that is taken gets a number."""
    taken = {node.target for node in graph.graph.nodes if node.op == "get_attr" and set(node.users) - {before}}
    unique, count = name, 1
    while unique in taken:
        unique, count = f"{name}_{count}", count + 1
    owner, _, leaf = unique.rpartition(".")
    setattr(graph.get_submodule(owner), leaf, nn.Parameter(value))
    with graph.graph.inserting_before(before):
        return graph.graph.get_attr(unique)
