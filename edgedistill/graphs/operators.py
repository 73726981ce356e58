"""Groups of ONNX operators by their effect on values."""

from __future__ import annotations

from typing import Final

import onnx

RESHAPES: Final = frozenset({"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
KEEPS_GRID: Final = RESHAPES | {"MaxPool", "Slice"}
"""Operators whose results contain only values of their first input."""


def copies_nearest(node: onnx.NodeProto) -> bool:
    """Return whether a node enlarges a tensor by copies of its values: a Resize in the mode "nearest", which is the default."""
    given = {one.name: one.s for one in node.attribute}
    crops = given.get("coordinate_transformation_mode") == b"tf_crop_and_resize"  # which fills with another value
    return node.op_type == "Resize" and given.get("mode", b"nearest") == b"nearest" and not crops


def keeps_grid(node: onnx.NodeProto) -> bool:
    """Return whether the result of a node contains only values of its first input."""
    return node.op_type in KEEPS_GRID or copies_nearest(node)
