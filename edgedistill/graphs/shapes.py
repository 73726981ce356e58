"""Fixed shapes for the inputs of any ONNX model: set by the user, declared, or chosen by rules and trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgedistill.errors import ConfigError, nearest
from edgedistill.graphs.random_inputs import Shapes, random_inputs
from edgedistill.graphs.reference import Reference, RefusedError
from edgedistill.records.base import Record

if TYPE_CHECKING:
    import onnx

BATCH = 1
IMAGE_SIDE = 224
LENGTHS = (1, 16, 32, 64, 128, 256, 512, 1024)
"""Sizes to try for other dynamic dimensions: networks over time have a minimum and a maximum number of steps."""


class Axis(Record):
    """One dimension of an input: its size, or None and its symbol ("" without one), which equal dimensions share."""

    input: str
    index: int
    size: int | None
    symbol: str


def parse_shapes(texts: tuple[str, ...]) -> Shapes:
    """Parse command-line shapes such as NAME=1x3x224x224; a name may contain "=", and NAME= is a single number."""
    shapes = {}
    for text in texts:
        name, equals, sizes = text.rpartition("=")
        parts = sizes.lower().split("x") if sizes else []
        if not equals or not name or not all(part.isdigit() for part in parts):
            raise ConfigError(f"--shape {text}: write NAME=1x3x224x224, the whole shape of one request")
        shapes[name] = tuple(int(part) for part in parts)
    return shapes


def resolve_shapes(model: onnx.ModelProto, given: Shapes) -> tuple[Shapes, list[str]]:
    """Return a fixed shape for each input, and one line for each automatically chosen dimension."""
    axes = _declared(model)
    _check_given(axes, given)
    sizes, choices = _known_sizes(axes, given)
    open_axes = [axis for axis in _flat(axes) if _key(axis) not in sizes]
    lengths = _try_lengths(model, axes, sizes, open_axes) if open_axes else {}
    for axis in open_axes:
        choices.append(f"{_label(axis)} = {lengths[_key(axis)]}, the first tried size that the model accepts")
    return _shapes(axes, sizes | lengths), list(dict.fromkeys(choices))


def _declared(model: onnx.ModelProto) -> dict[str, list[Axis]]:
    """Return the dimensions of each input; some exporters write a size of 0 or below for a dynamic dimension."""
    constants = {tensor.name for tensor in model.graph.initializer}  # old models list their weights as inputs
    declared = {}
    for value in model.graph.input:
        if value.name in constants:
            continue
        if not value.type.HasField("tensor_type"):
            raise ConfigError(f"input '{value.name}' is not a tensor; sequences and maps are not supported")
        dims = value.type.tensor_type.shape.dim
        declared[value.name] = [
            Axis(input=value.name, index=i, size=dim.dim_value if dim.dim_value > 0 else None, symbol=dim.dim_param)
            for i, dim in enumerate(dims)
        ]
    return declared


def _check_given(axes: dict[str, list[Axis]], given: Shapes) -> None:
    for name, shape in given.items():
        if name not in axes:
            raise ConfigError(f"--shape {name}=...: the model has no such input{nearest(name, axes)}")
        if not _fits(shape, axes[name]):
            text = "x".join(map(str, shape))
            raise ConfigError(f"--shape {name}={text}: does not fit the declared shape {_words(axes[name])}")


def require_samples_fit(model: onnx.ModelProto, shapes: Shapes) -> None:
    """Raise ConfigError for samples (1, *shape) of an input that the model does not take; names of no input are checked elsewhere."""
    axes = _declared(model)
    for name, shape in shapes.items():
        if name not in axes or _fits(shape, axes[name]):
            continue
        known = Counter(axis.size for axis in axes[name] if axis.size is not None)
        other_order = len(shape) == len(axes[name]) and known <= Counter(shape)
        step = (
            "put their axes into this order, with numpy.transpose"
            if other_order
            else "prepare them as the model expects them"
        )
        raise ConfigError(
            f"--data: a sample of input '{name}' has the shape {' x '.join(map(str, shape))}, but the model takes {_words(axes[name])}; {step}"
        )


def _fits(shape: tuple[int, ...], axes: list[Axis]) -> bool:
    sizes_agree = all(axis.size in (None, size) for axis, size in zip(axes, shape, strict=False))
    return len(shape) == len(axes) and all(size > 0 for size in shape) and sizes_agree


def _words(axes: list[Axis]) -> str:
    return " x ".join(str(axis.size or axis.symbol or "?") for axis in axes) or "(a single number)"


def _known_sizes(axes: dict[str, list[Axis]], given: Shapes) -> tuple[dict[str, int], list[str]]:
    """Return the sizes by axis key from the model, the user or a rule, and one line per applied rule."""
    sizes: dict[str, int] = {}
    for axis in _flat(axes):
        if axis.input in given:
            sizes[_key(axis)] = given[axis.input][axis.index]
    choices = []
    for axis in _flat(axes):
        if axis.size is not None:
            sizes[_key(axis)] = axis.size
        elif _key(axis) not in sizes and (rule := _rule(axis, axes[axis.input])):
            sizes[_key(axis)], why = rule
            choices.append(f"{_label(axis)} = {sizes[_key(axis)]}, {why}")
    return sizes, choices


def _rule(axis: Axis, shape: list[Axis]) -> tuple[int, str] | None:
    """Return the size that a rule gives to a dynamic dimension, and the reason."""
    if axis.index == 0 or "batch" in axis.symbol.lower():
        return BATCH, "the batch"
    channels_last = len(shape) == 4 and shape[1].size is None and shape[3].size in (1, 3, 4)
    if len(shape) == 4 and axis.index in ((1, 2) if channels_last else (2, 3)):
        return IMAGE_SIDE, "the side of an image"
    return None


def _try_lengths(
    model: onnx.ModelProto, axes: dict[str, list[Axis]], sizes: dict[str, int], open_axes: list[Axis]
) -> dict[str, int]:
    """Return the first sizes of the dynamic dimensions with which the model runs."""
    keys = list(dict.fromkeys(_key(axis) for axis in open_axes))
    try:
        reference = Reference(model.SerializeToString())
    except RefusedError:
        return dict.fromkeys(keys, LENGTHS[0])  # the model cannot be run here; the engine will report errors
    refusal = ""
    for lengths in _candidates(keys):
        shapes = _shapes(axes, sizes | lengths)
        try:
            reference.run({name: array[0] for name, array in random_inputs(model, shapes, 1).items()})
        except RefusedError as error:
            refusal = str(error)
        else:
            return lengths
    wanted = " ".join(f"--shape {name}=..." for name in dict.fromkeys(axis.input for axis in open_axes))
    raise ConfigError(
        f"the model runs with none of the tried sizes for its dynamic dimensions: {refusal}; give {wanted}"
    )


def _candidates(keys: list[str]) -> Iterator[dict[str, int]]:
    """Yield sizes for the dynamic dimensions: all equal, then one long and the others 1."""
    for length in LENGTHS:
        yield dict.fromkeys(keys, length)
    if len(keys) > 1:
        for key in keys:
            for length in LENGTHS[1:]:
                yield dict.fromkeys(keys, 1) | {key: length}


def _key(axis: Axis) -> str:
    """Return the key of a dimension: in ONNX, equal symbols mean equal sizes; "?" and similar names are not symbols."""
    return axis.symbol if axis.symbol.strip("?*-") else f"{axis.input}[{axis.index}]"


def _label(axis: Axis) -> str:
    return f"{axis.input}[{axis.index}]"


def _flat(axes: dict[str, list[Axis]]) -> list[Axis]:
    return [axis for shape in axes.values() for axis in shape]


def _shapes(axes: dict[str, list[Axis]], sizes: dict[str, int]) -> Shapes:
    return {name: tuple(sizes[_key(axis)] for axis in shape) for name, shape in axes.items()}
