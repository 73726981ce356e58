"""Turn the inputs of models back into the pictures that they were made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill.records.contract import PictureRules

Array = npt.NDArray[Any]


def picture_of(request: Array, rules: PictureRules) -> Array:
    """Return the picture of a request (1, ...): what becomes this request by the rules, uint8 (H, W, 3) or (H, W)."""
    values = request[0]
    if rules.dtype == "float32":
        values = values.transpose(1, 2, 0) if rules.layout == "NCHW" else values
        values = values * np.array(1.0 if rules.std is None else rules.std)
        values = (values + np.array(0.0 if rules.mean is None else rules.mean)) * rules.divide_by
    pixels: Array = np.rint(values).clip(0, 255).astype(np.uint8)
    return pixels.reshape(rules.height, rules.width) if rules.colour == "grey" else pixels
