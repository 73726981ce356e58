"""Read image files as uint8: upright, over white where they are transparent, and scaled to 8 bits where they have more."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from edgedistill.data.files import Broken, names_in, read_each
from edgedistill.data.geometry import Resizing
from edgedistill.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image

Array = npt.NDArray[Any]
T = TypeVar("T")
Opener = Callable[[Path], "Path | BinaryIO"]
"""What Pillow opens for the path of an image: the path itself, or the content of a member of an archive that the path names."""

IMAGE_SUFFIXES: Final = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
GREY_MODES: Final = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"})
BACKGROUND: Final = "white"
"""The colour behind transparent pixels."""

ORIENTATION: Final = 0x0112
"""The EXIF tag of orientation; from 5 on, height and width are exchanged."""


class Header(NamedTuple):
    """The size of an upright image, in pixels, and whether the image has colour."""

    width: int
    height: int
    is_colour: bool


def image_files(folder: Path, *, in_classes: bool = True) -> list[Path]:
    """Return the images in the class folders of a folder, or all images below it."""
    return [folder / name for name in names_in(folder, IMAGE_SUFFIXES) if "/" in name or not in_classes]


def itself(file: Path) -> Path:
    """Return a path, which Pillow opens."""
    return file


def read_headers(files: Sequence[Path], broken: Broken, opener: Opener = itself) -> list[Header]:
    """Read the headers of images; files that are not images are put into `broken`."""
    return [header for _, header in _each(lambda file: _read_header(opener(file)), files, broken)]


def mode_of(headers: Sequence[Header]) -> str:
    """Return the mode in which to read a set of images: RGB if any image has colour, else L."""
    return "RGB" if any(header.is_colour for header in headers) else "L"


def mode_of_files(files: Sequence[Path], broken: Broken, opener: Opener = itself) -> str:
    """Return the mode in which to read files, as `mode_of`; reads headers up to the first with colour."""
    headers = _each(lambda file: _read_header(opener(file)), files, broken)
    return "RGB" if any(header.is_colour for _, header in headers) else "L"


def read_images(
    files: Sequence[Path], resizing: Resizing | None, mode: str, broken: Broken, opener: Opener = itself
) -> Array:
    """Read images in one mode, L or RGB, resized if `resizing` says how.

    Unreadable files are put into `broken`. Raises ConfigError for images of several sizes that are not resized.
    """
    images = dict(_each(lambda file: decode_image(file, resizing, mode, opener), files, broken))
    for file, image in images.items():
        require_alike(file, image, *next(iter(images.items())))
    return np.stack(list(images.values())) if images else np.empty(0, np.uint8)


def require_alike(file: Path, image: Array, first: Path, other: Array) -> None:
    """Raise ConfigError for an image of another size than the first."""
    if image.shape != other.shape:
        raise ConfigError(
            f"data: {file.name} is {image.shape[1]}x{image.shape[0]}, {first.name} is {other.shape[1]}x{other.shape[0]}; set data.size "
            "to resize all images, for example size = 96"
        )


def decode_image(file: Path, resizing: Resizing | None, mode: str, opener: Opener = itself) -> Array:
    """Read an image (H, W) or (H, W, 3), uint8, resized if `resizing` says how."""
    image = open_image(file, mode, opener)
    return np.asarray(image if resizing is None else resizing.apply(image))


def open_image(file: Path, mode: str, opener: Opener = itself) -> Image.Image:
    """Read an upright image of 8 bits, L or RGB, over white where it is transparent."""
    from PIL import Image, ImageOps

    with Image.open(opener(file)) as opened:
        return _over_background(_as_8_bits(ImageOps.exif_transpose(opened), file)).convert(mode)


def _each(read: Callable[[Path], T], files: Sequence[Path], broken: Broken) -> Iterator[tuple[Path, T]]:
    return read_each(read, files, broken, image_errors())


def image_errors() -> tuple[type[Exception], ...]:
    """Return what reading a file that is not a whole image raises."""
    from PIL import Image

    return (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


def _read_header(file: Path | BinaryIO) -> Header:
    from PIL import Image, ImageOps

    with Image.open(file) as image:
        width, height = image.size
        if image.getexif().get(ORIENTATION, 1) >= 5:  # versions of Pillow differ in the size of a TIFF file
            width, height = ImageOps.exif_transpose(image).size if image.format == "TIFF" else (height, width)
        return Header(width, height, image.mode not in GREY_MODES)


def _as_8_bits(image: Image.Image, file: Path) -> Image.Image:
    """Scale an image of 16 bits by 1/257, and an image of floats in [0, 1] by 255; leave others as they are."""
    from PIL import Image

    if image.mode == "F":
        return Image.fromarray(_scaled(np.asarray(image), 1, file))
    if image.mode.startswith("I"):
        return Image.fromarray(_scaled(np.asarray(image), 65535, file))
    return image


def _scaled(pixels: Array, largest: int, file: Path) -> Array:
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= largest):
        raise ConfigError(
            f"data: {file.parent.name}/{file.name} has pixels from {low:g} to {high:g}; expected 0 to {largest} in an image of "
            f"{'floats' if largest == 1 else 'integers'}; scale the pixels, or store the image with 8 bits"
        )
    return np.rint(pixels * (255.0 / largest)).astype(np.uint8)


def _over_background(image: Image.Image) -> Image.Image:
    """Return an image without transparency: transparent pixels show the background."""
    from PIL import Image

    if not image.has_transparency_data:
        return image
    pixels = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", pixels.size, BACKGROUND), pixels)
