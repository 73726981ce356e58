"""Turn decoded pictures into a model's input as its contract says: resize, pad, scale and normalise, in numpy.

This is the reference for devices without Pillow: its results equal those of Pillow, with which models are trained, in every byte.
The contract is the JSON object of edgedistill's records/contract.py. A picture is uint8, upright, (h, w, 3) RGB or (h, w) grey.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Dict, NamedTuple, Tuple

import numpy as np

BITS = 22
"""Pillow rounds the weights of a pixel to this many binary places (its PRECISION_BITS)."""
BLOCK = 32
"""Rows that are computed at a time, so that their sums stay in the processor's cache."""


class Place(NamedTuple):
    """Where a picture lies in an input: its part `box` (left, top, right, bottom) is resized to `size` and stored at `corner`.

    A place in the input is scale * (place in the picture - left or top of the box) + corner, for each axis.
    """

    box: Tuple[float, float, float, float]
    size: Tuple[int, int]
    corner: Tuple[int, int]

    def to_picture(self, boxes: np.ndarray) -> np.ndarray:
        """Return boxes (..., 4), corners in pixels of the input, in pixels of the picture; they are not clipped."""
        left, top, right, bottom = self.box
        scale = np.array([self.size[0] / (right - left), self.size[1] / (bottom - top)] * 2)
        moved: np.ndarray = (boxes - np.array(self.corner * 2)) / scale + np.array([left, top] * 2)
        return moved


def prepare(picture: np.ndarray, contract: Dict[str, Any]) -> np.ndarray:
    """Return the input (1, ...) of a model for a picture; raises ValueError for a picture that the contract does not take."""
    rules = contract["picture"]
    wanted = 3 if rules["colour"] == "rgb" else 2
    if picture.dtype != np.uint8 or picture.ndim != wanted:
        raise ValueError(
            f"a picture is {picture.dtype}{picture.shape}; the contract takes {rules['colour']} pictures, uint8"
        )
    return as_input(place(picture, rules), rules)


def place(picture: np.ndarray, rules: Dict[str, Any]) -> np.ndarray:
    """Return a picture in the size of the input, uint8 (H, W, ...)."""
    width, height = rules["width"], rules["height"]
    if rules["rule"] is None:
        if picture.shape[:2] != (height, width):
            raise ValueError(
                f"a picture is {picture.shape[1]}x{picture.shape[0]}; the model takes {width}x{height}, and its contract has no rule "
                "for resizing"
            )
        return picture
    where = place_of(picture.shape[1], picture.shape[0], rules)
    small = resized(picture, where.size, where.box)
    if where.size == (width, height):
        return small
    canvas = np.full((height, width, *picture.shape[2:]), rules["padding"], np.uint8)
    (x, y), (w, h) = where.corner, where.size
    canvas[y : y + h, x : x + w] = small
    return canvas


