"""Decode the outputs of detectors of any origin: scores, and boxes in pixels of the input.

targets/harness/ and edgedistill/tasks/ contain the same file, because devices do not have edgedistill. The host finds out which
decoder outputs need, in edgedistill/tasks/detector_forms.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Decoder(NamedTuple):
    """How the outputs of a detector become scores and boxes.

    `outputs` are the names of the outputs that `layout`, a key of LAYOUTS, reads, in its order. There are `columns` class scores,
    of which number `background` means no object; `activation` is "none", "sigmoid" or "softmax". The four values of a box are
    "corners" x1 y1 x2 y2, "corners-yx" y1 x1 y2 x2, "centres" x y width height, "cells" the same as by YOLOX in relation to cells, or
    "distances", distributions over the distances of the sides from a cell's centre in strides. `relative` boxes are shares of the
    input's `size`, height and width in pixels; the others are pixels. Cells have `strides`, and their centres are `offset` strides
    from their corner. The detections of a `suppressed` detector are final: it needs no suppression. `classes` are the numbers of
    the classes to keep, after the background is left out, in order; none means all. Boxes are clipped to the `part` of the input,
    left, top, right and bottom in pixels, none for all of it; they are returned in relation to its corner, times `scale` along x and y.
    """

    layout: str
    outputs: tuple[str, ...]
    columns: int
    size: tuple[int, int]
    boxes: str
    background: int | None = None
    activation: str = "none"
    relative: bool = False
    strides: tuple[int, ...] = ()
    offset: float = 0.5
    suppressed: bool = False
    classes: tuple[int, ...] = ()
    scale: tuple[float, float] = (1.0, 1.0)
    part: tuple[int, ...] = ()


def decoder_of(table: Mapping[str, Any]) -> Decoder:
    """Return the decoder in a JSON object."""
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    return Decoder(**values)


def decode(outputs: Mapping[str, np.ndarray], decoder: Decoder) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores (A, C) of the classes to keep, and the boxes (A, 4), clipped corners, of the outputs of one request."""
    scores, boxes = LAYOUTS[decoder.layout]([outputs[name] for name in decoder.outputs], decoder)
    if decoder.background is not None:
        scores = np.delete(scores, decoder.background, axis=1)
    if decoder.classes:
        scores = scores[:, list(decoder.classes)]
    height, width = decoder.size
    corners, whole = _corners(boxes, decoder), np.array([width, height] * 2, np.float32)
    if decoder.relative:
        corners = corners * whole
    left, top, right, bottom = decoder.part or (0, 0, width, height)
    low, high = np.array([left, top] * 2, np.float32), np.array([right, bottom] * 2, np.float32)
    return scores.astype(np.float32), (np.clip(corners, low, high) - low) * np.array(decoder.scale * 2, np.float32)


def as_rows(output: np.ndarray) -> np.ndarray:
    """Return an output (1, ..., A, D) of one request as (A, D), float32."""
    return output.reshape(output.shape[-2:]).astype(np.float32)


