"""How a picture is resized to the input of a model: the same numbers for its pixels, its boxes and its masks.

A picture is upright (its EXIF orientation is applied first) and RGB or grey, uint8. A part of it, `box`, is resized to `size` and stored
in the input with its upper left pixel at `corner`; the rest of the input has the grey level `padding`, or is void in a mask.

    rule               box                                          size                                  corner
    crop               the largest centred part of the input's      the input                             (0, 0)
                       aspect ratio, not rounded to pixels
    stretch            the picture                                  the input                             (0, 0)
    letterbox          the picture                                  the largest with the picture's        ((W - w) // 2, (H - h) // 2)
                                                                    aspect ratio
    letterbox-corner   the picture                                  as letterbox                          (0, 0)

In a letterbox, the side that limits the scale fills the input, and the other is side * input / limiting side, rounded to the nearest
integer, half up, at least 1. An odd pixel of padding lies to the right or below. The scale of each axis is size / (side of box), so that
the two can differ by the rounding. Coordinates are continuous: pixel i covers [i, i + 1), and x in the input is scale * (x - box) +
corner.

Pixels are resized as Pillow does with BILINEAR: a triangle filter whose half width is one pixel of the input when the picture is
enlarged and 1 / scale pixels of the picture when it is reduced, first along rows, then along columns, each rounded to uint8. Masks take
the nearest pixel: the one that contains the centre of the pixel of the input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgedistill.config.data import ResizeRule

if TYPE_CHECKING:
    from PIL import Image

Floats = npt.NDArray[np.float64]
Pair = tuple[float, float]


class Placement(NamedTuple):
    """Where a picture lies in an input, in the terms of this module; `box` is left, top, right, bottom in pixels of the picture."""

    box: tuple[float, float, float, float]
    size: tuple[int, int]
    corner: tuple[int, int]

    @property
    def scale(self) -> Pair:
        """The pixels of the input for a pixel of the picture, along x and y."""
        left, top, right, bottom = self.box
        return self.size[0] / (right - left), self.size[1] / (bottom - top)

    @property
    def offset(self) -> Pair:
        """The place of the picture's corner in the input, x and y: a place in the input is scale * place in the picture + offset."""
        (x, y), (left, top, *_) = self.scale, self.box
        return self.corner[0] - left * x, self.corner[1] - top * y

    def to_input(self, boxes: npt.ArrayLike) -> Floats:
        """Return boxes (..., 4), x1 y1 x2 y2 in pixels of the picture, in pixels of the input; they are not clipped."""
        return np.asarray(boxes, np.float64) * (self.scale * 2) + self.offset * 2

    def to_picture(self, boxes: npt.ArrayLike) -> Floats:
        """Return boxes (..., 4), x1 y1 x2 y2 in pixels of the input, in pixels of the picture; they are not clipped."""
        return (np.asarray(boxes, np.float64) - self.offset * 2) / (self.scale * 2)


class Resizing(NamedTuple):
    """The size of the input of a model, the rule by which pictures are resized to it, and the grey level of borders."""

    width: int
    height: int
    rule: ResizeRule = "crop"
    padding: int = 114

    def place(self, width: int, height: int) -> Placement:
        """Return where an upright picture of this size lies in the input."""
        whole, full = (0.0, 0.0, float(width), float(height)), (self.width, self.height)
        if self.rule == "stretch":
            return Placement(whole, full, (0, 0))
        if self.rule == "crop":
            return Placement(_centred(width, height, self.width / self.height), full, (0, 0))
        size = _fitting(width, height, full)
        corner = (
            (0, 0)
            if self.rule == "letterbox-corner"
            else tuple((all_ - own) // 2 for all_, own in zip(full, size, strict=True))
        )
        return Placement(whole, size, (corner[0], corner[1]))

    def apply(self, image: Image.Image) -> Image.Image:
        """Return an upright image, RGB or L, in the input."""
        from PIL import Image

        return self._put(image, Image.Resampling.BILINEAR, self.padding)

    def apply_to_mask(self, mask: Image.Image, void: int) -> Image.Image:
        """Return an upright mask of class numbers, L, in the input; borders are `void`."""
        from PIL import Image

        return self._put(mask, Image.Resampling.NEAREST, void)

    def _put(self, image: Image.Image, filter_: Image.Resampling, border: int) -> Image.Image:
        from PIL import Image

        place = self.place(*image.size)
        resized = _resized(image, place, filter_)
        if place.size == (self.width, self.height):
            return resized
        colour: Any = (border,) * 3 if image.mode == "RGB" else border
        canvas = Image.new(image.mode, (self.width, self.height), colour)
        canvas.paste(resized, place.corner)
        return canvas


def _resized(image: Image.Image, place: Placement, filter_: Image.Resampling) -> Image.Image:
    """Return a part of an image resized, first along rows, then along columns: from version 13 on, Pillow takes the cheaper order."""
    left, top, right, bottom = place.box
    width, height = place.size
    narrow = image.resize((width, image.height), filter_, (left, 0, right, image.height))
    return narrow.resize((width, height), filter_, (0, top, width, bottom))


def _centred(width: int, height: int, ratio: float) -> tuple[float, float, float, float]:
    """Return the largest centred part of a picture with an aspect ratio, with the arithmetic of Pillow's ImageOps.fit."""
    own = width / height
    part: Pair = (width, height)
    if own != ratio:
        part = (ratio * height, height) if own >= ratio else (width, width / ratio)
    left, top = (width - part[0]) * 0.5, (height - part[1]) * 0.5
    return left, top, left + part[0], top + part[1]


def _fitting(width: int, height: int, full: tuple[int, int]) -> tuple[int, int]:
    """Return the largest size with the aspect ratio of a picture that fits, in integers."""
    if full[0] * height <= full[1] * width:
        return full[0], max(1, (2 * height * full[0] + width) // (2 * width))
    return max(1, (2 * width * full[1] + height) // (2 * height)), full[1]
