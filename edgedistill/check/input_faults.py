"""Name what an app does differently when it makes the model's input: each likely fault is applied to the picture and compared.

A fault is named if it explains most of the difference between the app's input and the input of training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from edgedistill.check.reference import MODES, resizing_of, rules_of
from edgedistill.data.geometry import Placement, Resizing
from edgedistill.data.images import open_image
from edgedistill.data.sources import Array
from edgedistill.records.contract import Contract, PictureRules

if TYPE_CHECKING:
    from PIL import Image

EXPLAINS: Final = 0.25
"""A fault is named if the app's input is nearer to the faulty input by this factor than to the right one."""
GREYS: Final = (0, 114, 127, 128, 255)
RULES: Final = {
    "crop": "cropped at the centre", "letterbox": "letterboxed, centred", "letterbox-corner": "letterboxed in the corner",
    "stretch": "stretched",
}  # fmt: skip


class Fault(NamedTuple):
    """A fault in words, and what the picture becomes with it: pixels (H, W, ...) or a request (1, ...)."""

    words: str
    values: Array


def name_input_fault(file: Path, contract: Contract, wanted: Array, given: Array) -> str:
    """Return what an app does differently, from its input `given` for a picture file and the right one, `wanted` (1, ...)."""
    rules = rules_of(contract)
    shaped = _in_shape(given, wanted, file, rules)
    if isinstance(shaped, str):
        return shaped
    note, values = shaped
    here = _distance(values, wanted)
    if here == 0:
        return note or "no difference"
    tried = [(_distance(values, fault.values), fault.words) for fault in _faults(file, rules)]
    best, words = min(tried)
    named = words if best <= EXPLAINS * here else _affine(values, wanted, rules)
    parts = [part for part in (note, named) if part]
    return "; ".join(parts) or "no likely fault explains the difference: compare the two inputs"


def _in_shape(given: Array, wanted: Array, file: Path, rules: PictureRules) -> tuple[str, Array] | str:
    """Return the app's input in the shape of the right one, with a note about its layout, or the fault that a shape shows."""
    values = given[None] if given.ndim == wanted.ndim - 1 else given
    if values.shape == wanted.shape:
        return "", values.astype(np.float64)
    channels_first = rules.layout == "NCHW"
    if values.ndim == 4 and wanted.ndim == 4:
        turned = values.transpose(0, 3, 1, 2) if channels_first else values.transpose(0, 2, 3, 1)
        if turned.shape == wanted.shape:
            order = ("NHWC", "NCHW") if channels_first else ("NCHW", "NHWC")
            return f"the axes are {order[0]}, the model takes {order[1]}", turned.astype(np.float64)
        height, width = values.shape[2:] if values.shape[1] in (1, 3) else values.shape[1:3]
        size = open_image(file, MODES[rules.colour]).size
        if (width, height) == size:
            return f"the picture is not resized: {width}x{height}, the model takes {rules.width}x{rules.height}"
        return f"the input is {width}x{height}, the model takes {rules.width}x{rules.height}: pad to its size, not to a rectangle"
    return f"the input has shape {list(given.shape)}, the model takes {list(wanted.shape)}"


def _distance(ours: Array, theirs: Array) -> float:
    return float(np.abs(ours - theirs.astype(np.float64)).mean())


def _faults(file: Path, rules: PictureRules) -> Iterator[Fault]:
    """Yield each fault of placing, each fault of values, and each pair of one of both."""
    right = np.asarray(_placed(open_image(file, MODES[rules.colour]), rules))
    for placing in (Fault("", right), *_placings(file, rules)):
        for words, change in _values(rules):
            joined = " and ".join(part for part in (placing.words, words) if part)
            if joined:
                yield Fault(joined, change(placing.values))


def _placed(image: Image.Image, rules: PictureRules) -> Image.Image:
    resizing = resizing_of(rules)
    return image if resizing is None else resizing.apply(image)


def _placings(file: Path, rules: PictureRules) -> Iterator[Fault]:
    """Yield pictures in the size of the input that are placed, padded, turned or interpolated in another way."""
    image = open_image(file, MODES[rules.colour])
    if turned := _without_exif(file, rules):
        yield Fault("the EXIF orientation is ignored", np.asarray(_placed(turned, rules)))
    if rules.rule is None:
        return
    for rule, words in RULES.items():
        if rule != rules.rule:
            other = Resizing(rules.width, rules.height, rule, rules.padding)  # type: ignore[arg-type]  # the keys are the rules
            yield Fault(f"the picture is {words}, not {RULES[rules.rule]}", np.asarray(other.apply(image)))
    if rules.rule.startswith("letterbox"):
        for grey in GREYS:
            if grey != rules.padding:
                other = Resizing(rules.width, rules.height, rules.rule, grey)
                yield Fault(f"the borders are {grey}, not {rules.padding}", np.asarray(other.apply(image)))
    yield from _interpolated(image, rules)


def _without_exif(file: Path, rules: PictureRules) -> Image.Image | None:
    """Return a picture as it is stored, or None if it is stored upright."""
    from PIL import Image, ImageOps

    with Image.open(file) as opened:
        stored = opened.convert(MODES[rules.colour])
        upright = ImageOps.exif_transpose(opened)
        return None if np.array_equal(np.asarray(upright.convert(MODES[rules.colour])), np.asarray(stored)) else stored