def grid(size: tuple[int, int], strides: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns and rows of cells (A, 2) and their strides (A, 1), level by level and row by row, for an input's size."""
    places, steps = [], []
    for stride in strides:
        y, x = np.mgrid[: math.ceil(size[0] / stride), : math.ceil(size[1] / stride)]
        places.append(np.stack([x.ravel(), y.ravel()], 1).astype(np.float32))
        steps.append(np.full((x.size, 1), stride, np.float32))
    return np.concatenate(places), np.concatenate(steps)


# --- layouts: from outputs to scores (A, columns) and the values of boxes -----------------------------------------------------------


def _apart(outputs: list[np.ndarray], decoder: Decoder) -> tuple[np.ndarray, np.ndarray]:
    """Read classes and boxes in turns: one pair, or one of each level."""
    rows = [as_rows(output) for output in outputs]
    return _activated(np.concatenate(rows[::2]), decoder), np.concatenate(rows[1::2])


def _classes_first(outputs: list[np.ndarray], decoder: Decoder) -> tuple[np.ndarray, np.ndarray]:
    rows = as_rows(outputs[0])
    return _activated(rows[:, : decoder.columns], decoder), rows[:, decoder.columns :]


def _boxes_first(outputs: list[np.ndarray], decoder: Decoder) -> tuple[np.ndarray, np.ndarray]:
    rows = _upright(as_rows(outputs[0]), 4 + decoder.columns)
    return _activated(rows[:, 4:], decoder), rows[:, :4]


def _with_objectness(outputs: list[np.ndarray], decoder: Decoder) -> tuple[np.ndarray, np.ndarray]:
    rows = _upright(as_rows(outputs[0]), 5 + decoder.columns)
    scores = _activated(rows[:, 4:], decoder)
    return scores[:, :1] * scores[:, 1:], rows[:, :4]


def _final_rows(outputs: list[np.ndarray], decoder: Decoder) -> tuple[np.ndarray, np.ndarray]:
    rows = as_rows(outputs[0])
    return _one_hot(rows[:, 4], rows[:, 5], decoder.columns), rows[:, :4]


def _final_lists(outputs: list[np.ndarray], decoder: Decoder) -> tuple[np.ndarray, np.ndarray]:
    boxes, scores, classes = as_rows(outputs[0]), outputs[1].ravel(), outputs[2].ravel()
    count = int(outputs[3].ravel()[0]) if len(outputs) > 3 else len(boxes)
    return _one_hot(scores[:count], classes[:count], decoder.columns), boxes[:count]


LAYOUTS: dict[str, Callable[[list[np.ndarray], Decoder], tuple[np.ndarray, np.ndarray]]] = {
    "apart": _apart,
    "classes first": _classes_first,
    "boxes first": _boxes_first,
    "boxes, objectness": _with_objectness,
    "final rows": _final_rows,
    "final lists": _final_lists,
}


def _upright(rows: np.ndarray, columns: int) -> np.ndarray:
    """Return (A, columns) for (A, columns) or (columns, A)."""
    return rows if rows.shape[1] == columns else rows.T


def _one_hot(scores: np.ndarray, classes: np.ndarray, columns: int) -> np.ndarray:
    """Return scores (A, columns) that are 0 except at the class of each row; rows of other classes have no score."""
    numbers = np.rint(classes).astype(np.int64)
    found = np.zeros((len(scores), columns), np.float32)
    known = np.flatnonzero((numbers >= 0) & (numbers < columns))
    found[known, numbers[known]] = scores[known]
    return found


def _activated(values: np.ndarray, decoder: Decoder) -> np.ndarray:
    if decoder.activation == "sigmoid":
        found: np.ndarray = 0.5 * (1 + np.tanh(0.5 * values))
        return found
    return _softmax(values) if decoder.activation == "softmax" else values


def _softmax(values: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis."""
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    found: np.ndarray = powers / powers.sum(axis=-1, keepdims=True)
    return found


def _corners(boxes: np.ndarray, decoder: Decoder) -> np.ndarray:
    """Return boxes as x1 y1 x2 y2, in the unit that they have."""
    if decoder.boxes == "corners-yx":
        return boxes[:, [1, 0, 3, 2]]
    if decoder.boxes == "corners":
        return boxes
    if decoder.boxes == "distances":
        places, strides = grid(decoder.size, decoder.strides)
        shares = _softmax(boxes.reshape(len(boxes), 4, -1))
        sides = (shares * np.arange(shares.shape[2], dtype=np.float32)).sum(axis=2) * strides
        centres = (places + decoder.offset) * strides
        return np.concatenate([centres - sides[:, :2], centres + sides[:, 2:]], axis=1)
    middle, half = boxes[:, :2], boxes[:, 2:] / 2
    if decoder.boxes == "cells":
        places, strides = grid(decoder.size, decoder.strides)
        middle, half = (middle + places) * strides, np.exp(boxes[:, 2:]) * strides / 2
    return np.concatenate([middle - half, middle + half], axis=1)
