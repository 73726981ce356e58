"""What all records are made of: the frozen base class, files of a run, and the forms of int8."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

Encoding = Literal["s8-f32", "u8-f32", "u8-i32", "s8-i32", "s8-f16"]
"""Activation type and bias type of an int8 ONNX model: signed with zero point 0, or unsigned with zero point 128.

In u8-f32 what is never negative is unsigned with zero point 0, and the rest signed; in u8-i32 it is so, beside zero point
128 for the rest, where the model was quantized with unsigned activations.

In s8-f16 all that is float elsewhere is float16: biases, scales, and what is computed between the int8 layers.
"""

Activations = Literal["signed", "unsigned"]
"""What activations are rounded to: "signed" is int8 for all, which every engine takes; with "unsigned" what is never
negative has the 256 steps of uint8 with zero point 0 instead of 128, which TensorRT does not take.
"""


class Record(BaseModel):
    """A frozen value; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileRef(Record):
    """A file of a run, by its path relative to the run folder."""

    path: str
    sha256: str
    bytes: int


def explain_validation(error: ValidationError, origin: Path) -> str:
    """Write one line for each field that a record refuses: the file, the field, and what is wrong with it."""
    lines = (f"{origin}: {'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors())
    return "\n".join(dict.fromkeys(lines))
