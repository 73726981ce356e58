"""ONNX models as bytes and files."""

from __future__ import annotations

from pathlib import Path

import onnx

from edgedistill.runtime.files import write_atomic


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write a model with its weights as one file, atomically."""
    write_atomic(path, serialized(model))


def serialized(model: onnx.ModelProto) -> bytes:
    """Return the file content of a model, the same bytes for the same model."""
    return bytes(model.SerializeToString(deterministic=True))