def place_of(width: int, height: int, rules: Dict[str, Any]) -> Place:
    """Return where a picture of a size lies in the input."""
    full = (rules["width"], rules["height"])
    whole = (0.0, 0.0, float(width), float(height))
    if rules["rule"] == "stretch":
        return Place(whole, full, (0, 0))
    if rules["rule"] == "crop":
        return Place(_centred(width, height, full[0] / full[1]), full, (0, 0))
    size = _fitting(width, height, full)
    if rules["rule"] == "letterbox-corner":
        return Place(whole, size, (0, 0))
    return Place(whole, size, ((full[0] - size[0]) // 2, (full[1] - size[1]) // 2))


def as_input(pixels: np.ndarray, rules: Dict[str, Any]) -> np.ndarray:
    """Return pixels, uint8 (H, W, ...), as a request (1, ...) in the type and layout of the model's input."""
    values = pixels if pixels.ndim == 3 else pixels[:, :, None]
    if rules["dtype"] == "uint8":
        return np.asarray((values if pixels.ndim == 3 else pixels)[None], order="C")
    scaled = values.astype(np.float32) / np.float32(rules["divide_by"])
    if rules["mean"] is not None:
        scaled = scaled - np.array(rules["mean"], np.float32)
    if rules["std"] is not None:
        scaled = scaled / np.array(rules["std"], np.float32)
    if rules["layout"] == "NCHW":
        scaled = scaled.transpose(2, 0, 1)
    return np.asarray(scaled[None], order="C")


def resized(picture: np.ndarray, size: Tuple[int, int], box: Tuple[float, float, float, float]) -> np.ndarray:
    """Return the part `box` of a picture resized to `size` (width, height), as Pillow does it with BILINEAR."""
    left, top, right, bottom = (float(np.float32(edge)) for edge in box)  # Pillow reads the edges in float32
    height, width = picture.shape[:2]
    planes = picture.reshape(height, width, -1)
    if size[0] != width or left != 0 or right != width:
        planes = _along_rows(planes.transpose(1, 0, 2), (left, right), size[0]).transpose(1, 0, 2)
    if size[1] != height or top != 0 or bottom != height:
        planes = _along_rows(planes, (top, bottom), size[1])
    return np.asarray(planes, order="C").reshape((size[1], size[0], *picture.shape[2:]))


def _along_rows(planes: np.ndarray, part: Tuple[float, float], wanted: int) -> np.ndarray:
    """Return `wanted` rows, weighted sums of rows (n, ...) of uint8; 255 times the weights' sum of 2^22 fits in int32."""
    rows, weights = _weights(len(planes), part, wanted)
    flat = np.ascontiguousarray(planes).reshape(len(planes), -1)
    found = np.empty((wanted, flat.shape[1]), np.uint8)
    for first in range(0, wanted, BLOCK):
        block = slice(first, first + BLOCK)
        sums = np.full(found[block].shape, 1 << (BITS - 1), np.int32)
        for tap in range(weights.shape[1]):
            terms = flat[rows[block, tap]].astype(np.int32)
            terms *= weights[block, tap, None]
            sums += terms
        found[block] = sums >> BITS  # at most 255: no weight is negative
    return found.reshape((wanted, *planes.shape[1:]))


@functools.lru_cache(maxsize=16)  # the pictures of a camera have one size
def _weights(size: int, part: Tuple[float, float], wanted: int) -> Tuple[np.ndarray, np.ndarray]:
    """Return the rows that each of `wanted` rows is made of (wanted, taps), and their weights in units of 2^-22: a triangle filter."""
    scale = float(np.float32(part[1] - part[0])) / wanted  # Pillow subtracts in float32
    support = max(scale, 1.0)
    taps = 2 * math.ceil(support) + 1
    rows, weights = np.zeros((wanted, taps), np.int64), np.zeros((wanted, taps), np.int32)
    for i in range(wanted):
        centre = part[0] + (i + 0.5) * scale
        first, last = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), size)
        near = np.maximum(1 - np.abs((np.arange(first, last) - centre + 0.5) * (1.0 / support)), 0)
        rows[i, : last - first] = np.arange(first, last)
        weights[i, : last - first] = np.floor(near / near.sum() * (1 << BITS) + 0.5)
    return rows, weights


def _centred(width: int, height: int, ratio: float) -> Tuple[float, float, float, float]:
    """Return the largest centred part of a picture with an aspect ratio."""
    own = width / height
    part = (float(width), float(height))
    if own != ratio:
        part = (ratio * height, float(height)) if own >= ratio else (float(width), width / ratio)
    left, top = (width - part[0]) * 0.5, (height - part[1]) * 0.5
    return left, top, left + part[0], top + part[1]


def _fitting(width: int, height: int, full: Tuple[int, int]) -> Tuple[int, int]:
    """Return the largest size with the aspect ratio of a picture that fits; the side that does not limit is rounded, half up."""
    if full[0] * height <= full[1] * width:
        return full[0], max(1, (2 * height * full[0] + width) // (2 * width))
    return max(1, (2 * width * full[1] + height) // (2 * height)), full[1]
