"""Pictures with a mask each, for segmentation: a mask is a palette or grey image that holds the class number of each pixel.

These layouts are known, with the masks' folder named as one of MASK_FOLDERS; the file of a mask has the name of its picture, or the
same addition to it in every file (`a.jpg` and `a_mask.png`):

    DATA/images/a.jpg        DATA/masks/a.png           the source is DATA
    DATA/images/train/a.jpg  DATA/masks/train/a.png     the source is DATA/images/train
    DATA/train/a.png         DATA/trainannot/a.png      the source is DATA/train; also train_masks and train_labels

The classes are the values other than void, in order: with void = 0, value 1 is class 0. 255 is always void. A file classes.txt, codes.txt
or labels.txt in the source, or in a folder above the pictures up to two levels, names the values, one per line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgedistill.data.decoding import Decoding, Sample, decode
from edgedistill.data.files import names_below, names_in
from edgedistill.data.images import IMAGE_SUFFIXES, open_image
from edgedistill.data.reading import Labelled, Reading
from edgedistill.errors import ConfigError
from edgedistill.records.masks import INVALID, VOID
from edgedistill.runtime.progress import Reporter

if TYPE_CHECKING:
    from PIL import Image

Array = npt.NDArray[Any]
USABLE: Final = ("a picture with a usable mask", "pictures with usable masks", "repair")
PICTURE_FOLDERS: Final = ("images", "image", "imgs", "img", "JPEGImages", "leftImg8bit")
MASK_FOLDERS: Final = ("masks", "mask", "labels", "label", "annotations", "SegmentationClass", "gtFine")
BESIDE: Final = ("annot", "_masks", "_labels", "_annot", "_mask", "_label")
"""What the name of a folder of masks beside a folder of pictures has more."""

MASK_SUFFIXES: Final = frozenset({".png", ".bmp", ".tif", ".tiff", ".gif"})
CLASS_FILES: Final = ("classes.txt", "codes.txt", "labels.txt")


class Pairs(NamedTuple):
    """The pictures of a source in order, their masks (None where missing), and the files of masks without a picture."""

    pictures: tuple[Path, ...]
    masks: tuple[Path | None, ...]
    lonely: tuple[Path, ...]
    class_file: Path | None

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that decides the samples."""
        named = () if self.class_file is None else (self.class_file,)
        return (*self.pictures, *(mask for mask in self.masks if mask is not None), *named)


def find_pairs(source: Path) -> Pairs:
    """Return the pictures and masks of a source; raises ConfigError if the folder has none of the known layouts."""
    found = find_folders(source)
    if found is None:
        raise ConfigError(
            f"data: folder {source.name} has no masks; expected {source.name}/images/NAME.jpg with {source.name}/masks/NAME.png, or "
            f"masks in a folder named {', '.join(MASK_FOLDERS[:-1])} or {MASK_FOLDERS[-1]}"
        )
    pictures, masks = found
    files = _by_stem(pictures, IMAGE_SUFFIXES)
    if not files:
        raise ConfigError(f"data: folder {pictures.parent.name}/{pictures.name} holds no images")
    drawn = _by_stem(masks, MASK_SUFFIXES)
    if not drawn:
        lossy = " (JPEG changes class numbers)" if names_in(masks, IMAGE_SUFFIXES) else ""
        raise ConfigError(
            f"data: folder {masks.parent.name}/{masks.name} holds no PNG masks{lossy}; store masks as PNG files"
        )
    addition = _addition(files, drawn)
    used = {stem: drawn.get(f"{stem}{addition}") for stem in files}
    lonely = sorted(set(drawn.values()) - set(used.values()))
    return Pairs(tuple(files.values()), tuple(used.values()), tuple(lonely), _class_file(source, pictures))


def find_folders(source: Path) -> tuple[Path, Path] | None:
    """Return the folders of pictures and of masks of a source, or None."""
    pictures = next((source / name for name in PICTURE_FOLDERS if (source / name).is_dir()), None)
    if pictures is not None:
        masks = next((source / name for name in MASK_FOLDERS if (source / name).is_dir()), None)
        return None if masks is None else (pictures, masks)
    parts = source.parts
    at = next((at for at in reversed(range(len(parts))) if parts[at] in PICTURE_FOLDERS), None)
    swapped = () if at is None else (Path(*parts[:at], name, *parts[at + 1 :]) for name in MASK_FOLDERS)
    beside = (source.with_name(f"{source.name}{ending}") for ending in BESIDE)
    return next(((source, masks) for masks in (*swapped, *beside) if masks.is_dir()), None)


def _by_stem(folder: Path, suffixes: AbstractSet[str]) -> dict[str, Path]:
    """Return the images of a folder by their names without suffix."""
    return {name.rpartition(".")[0]: folder / name for name in names_in(folder, suffixes)}


def _addition(stems: Container[str], masks: Iterable[str]) -> str:
    """Return what the names of masks have more than the names of pictures: what serves the most masks, and of equals the shortest."""
    served = Counter(mask[at:] for mask in masks for at in range(1, len(mask) + 1) if mask[:at] in stems)
    return min(served, key=lambda addition: (-served[addition], len(addition)), default="")


