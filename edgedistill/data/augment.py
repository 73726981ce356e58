"""Augmented views: random numbers are a hash of (seed, sample, view), independent of order, worker and process.

The hash is SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from edgedistill.data.kinds import kind_of
from edgedistill.data.sources import Array
from edgedistill.errors import ConfigError, nearest
from edgedistill.records.stages import InputRecord, KindName

U64 = npt.NDArray[np.uint64]
LUMA: Final = np.array([0.299, 0.587, 0.114])  # of ITU-R BT.601
SAMPLED: Final = 4096
"""About the number of pixels that the mean of a picture is computed from."""
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
Name = Literal["flip", "crop", "scale", "resized-crop", "mosaic", "colour", "erase", "noise", "shift", "mixup"]


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
    """The augmentations of each input, and the alpha of mixup; 0 means no mixup.

    Those of `moves` are drawn together as a placement, which also moves labels. `ops` come after it, in their order.
    """

    ops: dict[str, tuple[Op, ...]]
    mixup: float
    moves: dict[str, tuple[Op, ...]]


class Form(NamedTuple):
    """How a specification reads, the kinds of input that it fits, and the range of its amount."""

    text: str
    kinds: frozenset[KindName]
    low: float = 0.0
    high: float = 0.0
    is_whole: bool = False


IMAGE: Final[frozenset[KindName]] = frozenset({"image"})
ALLOWED: Final[dict[Name, Form]] = {
    "flip": Form("'flip'", IMAGE),
    "crop": Form("'crop:PIXELS'", IMAGE, 1, np.inf, is_whole=True),
    "scale": Form("'scale:AMOUNT' with an amount from 0.01 to 0.9", IMAGE, 0.01, 0.9),
    "resized-crop": Form("'resized-crop:MIN_AREA' with a share of the area from 0.01 to 1", IMAGE, 0.01, 1),
    "mosaic": Form("'mosaic:P' with a probability from 0.01 to 1", IMAGE, 0.01, 1),
    "colour": Form("'colour:AMOUNT' with an amount from 0.01 to 1", IMAGE, 0.01, 1),
    "erase": Form("'erase:SIZE'", frozenset({"image", "signal"}), 1, np.inf, is_whole=True),
    "noise": Form("'noise:STD'", frozenset({"signal", "features"}), 5e-324, np.inf),
    "shift": Form("'shift:STEPS'", frozenset({"signal"}), 1, np.inf, is_whole=True),
    "mixup": Form(
        "'mixup:ALPHA' with an alpha from 0.01 to 100", frozenset({"image", "signal", "features"}), 0.01, 100
    ),
}
RESIZING: Final = frozenset({"scale", "resized-crop", "mosaic"})
MOVING: Final = RESIZING | {"flip", "crop"}
"""What moves pixels: drawn together where labels move, or where pictures are resized."""


def parse_augment(specs: tuple[str, ...], inputs: tuple[InputRecord, ...], *, is_dense: bool = False) -> AugmentPlan:
    """Parse specs such as "flip" or "crop:4"; each applies to the inputs of a matching kind.

    With `is_dense`, labels belong to places in the picture. Raises ConfigError for an unknown spec, for a spec that matches no
    input, and for a spec that does not apply to the labels.
    """
    named = [_parse(spec) for spec in specs]
    if any(name == "mixup" for name, _ in named[:-1]):
        raise ConfigError("data.augment: 'mixup' must come last and only once, because it mixes augmented views")
    names = [name for name, _ in named]
    _check_labels(names, is_dense=is_dense)
    moving = MOVING if is_dense or RESIZING & set(names) else frozenset()
    plan = AugmentPlan({one.name: () for one in inputs}, 0.0, {one.name: () for one in inputs})
    for stream, (name, amount) in enumerate(named):
        fitting = _fitting(name, inputs)
        if name == "mixup":
            return plan._replace(mixup=amount)
        for one in fitting:
            (plan.moves if name in moving else plan.ops)[one.name] += (Op(name, amount, kind_of(one).axes, stream),)
    return plan


def _check_labels(names: list[Name], *, is_dense: bool) -> None:
    for name in ("erase", "mixup"):
        if is_dense and name in names:
            raise ConfigError(f"data.augment: '{name}' does not apply to labels of boxes or pixels; remove it")
    if names.count("mosaic") > (1 if is_dense else 0):
        why = "must be given only once" if is_dense else "only applies to labels of boxes or pixels"
        raise ConfigError(f"data.augment: 'mosaic' {why}")


def _parse(spec: str) -> tuple[Name, float]:
    name, _, text = spec.partition(":")
    if name not in ALLOWED:
        raise ConfigError(f"data.augment: unknown '{name}'{nearest(name, ALLOWED)}")
    form, amount = ALLOWED[name], _amount(text)
    if not (_is_possible(form, amount) if form.high else not text):
        raise ConfigError(f"data.augment: '{spec}' should read {form.text}")
    return name, amount


def _fitting(name: Name, inputs: tuple[InputRecord, ...]) -> list[InputRecord]:
    """Return the inputs that an augmentation applies to: at least one, and all inputs for mixup, which mixes whole samples."""
    kinds = ALLOWED[name].kinds
    fitting = [one for one in inputs if one.kind in kinds]
    if not fitting or (name == "mixup" and len(fitting) < len(inputs)):
        kind = next(one.kind for one in inputs if one.kind not in kinds)
        why = ", whose values cannot be averaged" if name == "mixup" else ""
        raise ConfigError(
            f"data.augment: '{name}' only applies to {' and '.join(sorted(kinds))} data; this is {kind} data{why}"
        )
    others = [one.dtype for one in fitting if one.dtype != "uint8"]
    if name == "colour" and others:
        raise ConfigError(f"data.augment: 'colour' only applies to uint8 images; these are {others[0]}")
    return fitting


def _amount(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _is_possible(form: Form, amount: float) -> bool:
    return form.low <= amount <= form.high and np.isfinite(amount) and (not form.is_whole or amount.is_integer())


def splitmix64(state: U64) -> U64:
    """Advance each SplitMix64 state once and return the outputs."""
    with np.errstate(over="ignore"):
        z = state + GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def hash_view(seed: int, samples: Array, views: Array, stream: int | Array) -> U64:
    """Hash (seed, sample, view, stream) to 64 bits; samples, views and, if it is an array, stream are integers of one shape."""
    start = splitmix64(np.uint64(seed) + np.atleast_1d(stream).astype(np.uint64) * GOLDEN)
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


def integers(bits: U64, stream: int, bound: int) -> npt.NDArray[np.int64]:
    """Return whole numbers from 0 to `bound` - 1; `stream` separates several of one view."""
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
    rows, columns = integers(bits, 1, 2 * pad + 1), integers(bits, 2, 2 * pad + 1)
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
    shifted: Array = windows[np.arange(count), integers(bits, 1, 2 * pad + 1) * channels]
    return shifted.reshape(batch.shape)


def _erase(batch: Array, bits: U64, op: Op) -> Array:
    # Cutout (DeVries and Taylor 2017): the centre can be anywhere, so part of the square can be outside the image.
    size = int(op.amount)
    keep = np.zeros((len(batch),) + (1,) * op.axes, bool)
    for axis in range(1, op.axes + 1):
        length = batch.shape[axis]
        start = integers(bits, axis, length)[:, None] - size // 2
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


def _colour(batch: Array, bits: U64, op: Op) -> Array:
    """Change brightness, contrast and saturation by factors from 1 - amount to 1 + amount, as torchvision's ColorJitter does.

    The three are one affine map of the channels, so that values are rounded and clipped once. Grey images have no saturation.
    """
    weights = LUMA if batch.ndim == 4 and batch.shape[-1] == 3 else np.ones(batch[0, 0, 0].size) / batch[0, 0, 0].size
    factors = 1 + op.amount * (2 * np.stack([uniform(splitmix64(bits + np.uint64(i))) for i in (1, 2, 3)]) - 1)
    out = np.empty_like(batch)
    for pixels, changed, (brightness, contrast, saturation) in zip(batch, out, factors.T, strict=True):
        flat = pixels.reshape(-1, len(weights)).astype(np.float32)
        mean = (flat[:: 1 + len(flat) // SAMPLED] @ weights.astype(np.float32)).mean()
        mixing = saturation * np.eye(len(weights)) + (1 - saturation) * weights[:, None]
        flat = flat @ (brightness * contrast * mixing).astype(np.float32)
        flat += np.float32(brightness * (1 - contrast) * mean + 0.5)
        changed[:] = np.clip(flat, 0, 255, out=flat).reshape(pixels.shape)
    return out


_APPLY: dict[Name, Any] = {
    "flip": _flip,
    "crop": _crop,
    "shift": _shift,
    "erase": _erase,
    "noise": _noise,
    "colour": _colour,
}
