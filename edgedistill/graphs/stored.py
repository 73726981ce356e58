"""The stored tensors of an ONNX model: the files that hold them, their sizes, and values that are not finite."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.errors import ConfigError

if TYPE_CHECKING:
    import onnx


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of the graphs inside them."""
    yield from _nodes(graph.node)


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner.node)


def stored_tensors(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Yield each stored tensor of a model, its subgraphs and its functions, with a name for messages."""
    yield from ((tensor.name, tensor) for tensor in model.graph.initializer)
    functions = [node for function in model.functions for node in _nodes(function.node)]
    for node in (*all_nodes(model.graph), *functions):
        name = node.output[0] if node.output else node.op_type
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t.name or name, attribute.t
            yield from ((tensor.name or name, tensor) for tensor in attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from ((tensor.name, tensor) for tensor in inner.initializer)


def require_external_data(path: Path, model: onnx.ModelProto) -> None:
    """Check the files beside a model that hold its weights, without reading one of them.

    Raises:
        ConfigError: a file is outside the model's folder, is missing, or is shorter than the model says.
    """
    needed: dict[str, int] = {}
    for name, tensor in stored_tensors(model):
        if tensor.data_location == tensor.EXTERNAL:
            location, end = _end_of(path, name, tensor)
            needed[location] = max(needed.get(location, 0), end)
    for location, size in needed.items():
        _require_file(path, location, size)


def _end_of(path: Path, name: str, tensor: onnx.TensorProto) -> tuple[str, int]:
    """Return the file that holds an external tensor, and the number of bytes that the file needs for it."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    length = byte_length(tensor)
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


def _require_file(model: Path, location: str, size: int) -> None:
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


def byte_length(tensor: onnx.TensorProto) -> int:
    """Return the number of bytes of a tensor's values as raw data."""
    import math

    import onnx

    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    width = 4 if tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4) else 8 * dtype.itemsize
    return -(-math.prod(tensor.dims) * width // 8)
