"""The stored tensors of an ONNX model: the files that hold them, their sizes, and values that are not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgedistill.errors import ConfigError

if TYPE_CHECKING:
    import onnx


READS_PARAMETERS: Final = frozenset({
    "BatchNormalization", "Conv", "ConvTranspose", "DequantizeLinear", "GRU", "Gemm", "GroupNormalization",
    "InstanceNormalization", "LSTM", "LayerNormalization", "MatMul", "PRelu", "QuantizeLinear", "RNN",
})  # fmt: skip
"""Operators whose stored inputs are weights, biases or scales; elsewhere an infinity can be meant, as in a mask."""
PASSES_ON: Final = frozenset({"Cast", "Identity", "Reshape", "Transpose"})
"""Operators whose results are their first input in another type or order."""


PACKED: Final = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
"""The number of bits of the types that share bytes."""


MOST_BYTES: Final = 2**31 - 1
"""The largest ONNX model, with its weights, that protobuf writes."""


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of the graphs inside them."""
    yield from _nodes(graph.node)


def nodes_and_functions(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a model, of the graphs inside them, and of its functions."""
    yield from all_nodes(model.graph)
    for function in model.functions:
        yield from _nodes(function.node)


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner.node)


def stored_tensors(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Yield each stored tensor of a model, its subgraphs and its functions, with a name for messages."""
    yield from ((tensor.name, tensor) for tensor in model.graph.initializer)
    for node in nodes_and_functions(model):
        name = node.output[0] if node.output else node.op_type
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield name, attribute.t
            yield from ((tensor.name or name, tensor) for tensor in attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from ((tensor.name, tensor) for tensor in inner.initializer)


def external_files(path: Path, model: onnx.ModelProto) -> tuple[Path, ...]:
    """Check the files beside a model that hold its weights, without reading one of them, and return their paths.

    Raises:
        ConfigError: a file is outside the model's folder, is missing, or is shorter than the model says.
    """
    needed: dict[str, int] = {}
    for name, tensor in stored_tensors(model):
        if tensor.data_location == tensor.EXTERNAL:
            location, end = _end_of(path, name, tensor)
            needed[location] = max(needed.get(location, 0), end)
    return tuple(_require_file(path, location, size) for location, size in needed.items())


def require_size(path: Path, size: int) -> None:
    """Raise ConfigError for a model, or the file of a model, that is too large for protobuf."""
    if size > MOST_BYTES:
        raise ConfigError(
            f"{path}: has {size / 2**30:.2f} GiB, and models above 2 GiB are not supported; export it in float16, or in parts"
        )


def size_with_weights(path: Path, model: onnx.ModelProto) -> int:
    """Return the bytes of a model that was read without external data, and of these data."""
    stored = stored_tensors(model)
    external = (_byte_length(path, name, one) for name, one in stored if one.data_location == one.EXTERNAL)
    return model.ByteSize() + sum(external)


def _end_of(path: Path, name: str, tensor: onnx.TensorProto) -> tuple[str, int]:
    """Return the file that holds an external tensor, and the number of bytes that the file needs for it."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    length = _byte_length(path, name, tensor)
    numbers = [entries.get("offset", "0"), entries.get("length", str(length))]
    if not all(number.isascii() and number.isdigit() for number in numbers) or "location" not in entries:
        raise ConfigError(f"{path}: tensor '{name}' has no valid place in a weights file; export the model again")
    offset, written = int(numbers[0]), int(numbers[1])
    if written != length:
        raise ConfigError(
            f"{path}: tensor '{name}' has {written:,} bytes in the weights file '{entries['location']}', but its shape "
            f"needs {length:,}; export the model again"
        )
    return entries["location"], offset + length


def _require_file(model: Path, location: str, size: int) -> Path:
    path = (model.parent / location).resolve()
    if not path.is_relative_to(model.parent.resolve()):
        raise ConfigError(f"{model}: refused, because its weights file '{location}' is outside the folder of the model")
    if not path.is_file():
        raise ConfigError(f"{model}: its weights file '{location}' is missing; copy it into the folder of the model")
    found = path.stat().st_size
    if found < size:
        raise ConfigError(
            f"{model}: its weights file '{location}' has {found:,} bytes, but the model needs {size:,}; "
            "copy the whole file again"
        )
    return path


def require_inline_data(path: Path, model: onnx.ModelProto) -> None:
    """Raise ConfigError for a tensor in the model's file whose data is shorter or longer than its shape."""
    for name, tensor in stored_tensors(model):
        if tensor.HasField("raw_data") and tensor.data_location != tensor.EXTERNAL:
            needed = _byte_length(path, name, tensor)
            if len(tensor.raw_data) != needed:
                raise ConfigError(
                    f"{path}: tensor '{name}' has {len(tensor.raw_data):,} bytes, but its shape needs {needed:,}; "
                    "export the model again"
                )


def _byte_length(path: Path, name: str, tensor: onnx.TensorProto) -> int:
    """Return the number of bytes of a tensor's values as raw data."""
    import onnx

    known = onnx.TensorProto.DataType
    if tensor.data_type not in set(known.values()) - {onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING}:
        raise ConfigError(f"{path}: tensor '{name}' has data of the unknown type {tensor.data_type}")
    bits = PACKED.get(known.Name(tensor.data_type))
    width = bits or 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return -(-math.prod(tensor.dims) * width // 8)


def not_finite(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto, str]]:
    """Yield each stored tensor with NaN, or with an infinity among weights, biases and scales: name, tensor, values."""
    import numpy as np
    import onnx

    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    parameters = _parameters(model.graph)
    for name, tensor in stored_tensors(model):
        if tensor.data_type in kinds:
            values = onnx.numpy_helper.to_array(tensor)
            wrong = ~np.isfinite(values) if name in parameters else np.isnan(values)
            if wrong.any():
                first = float(values[wrong].flat[0])
                yield name, tensor, f"{int(wrong.sum())} of {values.size} values are not finite, the first is {first:g}"


def _parameters(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the tensors that are weights, biases or scales, before casts and transpositions too."""
    names = set[str]()
    for node in reversed(list(all_nodes(graph))):
        if node.op_type in READS_PARAMETERS:
            names.update(node.input)
        elif node.op_type in PASSES_ON and node.output[0] in names:
            names.add(node.input[0])
    return names


def require_finite(path: Path, model: onnx.ModelProto) -> None:
    """Raise ConfigError for the first stored tensor with values that are not finite."""
    for name, _, fault in not_finite(model):
        raise ConfigError(
            f"{path}: in the stored tensor '{name}', {fault}; the model cannot answer: export it again from a sound checkpoint"
        )
