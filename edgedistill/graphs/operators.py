"""Groups of ONNX operators by their effect on values."""

from __future__ import annotations

from typing import Final

RESHAPES: Final = frozenset({"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
KEEPS_GRID: Final = RESHAPES | {"MaxPool", "Slice"}
"""Operators whose results contain only values of their first input."""
