"""Placements: which window of which picture a view shows, and where.

A window of a picture, in whole pixels, fills an area of the canvas, mirrored or not. All augmentations that move pixels are drawn
together, so that pixels are interpolated at most once; without a change of scale they are only copied. The canvas has the size of
the pictures.

A mosaic (YOLOv4, Bochkovskiy et al. 2020) shows four pictures around a point of the canvas, at their own scale. The other three are
any samples of the split that the first may be mixed with, drawn from the hash of (seed, sample, view).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgedistill.data.augment import U64, Op, hash_view, integers, splitmix64, uniform
from edgedistill.data.sources import Array

POSITION_STREAM: Final = 3 << 20  # apart from the streams of augmentations, views and mixup
PART_STREAM: Final = 1 << 24
"""Between the streams of the pictures of a mosaic."""
TRIES: Final = 10
"""Windows that "resized-crop" draws until one fits into the picture, as torchvision does."""
RATIO: Final = 4 / 3
"""The largest ratio of the sides of a "resized-crop"."""

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class Placement(NamedTuple):
    """The P pictures on the canvases of B views; without mosaic, P = B.

    `canvases` (P,) are the numbers of views in the batch, `positions` (P,) those of pictures in the split. `windows` of pictures
    and `areas` of canvases are (P, 2, 2): start and stop in pixels, along height and along width. Pictures are `mirrored` (P,)
    left to right.
    """

    canvases: Integers
    positions: Integers
    windows: Integers
    areas: Integers
    mirrored: npt.NDArray[np.bool_]


class Key(NamedTuple):
    """What random numbers depend on: the seed, samples (B,), views (B,), and for mosaics the parts (B,), from 0 to 3."""

    seed: int
    samples: Array
    views: Array
    parts: Array

    def bits(self, stream: int) -> U64:
        """Return 64 random bits (B,)."""
        return hash_view(self.seed, self.samples, self.views, stream + self.parts * PART_STREAM)


class Pools(NamedTuple):
    """The samples that may be the other pictures of a mosaic, for each of B views: the first of them, and how many they are."""

    starts: Array
    sizes: Array


class Tiles(NamedTuple):
    """The part of a canvas for each of P pictures: `areas` (P, 2, 2) as in Placement."""

    canvases: Integers
    parts: Integers
    positions: Integers
    areas: Integers


def parts_of(ops: tuple[Op, ...]) -> int:
    """Return the most pictures in a view."""
    return 4 if any(op.name == "mosaic" for op in ops) else 1


def place(ops: tuple[Op, ...], key: Key, positions: Array, pools: Pools, shape: tuple[int, int]) -> Placement:
    """Place the samples at `positions` (B,) of a split of pictures of `shape` (H, W) in the views of `key`."""
    size = np.array(shape)
    mosaic = next((op for op in ops if op.name == "mosaic"), None)
    tiles = _single(positions, size) if mosaic is None else _mosaics(mosaic, key, positions, pools, size)
    own = Key(key.seed, key.samples[tiles.canvases], key.views[tiles.canvases], tiles.parts)
    mirrored, factors, shifts = _draw(ops, own, size)
    bits, room = own.bits(POSITION_STREAM), tiles.areas[..., 1] - tiles.areas[..., 0]
    starts = _pair(bits) * (room - factors * size) + shifts
    areas, windows = _windows(starts, factors, size, room)
    windows[mirrored, 1] = size[1] - windows[mirrored, 1, ::-1]
    return Placement(tiles.canvases, tiles.positions, windows, areas + tiles.areas[..., :1], mirrored)


def _single(positions: Array, size: Array) -> Tiles:
    every = np.arange(len(positions))
    return Tiles(every, every * 0, positions, np.tile(np.stack([size * 0, size], -1), (len(positions), 1, 1)))


def _mosaics(mosaic: Op, key: Key, positions: Array, pools: Pools, size: Array) -> Tiles:
    """Return the tiles of views; those that are mosaics have four, around a point in the middle half of the canvas."""
    bits = key.bits(mosaic.stream)
    counts = np.where(uniform(bits) < mosaic.amount, 4, 1)
    canvases = np.repeat(np.arange(len(positions)), counts)
    parts = np.arange(len(canvases)) - np.repeat(np.cumsum(counts) - counts, counts)
    middle = _whole((0.25 + 0.5 * _pair(bits)) * size)[canvases]
    drawn = uniform(splitmix64(bits[canvases] + (3 + parts).astype(np.uint64)))
    is_second = np.stack([parts // 2, parts % 2], -1) == 1
    edges = np.stack([np.where(is_second, middle, 0), np.where(is_second, size, middle)], -1)
    edges[(counts == 1)[canvases]] = np.stack([size * 0, size], -1)
    others = pools.starts[canvases] + (drawn * pools.sizes[canvases]).astype(np.int64)
    return Tiles(canvases, parts, np.where(parts == 0, positions[canvases], others), edges)


def _draw(ops: tuple[Op, ...], key: Key, size: Array) -> tuple[npt.NDArray[np.bool_], Floats, Floats]:
    """Return mirroring (P,), and the factors and shifts in pixels (P, 2) of height and width."""
    mirrored = np.zeros(len(key.samples), bool)
    factors, shifts = np.ones((len(mirrored), 2)), np.zeros((len(mirrored), 2))
    for op in ops:
        bits = key.bits(op.stream)
        if op.name == "flip":
            mirrored ^= uniform(bits) < 0.5
        elif op.name == "crop":
            bound = 2 * int(op.amount) + 1
            shifts += int(op.amount) - np.stack([integers(bits, axis, bound) for axis in (1, 2)], -1)
        elif op.name == "scale":
            factors *= (1 + op.amount * (2 * uniform(bits) - 1))[:, None]
        elif op.name == "resized-crop":
            factors *= size / _resized_crop(bits, op.amount, size)
    return mirrored, factors, shifts


def _windows(starts: Floats, factors: Floats, size: Array, room: Integers) -> tuple[Integers, Integers]:
    """Return areas, and the windows that fill them, of pictures that start at `starts` (P, 2) of tiles with `room` (P, 2)."""
    seen = np.clip(np.stack([starts, starts + factors * size], -1), 0, room[..., None])
    windows = _whole((seen - starts[..., None]) / factors[..., None])
    first = np.clip(windows[..., 0], 0, size - 1)
    return _whole(seen), np.stack([first, np.clip(windows[..., 1], first + 1, size)], -1)


def _resized_crop(bits: U64, least: float, size: Array) -> Floats:
    """Return the height and width (P, 2) of windows, drawn as by torchvision's RandomResizedCrop."""
    numbers = np.arange(3, 3 + 2 * TRIES, dtype=np.uint64)
    drawn = uniform(splitmix64(bits[:, None] + numbers)).reshape(len(bits), TRIES, 2)
    area, ratio = (least + (1 - least) * drawn[..., 0]) * size.prod(), RATIO ** (2 * drawn[..., 1] - 1)
    sides = np.stack([np.sqrt(area / ratio), np.sqrt(area * ratio)], -1)
    fits = np.all(sides <= size, axis=-1)
    chosen = sides[np.arange(len(bits)), fits.argmax(1)]
    largest = np.minimum(size, size[::-1] * RATIO)  # where no window fits into a long picture
    return np.where(np.any(fits, axis=1)[:, None], chosen, largest)


def _pair(bits: U64) -> Floats:
    """Return two numbers (P, 2) in [0, 1)."""
    return np.stack([uniform(splitmix64(bits + np.uint64(axis))) for axis in (1, 2)], -1)


def _whole(x: Floats) -> Integers:
    # Not rint, which rounds halves to even numbers: windows of one length would then differ by a pixel.
    return np.floor(x + 0.5).astype(np.int64)