def _interpolated(image: Image.Image, rules: PictureRules) -> Iterator[Fault]:
    """Yield the picture resized by other filters than the triangle filter of training."""
    from PIL import Image

    resizing = Resizing(rules.width, rules.height, rules.rule or "crop", rules.padding)
    place = resizing.place(*image.size)
    for name, filter_ in (("nearest neighbour", Image.Resampling.NEAREST), ("bicubic", Image.Resampling.BICUBIC)):
        yield Fault(
            f"the picture is resized by {name} interpolation",
            _canvas(image.resize(place.size, filter_, place.box), place, rules),
        )
    left, top, right, bottom = (round(edge) for edge in place.box)
    part = np.asarray(image)[top:bottom, left:right]
    for words, aligned in (
        ("without antialiasing, as OpenCV's INTER_LINEAR does", False),
        ("with aligned corners, half a pixel away", True),
    ):
        yield Fault(
            f"the picture is resized {words}",
            _canvas(Image.fromarray(_bilinear(part, place.size, aligned)), place, rules),
        )


def _canvas(image: Image.Image, place: Placement, rules: PictureRules) -> Array:
    from PIL import Image

    colour: Any = (rules.padding,) * 3 if image.mode == "RGB" else rules.padding
    whole = Image.new(image.mode, (rules.width, rules.height), colour)
    whole.paste(image, place.corner)
    return np.asarray(whole)


def _bilinear(part: Array, size: tuple[int, int], aligned: bool) -> Array:  # noqa: FBT001 - the two values of a table
    """Return pixels resized to (width, height) by torch's bilinear interpolation of the four nearest pixels."""
    import torch
    from torch.nn.functional import interpolate

    planes = torch.from_numpy(np.array(part, np.float32)).reshape(*part.shape[:2], -1).movedim(-1, 0)[None]
    small = interpolate(planes, (size[1], size[0]), mode="bilinear", align_corners=aligned)[0].movedim(0, -1)
    return np.rint(small.numpy()).astype(np.uint8).reshape((size[1], size[0], *part.shape[2:]))


def _values(rules: PictureRules) -> Iterator[tuple[str, Callable[[Array], Array]]]:
    """Yield the right conversion of pixels to a request, and faulty ones, each with the fault in words."""
    yield "", lambda pixels: _request(pixels, rules)
    if rules.colour == "rgb":
        yield "the colours are BGR, not RGB", lambda pixels: _request(pixels[..., ::-1], rules)
    if rules.dtype == "uint8":
        yield "the pixels are divided by 255, but the model does that", lambda pixels: _request(pixels, rules) / 255.0
        yield "the pixels are signed: values above 127 wrap", lambda pixels: _request(pixels.view(np.int8), rules)
        return
    by = rules.divide_by
    yield f"the values are divided by {by:g} twice", lambda pixels: _request(pixels / by, rules)
    yield f"the values are not divided by {by:g}", lambda pixels: _request(pixels * by, rules)
    if rules.mean is not None or rules.std is not None:
        plain = rules.model_copy(update={"mean": None, "std": None})
        yield "the mean and deviation are not applied", lambda pixels: _request(pixels, plain)
    if rules.mean is not None:
        yield "the mean is subtracted in uint8, which wraps", lambda pixels: _request(_wrapped(pixels, rules), rules)


def _wrapped(pixels: Array, rules: PictureRules) -> Array:
    """Return pixels whose mean was subtracted modulo 256, so that the mean that `_request` subtracts is made up for."""
    mean = np.array(rules.mean) * rules.divide_by
    return np.asarray((pixels.astype(np.int64) - np.rint(mean).astype(np.int64)) % 256 + mean)


def _request(pixels: Array, rules: PictureRules) -> Array:
    """Return pixels (H, W, ...) as a request (1, ...), in float64."""
    values = pixels.astype(np.float64)
    if rules.dtype == "uint8":
        return values[None]
    values = values.reshape(*values.shape[:2], -1) / rules.divide_by
    values = (values - np.array(rules.mean or 0.0)) / np.array(rules.std or 1.0)
    return values.transpose(2, 0, 1)[None] if rules.layout == "NCHW" else values[None]


def _affine(given: Array, wanted: Array, rules: PictureRules) -> str:
    """Return the scale and the offset of each channel that explain an input, as another mean or deviation, or "" if none do."""
    axis = 1 if rules.layout == "NCHW" else wanted.ndim - 1
    ours, theirs = (
        np.moveaxis(one, axis, 0).reshape(one.shape[axis], -1) for one in (given, wanted.astype(np.float64))
    )
    fits = [np.polyfit(right, mine, 1) for mine, right in zip(ours, theirs, strict=True)]
    left = np.mean(
        [np.abs(np.polyval(fit, right) - mine).mean() for fit, mine, right in zip(fits, ours, theirs, strict=True)]
    )
    if left > EXPLAINS * _distance(given, wanted):
        return ""
    if np.allclose(fits, [1, 0], atol=0.01) and float((ours - theirs).max()) <= 0:
        return "the values are cut off to integers, not rounded"
    shown = ", ".join(f"{scale:.3g} * x {offset:+.3g}" for scale, offset in fits)
    return f"another mean or deviation is applied: the channels are {shown} of the right values x"
