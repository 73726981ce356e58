"""Exact repairs of lint findings: the repaired model gives the same outputs as the file.

Repairs that round again (float biases to int32, new scales for uint8 around 0) are left to the export.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgedistill.errors import ConfigError
from edgedistill.export.lint.view import MOVES, KitLimits, View, label
from edgedistill.export.lint.whole import validity
from edgedistill.graphs.index import Edits, axis_of, drop_unread, lift_constants
from edgedistill.graphs.opset import opset_of, to_opset
from edgedistill.graphs.random_inputs import random_inputs
from edgedistill.graphs.shapes import resolve_shapes

SHIFT = 128
Changes = list[str]


@dataclass(frozen=True, slots=True)
class Fixed:
    """A repaired copy of a model, the changes, and the faults without an exact repair, one line each."""

    model: onnx.ModelProto
    changes: tuple[str, ...]
    inexact: tuple[str, ...] = ()


def fix(model: onnx.ModelProto, limits: KitLimits | None = None) -> Fixed:
    """Repair a copy of a model where the repair is exact; `limits` give the encoding and opset that a kit needs."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    lift_constants(result.graph)
    broken = [fault for _, fault in validity(View.of(result))]
    if broken:
        return Fixed(result, (), tuple(broken))
    changes = [change for repair in _repairs(limits) for change in repair(result)]
    if changes:
        drop_unread(result.graph)
        result.graph.ClearField("value_info")
    if limits is None or opset_of(result) <= limits.opset:
        return Fixed(result, tuple(changes))
    try:
        shapes, _ = resolve_shapes(result, {})
        lowered = to_opset(result, limits.opset, random_inputs(result, shapes, requests=1))
    except ConfigError as error:
        return Fixed(result, tuple(changes), (str(error),))
    return Fixed(lowered, (*changes, f"opset {opset_of(result)} converted to {limits.opset}, with the same answers"))


def _repairs(limits: KitLimits | None) -> list[Callable[[onnx.ModelProto], Changes]]:
    repairs: list[Callable[[onnx.ModelProto], Changes]] = [write_zero_points, store_integers, unit_scales]
    if limits is not None and limits.biases == {"float"}:
        repairs.append(restore_biases)
    if limits is not None and limits.activations == {"int8"}:
        repairs.append(make_signed)
    return repairs


def write_zero_points(model: onnx.ModelProto) -> Changes:
    """Write the zero points that the standard assumes where none is written."""
    view, edits, changes = View.of(model), Edits(model.graph), Changes()
    for seen in view.roundings:
        stored = view.index.value(seen.input[0])
        scale, zero = view.index.value(seen.input[1]), view.zero_point(seen)
        written = len(seen.input) > 2 and seen.input[2]
        if written or scale is None or zero is None or (stored is not None and stored.dtype == np.int32):
            continue
        node = edits.index.producer[seen.output[0]]
        name = _store(edits, f"{node.output[0]}_zero_point", np.zeros(scale.shape, zero.dtype))
        del node.input[2:]
        node.input.append(name)
        changes.append(f"{label(seen)}: zero point 0 ({zero.dtype}) written")
    return changes


def store_integers(model: onnx.ModelProto) -> Changes:
    """Round stored float32 weights now, as QuantizeLinear would when the model runs: half to even, clipped."""
    view, changes = View.of(model), Changes()
    with Edits(model.graph) as edits:
        for node in model.graph.node:
            weight = view.index.value(node.input[0]) if node.op_type == "QuantizeLinear" else None
            if weight is None or weight.dtype != np.float32:
                continue
            scale, zero = view.index.value(node.input[1]), view.zero_point(node)
            if scale is None or zero is None or not _is_plain(scale, zero):
                continue
            step, middle = (_spread(node, weight, value).astype(np.float32) for value in (scale, zero))
            ends = np.iinfo(zero.dtype.name)
            integers = np.clip(np.rint(weight.astype(np.float32) / step) + middle, ends.min, ends.max)
            model.graph.initializer.append(numpy_helper.from_array(integers.astype(zero.dtype), node.output[0]))
            edits.remove(node)
            changes.append(f"{label(node)}: {weight.size:,} values stored as {zero.dtype} instead of float32")
    return changes


def unit_scales(model: onnx.ModelProto) -> Changes:
    """Give stored channels of scale 0 the scale 1 and integers at the zero point: both stand for zeros."""
    view, edits, changes = View.of(model), Edits(model.graph), Changes()
    for seen in view.weights:
        scale, zero, integers = view.index.value(seen.input[1]), view.zero_point(seen), view.index.value(seen.input[0])
        if scale is None or zero is None or integers is None or not (scale == 0).any() or scale.ndim > 1:
            continue
        dead = np.broadcast_to(_spread(seen, integers, scale) == 0, integers.shape)
        fresh = np.where(dead, _spread(seen, integers, zero), integers).astype(integers.dtype)
        node = edits.index.producer[seen.output[0]]
        node.input[0] = _store(edits, seen.input[0], fresh)
        node.input[1] = _store(edits, seen.input[1], np.where(scale == 0, scale.dtype.type(1), scale))
        changes.append(f"{label(seen)}: {int((scale == 0).sum())} of {scale.size} channels of scale 0 now have scale 1")
    return changes


