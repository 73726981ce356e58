"""ONNX models as bytes and files."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import onnx

from edgedistill.runtime.files import write_atomic

LARGEST_BYTES: Final = 2**31 - 1
"""The most bytes of one ONNX file; protobuf allows no more."""


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write a model with its weights as one file, atomically."""
    write_atomic(path, serialized(model))


def serialized(model: onnx.ModelProto) -> bytes:
    """Return the file content of a model, the same bytes for the same model."""
    return bytes(model.SerializeToString(deterministic=True))
