"""Augmented views: random numbers are a hash of (seed, sample, view), independent of order, worker and process.

The hash is SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from edgedistill.data.kinds import kind_of
from edgedistill.data.sources import Array
from edgedistill.errors import ConfigError, nearest
from edgedistill.records.stages import InputRecord, KindName

U64 = npt.NDArray[np.uint64]
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
Name = Literal["flip", "crop", "erase", "noise", "shift", "mixup"]


@dataclass(frozen=True, slots=True)
class Op:
    """One augmentation; `amount` is in pixels or time steps, for noise in units of the raw input; `axes` are spatial.

    Raw inputs are not divided by full scale: noise of 100 on int16 waveforms is 100 of 32,768 steps. `stream` separates the
    random numbers of several operations.
    """

    name: Name
    amount: float
    axes: int
    stream: int = 0


class AugmentPlan(NamedTuple):
    """The augmentations of each input, and the alpha of mixup; 0 means no mixup."""

    ops: dict[str, tuple[Op, ...]]
    mixup: float


ALLOWED: dict[Name, tuple[str, frozenset[KindName]]] = {
    "flip": ("'flip'", frozenset({"image"})),
    "crop": ("'crop:PIXELS'", frozenset({"image"})),
    "erase": ("'erase:SIZE'", frozenset({"image", "signal"})),
    "noise": ("'noise:STD'", frozenset({"signal", "features"})),
    "shift": ("'shift:STEPS'", frozenset({"signal"})),
    "mixup": ("'mixup:ALPHA' with an alpha from 0.01 to 100", frozenset({"image", "signal", "features"})),
}


def parse_augment(specs: tuple[str, ...], inputs: tuple[InputRecord, ...]) -> AugmentPlan:
    """Parse specs such as "flip" or "crop:4"; each applies to the inputs of a matching kind.

    Raises ConfigError for an unknown spec, and for a spec that matches no input.
    """
    named = [_parse(spec) for spec in specs]
    if any(name == "mixup" for name, _ in named[:-1]):
        raise ConfigError("data.augment: 'mixup' must come last and only once, because it mixes augmented views")
    ops: dict[str, tuple[Op, ...]] = {one.name: () for one in inputs}
    for stream, (name, amount) in enumerate(named):
        fitting = _fitting(name, inputs)
        if name == "mixup":
            return AugmentPlan(ops, amount)
        for one in fitting:
            ops[one.name] += (Op(name, amount, kind_of(one).axes, stream),)
    return AugmentPlan(ops, 0.0)


def _parse(spec: str) -> tuple[Name, float]:
    name, _, text = spec.partition(":")
    if name not in ALLOWED:
        raise ConfigError(f"data.augment: unknown '{name}'{nearest(name, ALLOWED)}")
    amount = _amount(text)
    if not (not text if name == "flip" else _is_possible(name, amount)):
        raise ConfigError(f"data.augment: '{spec}' should read {ALLOWED[name][0]}")
    return name, amount


def _fitting(name: Name, inputs: tuple[InputRecord, ...]) -> list[InputRecord]:
    """Return the inputs that an augmentation applies to: at least one, and all inputs for mixup, which mixes whole samples."""
    kinds = ALLOWED[name][1]
    fitting = [one for one in inputs if one.kind in kinds]
    if not fitting or (name == "mixup" and len(fitting) < len(inputs)):
        kind = next(one.kind for one in inputs if one.kind not in kinds)
        why = ", whose values cannot be averaged" if name == "mixup" else ""
        raise ConfigError(
            f"data.augment: '{name}' only applies to {' and '.join(sorted(kinds))} data; this is {kind} data{why}"
        )
    return fitting


def _amount(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _is_possible(name: Name, amount: float) -> bool:
    if name == "mixup":
        return 0.01 <= amount <= 100
    return amount > 0 and np.isfinite(amount) and (name == "noise" or amount.is_integer())


def splitmix64(state: U64) -> U64:
    """Advance each SplitMix64 state once and return the outputs."""
    with np.errstate(over="ignore"):
        z = state + GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def hash_view(seed: int, samples: Array, views: Array, stream: int) -> U64:
    """Hash (seed, sample, view, stream) to 64 bits; samples and views are integer arrays of one shape."""
    with np.errstate(over="ignore"):
        start = splitmix64(np.array([np.uint64(seed) + np.uint64(stream) * GOLDEN], np.uint64))
    return splitmix64(splitmix64(start ^ samples.astype(np.uint64)) ^ views.astype(np.uint64))


def uniform(bits: U64) -> npt.NDArray[np.float64]:
    """Map 64-bit hashes to [0, 1) with 53 bits."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def augment(batch: Array, samples: Array, views: Array, seed: int, ops: tuple[Op, ...]) -> Array:
    """Augment a raw batch (B, ...); random numbers depend only on `seed`, `samples` (B,) and `views` (B,)."""
    for op in ops:
        bits = hash_view(seed, samples, views, op.stream)
        batch = _APPLY[op.name](batch, bits, op)
    return batch


