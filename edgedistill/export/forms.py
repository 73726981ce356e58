"""The variants of a model (precision, encoding, opset) that targets need, and the conversion to a variant."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import onnx
from onnx import TensorProto

from edgedistill.errors import ParityError
from edgedistill.export.settings import ExportTarget
from edgedistill.graphs.encodings import encode
from edgedistill.graphs.float16 import emulated, float32_nodes, to_float16
from edgedistill.graphs.metadata import is_marked
from edgedistill.graphs.pixels import MARK as PIXELS
from edgedistill.graphs.run import Arrays, Requests, run_onnx
from edgedistill.kits.kits import Kit
from edgedistill.records.base import Encoding
from edgedistill.records.parity import Parity

LOADED = 2
"""The number of requests that check that ONNX Runtime can run a float16 file itself."""


class Variant(NamedTuple):
    """One file to write: `encoding` is None for float models."""

    precision: str
    encoding: Encoding | None
    opset: int


def variants(targets: Sequence[ExportTarget], kits: Mapping[str, Kit], source: str, opset: int | None) -> list[Variant]:
    """Return the files to write for a float ("fp32") or quantized ("int8") model, in an opset all targets take.

    `opset` is the opset that the configuration sets; None for the highest possible.
    """
    wanted: dict[tuple[str, Encoding | None], int] = {}
    for target in targets:
        for form in kits[target.kit].forms():
            for precision in target.with_float:
                key = (precision, form.encoding if precision == "int8" else None)
                if (precision == "int8") == (source == "int8"):
                    wanted[key] = min(wanted.get(key, form.opset), form.opset)
    return [
        Variant(precision, encoding, opset or highest)
        for (precision, encoding), highest in sorted(wanted.items(), key=str, reverse=True)
    ]


def in_form(
    model: onnx.ModelProto, variant: Variant, requests: Requests, *, pixels: bool = True
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Convert an fp32 model, or a canonical int8 model, to a variant; return it and the names of nodes left in float32.

    Args:
        model: the model, in the variant's opset.
        variant: what to write.
        requests: for each input, real inputs (R, *the input's shape), to find values beyond float16.
        pixels: whether an int8 convolution may read the pixels of a picture, as in `encode`.
    """
    kept = float32_nodes(model, requests) if is_half(variant) else ()
    if variant.encoding is not None:
        return encode(model, variant.encoding, kept, pixels=pixels), kept
    if is_half(variant):
        return to_float16(model, kept), kept
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy, ()


def checked_form(
    model: onnx.ModelProto, variant: Variant, requests: Requests, check: Callable[[onnx.ModelProto], Parity]
) -> tuple[onnx.ModelProto, tuple[str, ...], Parity]:
    """Convert a model as `in_form` does, and return the parity by `check` too, which raises ParityError outside the limits.

    A file whose first convolution reads pixels rounds in another way than the model in torch does. Where that changes too many answers,
    the file normalizes in float instead.
    """
    converted, kept = in_form(model, variant, requests)
    try:
        return converted, kept, check(converted)
    except ParityError:
        if not is_marked(converted, PIXELS):
            raise
    converted, kept = in_form(model, variant, requests, pixels=False)
    return converted, kept, check(converted)


def is_half(variant: Variant) -> bool:
    """Return whether a variant computes in float16; only real inputs show which parts exceed its range."""
    return variant.precision == "fp16" or variant.encoding == "s8-f16"


def comparable(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model that ONNX Runtime runs for a comparison: the model itself or, for float16, its emulation."""
    half = any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
    return emulated(model) if half else model


def answers_of(model: onnx.ModelProto, requests: Requests) -> Arrays:
    """Return a model's outputs as `run_onnx` does; a float16 model rounds every result, as engines do."""
    shown = comparable(model)
    if shown is not model:
        run_onnx(model.SerializeToString(), {name: values[:LOADED] for name, values in requests.items()})
    return run_onnx(shown.SerializeToString(), requests)
