"""ONNX's operators by what they do to values."""

from __future__ import annotations

from typing import Final

RESHAPES: Final = frozenset({"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
KEEPS_GRID: Final = RESHAPES | {"MaxPool", "Slice"}
"""Operators whose results hold values of their first input and no others."""
