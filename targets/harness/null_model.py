"""The null model, the smallest possible model: it measures an engine's own memory, which belongs to no model."""

from __future__ import annotations

from pathlib import Path
from typing import Dict

import numpy as np
from kit import Engine

PRECISION = "fp32"
SHAPE = (1, 3, 32, 32)
INPUT = "x"
FLOAT = 1  # ONNX's number for float32
OPSET, IR_VERSION = 13, 7


def requests() -> Dict[str, np.ndarray]:
    """Return one request for the null model, in the format of recorded inputs."""
    return {f"input.{INPUT}": np.zeros((1, *SHAPE), np.float32)}


def compile_null(engine: Engine, out: Path, threads: int) -> Path:
    """Compile the null model with an engine, and return the file to load."""
    out.mkdir(parents=True)
    model = out / "null.onnx"
    model.write_bytes(null_onnx())
    return out / str(engine.compile(model, out, PRECISION, threads)["entry"])


def null_onnx() -> bytes:
    """Return an ONNX model of one Relu, encoded by hand: a device has no onnx package. Field numbers are those of onnx.proto."""
    node = _field(1, INPUT.encode()) + _field(2, b"y") + _field(4, b"Relu")
    graph = _field(1, node) + _field(2, b"null") + _field(11, _value(INPUT)) + _field(12, _value("y"))
    opset = _field(1, b"") + _number(2, OPSET)
    return _number(1, IR_VERSION) + _field(7, graph) + _field(8, opset)


def _value(name: str) -> bytes:
    shape = b"".join(_field(1, _number(1, size)) for size in SHAPE)
    tensor = _number(1, FLOAT) + _field(2, shape)
    return _field(1, name.encode()) + _field(2, _field(1, tensor))


def _field(number: int, content: bytes) -> bytes:
    """Encode a field of protobuf with a length: a string, bytes or a message."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