def _class_file(source: Path, pictures: Path) -> Path | None:
    folders = dict.fromkeys((source, pictures.parent, pictures.parent.parent))
    return next((path for folder in folders for name in CLASS_FILES if (path := folder / name).is_file()), None)


class Values(NamedTuple):
    """What the values of masks mean: `names` are the names of the classes, None if they are not known."""

    void: int
    names: tuple[str, ...] | None

    @property
    def table(self) -> Array:
        """The class numbers (256,), uint8, of the values 0 to 255: a value above void counts one less."""
        values = np.arange(256)
        return np.where(np.isin(values, (self.void, VOID)), VOID, values - (values > self.void)).astype(np.uint8)

    def check(self, counts: Sequence[int]) -> None:
        """Raise ValueError if a mask with `counts` (256,) pixels of each value has one that is neither a class nor void."""
        classes = INVALID if self.names is None else len(self.names)
        present = np.flatnonzero(counts)
        wrong = present[(self.table[present] >= classes) & (self.table[present] != VOID)]
        if len(wrong):
            last = classes - 1 + (self.void < classes)
            raise ValueError(
                f"holds the value {wrong[0]}, but the values of {classes} classes are 0 to {last} with data.void = {self.void}"
            )


def read_masked(pairs: Pairs, folder: Path, reading: Reading, report: Reporter) -> Labelled:
    """Read pictures (N, H, W, 3) and the class number of each pixel (N, H, W), both uint8.

    Raises ConfigError that names the pictures without a usable mask, unless `reading` asks to leave them out, and for masks that
    hold a single class.
    """
    values = Values(reading.void, names_of(pairs, reading))
    masks = dict(zip(pairs.pictures, pairs.masks, strict=True))
    key = ["masks", reading.content, values, reading.resizing]

    def read(picture: Path) -> Sample:
        return _read_pair(picture, masks[picture], values, reading)

    arrays, files, broken = decode(pairs.pictures, Decoding(key, lambda _: read, USABLE, reading.skip_bad, report))
    names = dict(zip(pairs.pictures, names_below(pairs.pictures, folder), strict=True))
    return Labelled(
        arrays["inputs"], arrays["labels"], values.names or _numbers(np.asarray(arrays["present"].any(0)), values, folder),
        tuple(names[file] for file in files), tuple(f"{names[file]} ({reason})" for file, reason in broken.items()),
        tuple(f"{mask.parent.name}/{mask.name}" for mask in pairs.lonely),
    )  # fmt: skip


def _read_pair(picture: Path, mask: Path | None, values: Values, reading: Reading) -> Sample:
    """Read a picture and its mask; `present` (256,) is which values the mask has. Raises ValueError for an unusable mask."""
    from PIL import Image

    if mask is None:
        raise ValueError("has no mask")
    pixels, drawn = open_image(picture, "RGB"), _open_mask(mask)
    if drawn.size != pixels.size:
        sizes = ["x".join(map(str, one.size)) for one in (drawn, pixels)]
        raise ValueError(f"mask {mask.name} is {sizes[0]}, but the picture is {sizes[1]} after EXIF rotation")
    counts = drawn.histogram()
    try:
        values.check(counts)
    except ValueError as error:
        raise ValueError(f"mask {mask.name} {error}") from None
    labels = Image.fromarray(values.table[np.asarray(drawn)])
    if reading.resizing is not None:
        pixels, labels = reading.resizing.apply(pixels), reading.resizing.apply_to_mask(labels, VOID)
    return {"inputs": np.asarray(pixels), "labels": np.asarray(labels), "present": np.array(counts) > 0}


def _open_mask(file: Path) -> Image.Image:
    """Read a mask, upright, as values of 8 bits (mode L)."""
    from PIL import Image, ImageOps

    with Image.open(file) as opened:
        mode, values = opened.mode, np.asarray(ImageOps.exif_transpose(opened))
    if values.ndim != 2 or values.dtype.kind not in "biu":
        raise ValueError(
            f"mask {file.name} has mode {mode}; expected a palette or grey image with a class number in each pixel"
        )
    if values.size and int(values.max()) > VOID:
        raise ValueError(f"mask {file.name} holds the value {values.max()}; the largest class number is {INVALID - 1}")
    return Image.fromarray(values.astype(np.uint8))


def names_of(pairs: Pairs, reading: Reading) -> tuple[str, ...] | None:
    """Return the names of the classes: those of the configuration, or those of the class file without the name of void."""
    if reading.classes is not None or pairs.class_file is None:
        return reading.classes
    lines = pairs.class_file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    names = [line.strip() for line in lines if line.strip()]
    return tuple(name for value, name in enumerate(names) if value != reading.void)


def _numbers(present: Array, values: Values, folder: Path) -> tuple[str, ...]:
    """Return the numbers of the classes as names, up to the largest class that the masks hold."""
    numbers = values.table[np.flatnonzero(present)]
    known = numbers[numbers != VOID]
    if len(np.unique(known)) < 2:
        only = f"class {known[0]}" if len(known) else "no class"
        raise ConfigError(
            f"data: the masks of {folder.name} hold {only} and void (data.void = {values.void}, and 255); a mask of two classes has "
            "the values 0 and 1, not 0 and 255"
        )
    return tuple(map(str, range(int(known.max()) + 1)))
