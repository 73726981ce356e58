"""The base class of records, references to files of a run, and the int8 encodings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

Encoding = Literal["s8-f32", "u8-f32", "u8-i32", "s8-i32", "s8-f16", "dyn-i32", "w8-f32"]
"""Activation type and bias type of an int8 ONNX model: signed with zero point 0, or unsigned with zero point 128.

In u8-f32, activations that are never negative are unsigned with zero point 0, and the others are signed. In u8-i32 the
same holds for models quantized with unsigned activations, but the others have zero point 128; and a convolution that reads few
channels may read channels of zeros beside them.

In s8-f16 all float values are float16: biases, scales, and the computation between int8 layers.

In dyn-i32 dense layers find the scale of their input in each inference, and the other layers are as in u8-i32. In w8-f32 only
weights are int8: layers compute in float. These two give other outputs than the encodings with static scales.
"""

Activations = Literal["signed", "unsigned"]
"""The integer type of activations: "signed" is int8, which every engine supports; with "unsigned", activations that are
never negative are uint8 with zero point 0, which gives them 256 steps instead of 128 and which TensorRT does not support.
"""

Weights = Literal["full", "narrow"]
"""The range of int8 weights: "full" uses all 8 bits of each channel; with "narrow", the scale of a channel is larger where
two weights that x86 without VNNI adds in 16 bits would overflow.
"""


Ranges = Literal["mse", "minmax"]
"""How the range of an activation is chosen: by the least squared error of rounding and clipping, or as the largest magnitude."""


class Record(BaseModel):
    """A frozen value; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class GrownRecord(Record):
    """A record whose `later` fields were added later: with their default they are not written, so that hashes stay as they were."""

    later: ClassVar[frozenset[str]]

    @model_serializer(mode="wrap")
    def _without_later(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        table: dict[str, Any] = dump(self)
        defaults = {key: type(self).model_fields[key].default for key in self.later}
        return {key: value for key, value in table.items() if key not in defaults or value != defaults[key]}


class Scheme(Record):
    """The integers of an int8 model."""

    activations: Activations = "signed"
    weights: Weights = "full"


class FileRef(Record):
    """A file of a run, by its path relative to the run folder."""

    path: str
    sha256: str
    bytes: int


NO_FILE: Final = FileRef(path="", sha256="", bytes=0)
"""A file that is not written yet."""


def readable(name: str) -> str:
    r"""Return the name of a file as text that every file can hold: what is not UTF-8 is written as \udce9."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def explain_validation(error: ValidationError, origin: Path) -> str:
    """Return one line for each invalid field: the file, the field, and the problem."""
    lines = (f"{origin}: {'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors())
    return "\n".join(dict.fromkeys(lines))
