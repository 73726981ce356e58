"""Move outlier channels of activations into the weights behind a normalisation, which is exact in float up to rounding.

A few channels of a transformer are many times larger than the others, and one int8 scale for all of them loses the others.
SmoothQuant (Xiao et al., ICML 2023) divides the channels by sqrt(largest activation / largest weight) and multiplies the
weights that read them. The division is free in the scale and the shift of the normalisation before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgedistill.graphs.index import Edits, Index
from edgedistill.graphs.run import Requests, run_each

Values = NDArray[np.float32]
DENSE: Final = frozenset({"Gemm", "MatMul"})
LEAST: Final = 1e-6
"""Channels and weights below this magnitude count as this magnitude."""


@dataclass(frozen=True)
class Site:
    """A normalisation that dense layers read, directly or after a Reshape.

    `vectors` are the nodes that hold its scale and shift, with the input's index; `reshapes` and `layers` read `result`.
    """

    result: str
    vectors: tuple[tuple[onnx.NodeProto, int], ...]
    reshapes: tuple[onnx.NodeProto, ...]
    layers: tuple[onnx.NodeProto, ...]


def smoothed(model: onnx.ModelProto, requests: Requests) -> tuple[onnx.ModelProto, int]:
    """Return a copy of a float model with moved outliers, and the number of normalisations that were changed.

    `requests` are real inputs (R, *the input's shape) by name, which show the largest value of each channel.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    with Edits(result.graph) as edits:
        sites = list(_sites(edits.index))
        largest = _largest(model, [site.result for site in sites], requests)
        for site in sites:
            weights = [_rows(edits.index, layer) for layer in site.layers]
            most = np.maximum(np.max([np.abs(rows).max(1) for rows in weights], axis=0), LEAST)
            factors = np.sqrt(np.maximum(largest[site.result], LEAST) / most)
            _apply(edits, site, (factors / np.exp(np.log(factors).mean())).astype(np.float32))
    return result, len(sites)


def has_normalisations(model: onnx.ModelProto) -> bool:
    """Return whether dense layers of a model read a normalisation, as those of transformers do."""
    return next(_sites(Index.of(model.graph)), None) is not None


def _sites(index: Index) -> Iterator[Site]:
    for name, node in index.producer.items():
        vectors = tuple(_vectors(index, node))
        readers = index.users.get(name, ()) if vectors else ()
        reshapes = tuple(one for one in readers if one.op_type == "Reshape" and _feeds_dense(index, one))
        direct = [one for one in readers if _is_dense(index, one, name)]
        layers = (*direct, *(layer for one in reshapes for layer in index.users[one.output[0]]))
        if layers and name == node.output[0]:
            yield Site(name, vectors, reshapes, layers)


def _vectors(index: Index, node: onnx.NodeProto) -> Iterator[tuple[onnx.NodeProto, int]]:
    """Yield where a normalisation's scale and shift are stored; nothing for another node."""
    if node.op_type == "LayerNormalization":
        if all(_is_vector(index, name) for name in node.input[1:]):
            yield from ((node, place) for place in range(1, len(node.input)))
        return
    shift = _stored_place(index, node) if node.op_type == "Add" else None
    scaled = node if shift is None else index.producer.get(node.input[1 - shift])
    if scaled is None or (scaled is not node and index.readers[scaled.output[0]] != 1):
        return
    scale = _stored_place(index, scaled) if scaled.op_type == "Mul" else None
    if scale is None or not _is_normalised(index, scaled.input[1 - scale]):
        return
    yield scaled, scale
    if shift is not None:
        yield node, shift


def _is_normalised(index: Index, name: str) -> bool:
    """Return whether a tensor was divided by its deviation, as an exporter without LayerNormalization writes it."""
    node = index.producer.get(name)
    return node is not None and node.op_type == "Div"


def _stored_place(index: Index, node: onnx.NodeProto) -> int | None:
    """Return which input of a node with two inputs is a stored vector."""
    return next((place for place, name in enumerate(node.input) if _is_vector(index, name)), None)


def _is_vector(index: Index, name: str) -> bool:
    stored = index.stored.get(name)
    return stored is not None and len(stored.dims) == 1 and stored.dims[0] > 1 and stored.data_type == TensorProto.FLOAT


def _is_dense(index: Index, node: onnx.NodeProto, name: str) -> bool:
    """Return whether a node multiplies a tensor by a stored matrix."""
    if node.op_type not in DENSE or node.input[0] != name or _integer(node, "transA"):
        return False
    weight = index.stored.get(node.input[1])
    return weight is not None and len(weight.dims) == 2 and weight.data_type == TensorProto.FLOAT


def _feeds_dense(index: Index, reshape: onnx.NodeProto) -> bool:
    """Return whether a Reshape keeps the last axis and only dense layers read it."""
    name, shape = reshape.output[0], index.value(reshape.input[1])
    readers = index.users.get(name, ())
    if shape is None or index.readers[name] != len(readers):
        return False
    return bool(readers) and all(
        _is_dense(index, one, name) and len(_rows(index, one)) == shape.ravel()[-1] for one in readers
    )


def _integer(node: onnx.NodeProto, key: str) -> int:
    return next((entry.i for entry in node.attribute if entry.name == key), 0)


def _rows(index: Index, layer: onnx.NodeProto) -> Values:
    """Return the weight of a dense layer as (inputs, outputs)."""
    weight = index.value(layer.input[1])
    assert weight is not None
    values = weight.astype(np.float32, copy=False)
    return values.T if _integer(layer, "transB") else values


def _largest(model: onnx.ModelProto, names: list[str], requests: Requests) -> dict[str, NDArray[np.float64]]:
    """Return the largest magnitude of each channel, the last axis, of tensors."""
    watching = onnx.ModelProto()
    watching.CopyFrom(model)
    known = {output.name for output in watching.graph.output}
    watching.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in known
    )
    found: dict[str, NDArray[np.float64]] = {}
    for answer in run_each(watching.SerializeToString(), requests) if names else ():
        for name in names:
            value = np.abs(answer[name].astype(np.float64)).reshape(-1, answer[name].shape[-1]).max(0)
            found[name] = np.maximum(found.get(name, 0.0), value)
    return found


def _apply(edits: Edits, site: Site, factors: Values) -> None:
    """Divide a normalisation's result by the factors, and multiply what reads it."""
    for node, place in site.vectors:
        stored = edits.index.value(node.input[place])
        assert stored is not None
        node.input[place] = edits.store(
            f"{node.input[place]}_smoothed", (stored.astype(np.float32) / factors).astype(np.float32)
        )
    maker = edits.index.producer[site.result]
    divided = edits.names.new(f"{site.result}_smoothed")
    maker.output[0] = divided
    for reader in (*site.reshapes, *(layer for layer in site.layers if layer.input[0] == site.result)):
        reader.input[0] = divided
    for layer in site.layers:
        rows = _rows(edits.index, layer) * factors[:, None]
        weight = np.ascontiguousarray(rows.T if _integer(layer, "transB") else rows)
        layer.input[1] = edits.store(f"{layer.input[1]}_smoothed", weight)
    if edits.index.readers[site.result] > len(site.reshapes) + sum(layer.input[0] == divided for layer in site.layers):
        factor = edits.store(f"{site.result}_factors", factors)
        restore = helper.make_node("Mul", [divided, factor], [site.result], name=f"{site.result}_restored")
        edits.insert_after(maker, restore)