def restore_biases(model: onnx.ModelProto) -> Changes:
    """Replace int32 biases with the floats that they represent, except those that float16 scales cannot represent."""
    view, changes, restored = View.of(model), Changes(), set[str]()
    with Edits(model.graph) as edits:
        for layer in view.layers:
            seen = None if layer.bias is None else view.index.dequantizer(layer.bias)
            integers = None if seen is None else view.index.value(seen.input[0])
            if seen is None or integers is None or integers.dtype != np.int32:
                continue
            scale, zero = view.index.value(seen.input[1]), view.zero_point(seen)
            if scale is None or zero is None or scale.ndim > 1 or seen.output[0] in restored:
                continue
            steps = (integers.astype(np.int64) - zero.astype(np.int64)).astype(np.float32)
            with np.errstate(over="ignore"):
                floats = (steps * scale.astype(np.float32)).astype(scale.dtype)
            if not np.isfinite(floats.astype(np.float32)).all():
                continue
            model.graph.initializer.append(numpy_helper.from_array(floats, seen.output[0]))
            edits.remove(edits.index.producer[seen.output[0]])
            restored.add(seen.output[0])
            changes.append(f"{label(layer.adds_bias)}: bias of {integers.size} int32 stored as floats")
    return changes


def make_signed(model: onnx.ModelProto) -> Changes:
    """Convert uint8 around 128 to int8 around 0, everywhere or nowhere: integers between roundings shift too."""
    view = View.of(model)
    unsigned = [node for node in view.roundings if _is_shifted(view.zero_point(node))]
    clips = _clips_between(view, unsigned)
    if not unsigned or clips is None:
        return []
    edits = Edits(model.graph)
    for seen in unsigned:
        node, zero, stored = (
            edits.index.producer[seen.output[0]],
            view.zero_point(seen),
            view.index.value(seen.input[0]),
        )
        assert zero is not None
        node.input[2] = _store(edits, f"{seen.output[0]}_zero_point", np.zeros(zero.shape, np.int8))
        if stored is not None and seen.op_type == "DequantizeLinear":
            node.input[0] = _store(edits, seen.input[0], _signed(stored))
    for clip in clips:
        node = edits.index.producer[clip.output[0]]
        for place, name in enumerate(clip.input[1:], 1):
            bound = view.index.value(name) if name else None
            if bound is not None:
                node.input[place] = _store(edits, name, _signed(bound))
    return [f"{len(unsigned)} roundings of uint8 around 128 are now of int8 around 0"]


def _clips_between(view: View, unsigned: list[onnx.NodeProto]) -> list[onnx.NodeProto] | None:
    """Return the clips of integers between roundings, or None when anything else computes with the integers."""
    leaving = {node.output[0] for node in unsigned if node.op_type == "DequantizeLinear"}
    clips, names = [], [node.output[0] for node in unsigned if node.op_type == "QuantizeLinear"]
    outputs = {value.name for value in view.model.graph.output}
    while names:
        name = names.pop()
        for reader in view.readers.get(name, ()):
            if reader.output[0] in leaving:
                continue
            bounds = all(bound in view.index.stored for bound in reader.input[1:] if bound)
            if reader.op_type not in (MOVES - {"Pad"}) | {"Clip"} or (reader.op_type == "Clip" and not bounds):
                return None
            clips += [reader] if reader.op_type == "Clip" else []
            names.append(reader.output[0])
        if name in outputs:
            return None
    return clips if _enter_by_roundings(view, unsigned) else None


def _enter_by_roundings(view: View, unsigned: list[onnx.NodeProto]) -> bool:
    """Return whether every dequantized tensor is stored, or comes from one of these through clips and moves."""
    entering = {node.output[0] for node in unsigned}
    for node in unsigned:
        name = node.input[0]
        while node.op_type == "DequantizeLinear" and name not in view.index.stored and name not in entering:
            producer = view.index.producer.get(name)
            if producer is None or producer.op_type not in MOVES | {"Clip"}:
                return False
            name = producer.input[0]
    return True


def _is_shifted(zero: NDArray[np.generic] | None) -> bool:
    return zero is not None and zero.dtype == np.uint8 and bool(np.all(zero == SHIFT))


def _signed(values: NDArray[np.generic]) -> NDArray[np.int8]:
    return (values.astype(np.int16) - SHIFT).astype(np.int8)


def _is_plain(scale: NDArray[np.generic], zero: NDArray[np.generic]) -> bool:
    """Return whether the type is int8 or uint8, and the scales are positive float32, per tensor or per channel."""
    sound = (
        scale.dtype == np.float32
        and scale.ndim < 2
        and bool(np.all(np.isfinite(scale)) and np.all(scale.astype(np.float32) > 0))
    )
    return sound and zero.dtype in {np.dtype(np.int8), np.dtype(np.uint8)}


def _spread(node: onnx.NodeProto, value: NDArray[np.generic], each: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return a rounding's scales or zero points, reshaped to broadcast over its tensor."""
    if each.size == 1:
        return each.reshape(())
    axis = axis_of(node) % value.ndim
    return each.reshape([-1 if place == axis else 1 for place in range(value.ndim)])


def _store(edits: Edits, name: str, value: NDArray[np.generic]) -> str:
    return edits.store(name, np.ascontiguousarray(value).reshape(value.shape))
