"""Pictures, masks and boxes as placements show them."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch.nn.functional import interpolate

from edgedistill.data.placement import Placement
from edgedistill.data.sources import Array
from edgedistill.records.masks import VOID

VISIBLE: Final = 0.2
"""The least share of a box that must be on the canvas; less of an object can hardly be recognised."""
UNUSED: Final = np.array([-1, 0, 0, 0, 0, 0, 0], np.float32)
"""A row without a box."""


def are_dense(labels: Array) -> bool:
    """Return whether labels belong to places in pictures: masks (N, H, W), uint8, or boxes (N, M, 7), float32."""
    return labels.ndim == 3


def warp_pictures(pictures: Array, rows: Array, placement: Placement, fill: float) -> Array:
    """Return the views (B, H, W[, C]) of pictures (N, H, W[, C]), resized bilinearly, on canvases of the value `fill`.

    `rows` (P,) are the rows of the placed pictures. Reduced pictures are averaged (antialiasing), as Pillow does.
    """
    return _warp(pictures, rows, placement, fill)


def warp_masks(masks: Array, placement: Placement) -> Array:
    """Return the views (B, H, W) of the masks (N, H, W) of a split: the class of the nearest pixel, and 255 outside of the pictures."""
    return _warp(masks, placement.positions, placement, None)


def _warp(values: Array, rows: Array, placement: Placement, fill: float | None) -> Array:
    out = np.full(
        (int(placement.canvases.max(initial=-1)) + 1, *values.shape[1:]), VOID if fill is None else fill, values.dtype
    )
    places = zip(placement.canvases, rows, placement.windows, placement.areas, placement.mirrored, strict=True)
    for canvas, row, window, area, mirrored in places:
        shape = tuple(int(side) for side in area[:, 1] - area[:, 0])
        if 0 in shape:
            continue
        seen = values[row, slice(*window[0]), slice(*window[1])]
        shown = seen if seen.shape[:2] == shape else _resized(seen, shape, is_mask=fill is None)
        out[canvas, slice(*area[0]), slice(*area[1])] = shown[:, ::-1] if mirrored else shown
    return out


def _resized(seen: Array, shape: tuple[int, ...], *, is_mask: bool) -> Array:
    """Return pixels (h, w[, C]) in another size."""
    x = torch.from_numpy(np.array(seen)).reshape(1, *seen.shape[:2], -1).movedim(-1, 1)
    x = x if x.dtype in (torch.uint8, torch.float32) else x.float()
    y = (
        interpolate(x, shape, mode="nearest-exact")
        if is_mask
        else interpolate(x, shape, mode="bilinear", antialias=True)
    )
    resized = y[0].movedim(0, -1).reshape(*shape, *seen.shape[2:]).numpy()
    if np.issubdtype(seen.dtype, np.integer) and resized.dtype != seen.dtype:
        resized = np.rint(resized)
    return resized.astype(seen.dtype, copy=False)


def move_boxes(boxes: Array, placement: Placement, parts: int) -> Array:
    """Return the boxes (B, parts * M, 7) of views of up to `parts` pictures, from the boxes (N, M, 7) of a split.

    Columns are class, x1, y1, x2, y2, area and crowd. Boxes are clipped to the area of their picture. A box of which less than
    VISIBLE is left gets the class -1. The column `area` is scaled as the box is. Rows in use come first.
    """
    boxes = boxes[placement.positions]
    starts, stops = (placement.areas[:, None, ::-1, end].astype(np.float32) for end in (0, 1))
    seen = placement.windows[:, None, ::-1].astype(np.float32)
    factors = (stops - starts) / (seen[..., 1] - seen[..., 0])
    low, high = (starts + (boxes[..., i : i + 2] - seen[..., 0]) * factors for i in (1, 3))
    across = placement.mirrored
    low[across, :, 0], high[across, :, 0] = (
        (starts + stops)[across, :, 0] - side[across, :, 0] for side in (high, low)
    )
    whole = (high - low).prod(-1)
    low, high = np.clip(low, starts, stops), np.clip(high, starts, stops)
    left = (high - low).prod(-1)
    share = np.divide(left, whole, out=np.zeros_like(left), where=whole > 0)
    kept = (boxes[..., 0] >= 0) & (share >= VISIBLE)
    area = boxes[..., 5] * share * factors.prod(-1)
    moved = np.concatenate([boxes[..., :1], low, high, area[..., None], boxes[..., 6:]], -1)
    moved[~kept] = UNUSED
    return _together(moved, placement.canvases, parts)


def _together(boxes: Array, canvases: Array, parts: int) -> Array:
    """Return the boxes (P, M, 7) of pictures by canvas, those in use first."""
    views = int(canvases.max(initial=-1)) + 1
    together = np.tile(UNUSED, (views, parts, boxes.shape[1], 1))
    numbers = np.arange(len(canvases)) - np.searchsorted(canvases, canvases)
    together[canvases, numbers] = boxes
    flat = together.reshape(views, -1, boxes.shape[-1])
    order = np.argsort(flat[..., 0] < 0, axis=1, kind="stable")
    return np.take_along_axis(flat, order[..., None], 1)