def _integers(bits: U64, stream: int, bound: int) -> npt.NDArray[np.int64]:
    return (uniform(splitmix64(bits + np.uint64(stream))) * bound).astype(np.int64)


def _flip(batch: Array, bits: U64, _: Op) -> Array:
    flipped = uniform(bits) < 0.5
    out = batch.copy()
    out[flipped] = batch[flipped, :, ::-1]
    return out


def _crop(batch: Array, bits: U64, op: Op) -> Array:
    pad = int(op.amount)
    count, height, width = batch.shape[:3]
    channels = batch[0, 0, 0].size
    padded = np.zeros((count, height + 2 * pad, width + 2 * pad, *batch.shape[3:]), batch.dtype)
    padded[:, pad : pad + height, pad : pad + width] = batch
    rows, columns = _integers(bits, 1, 2 * pad + 1), _integers(bits, 2, 2 * pad + 1)
    # Windows over whole rows of pixels are copied row by row, which is 20 times as fast as an index for each pixel.
    lines = padded.reshape(count, height + 2 * pad, -1)
    windows = sliding_window_view(lines, (height, width * channels), axis=(1, 2))
    cropped: Array = windows[np.arange(count), rows, columns * channels]
    return cropped.reshape(batch.shape)


def _shift(batch: Array, bits: U64, op: Op) -> Array:
    pad = int(op.amount)
    count, length = batch.shape[:2]
    channels = batch[0, 0].size
    padded = np.zeros((count, length + 2 * pad, *batch.shape[2:]), batch.dtype)
    padded[:, pad : pad + length] = batch
    windows = sliding_window_view(padded.reshape(count, -1), length * channels, axis=1)
    shifted: Array = windows[np.arange(count), _integers(bits, 1, 2 * pad + 1) * channels]
    return shifted.reshape(batch.shape)


def _erase(batch: Array, bits: U64, op: Op) -> Array:
    # Cutout (DeVries and Taylor 2017): the centre can be anywhere, so part of the square can be outside the image.
    size = int(op.amount)
    keep = np.zeros((len(batch),) + (1,) * op.axes, bool)
    for axis in range(1, op.axes + 1):
        length = batch.shape[axis]
        start = _integers(bits, axis, length)[:, None] - size // 2
        outside = (np.arange(length) < start) | (np.arange(length) >= start + size)
        keep = keep | outside.reshape([len(batch), *(length if a == axis else 1 for a in range(1, op.axes + 1))])
    return np.where(keep.reshape(keep.shape + (1,) * (batch.ndim - keep.ndim)), batch, batch.dtype.type(0))


def _noise(batch: Array, bits: U64, op: Op) -> Array:
    with np.errstate(over="ignore"):
        steps: U64 = np.arange(2 * batch[0].size, dtype=np.uint64) * GOLDEN
        states: U64 = bits[:, None] + steps
    u = uniform(splitmix64(states)).reshape(len(batch), 2, -1)
    normal = np.sqrt(-2 * np.log1p(-u[:, 0])) * np.cos(2 * np.pi * u[:, 1])  # Box and Muller 1958
    noisy = batch + op.amount * normal.reshape(batch.shape)
    if np.issubdtype(batch.dtype, np.integer):  # saturates, as a microphone does
        noisy = np.clip(np.rint(noisy), np.iinfo(batch.dtype).min, np.iinfo(batch.dtype).max)
    return noisy.astype(batch.dtype)


_APPLY: dict[Name, Any] = {"flip": _flip, "crop": _crop, "shift": _shift, "erase": _erase, "noise": _noise}
