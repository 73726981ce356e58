"""Pictures with boxes, for detection: what the readers of COCO, YOLO and Pascal VOC give, cleaned and put into the input.

Coordinates are continuous pixels of the upright picture: pixel i covers [i, i + 1), and x2 and y2 are not inclusive.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgedistill.data.decoding import Decoding, Sample, decode
from edgedistill.data.images import Opener, itself, open_image
from edgedistill.data.reading import Labelled, Reading
from edgedistill.errors import ConfigError
from edgedistill.records.finding import Finding, Severity
from edgedistill.runtime.progress import Reporter

Array = npt.NDArray[Any]

COLUMNS: Final = 7
"""The columns of labels: class, x1, y1, x2, y2, area, crowd."""

UNUSED: Final = -1
"""The class of unused rows of labels."""

ROUNDING: Final = 1.0
"""Boxes that reach beyond the picture by at most this many pixels are clipped without a finding."""

USABLE: Final = ("a picture with usable boxes", "pictures with usable boxes", "repair")
ODDITIES: Final[dict[str, tuple[Severity, str]]] = {
    "no number": ("warning", "boxes left out because a coordinate is not a finite number"),
    "no area": ("warning", "boxes left out because they have no area"),
    "outside": ("warning", "boxes left out because they lie outside their picture"),
    "clipped": ("note", "boxes clipped because they reach beyond their picture by more than a pixel"),
    "duplicated": ("warning", "boxes left out because the same box of the same class is there already"),
    "unknown class": ("warning", "boxes left out because their class is not in the list of classes"),
    "unknown picture": ("warning", "boxes left out because their picture is not in the list of pictures"),
    "missing picture": ("warning", "annotated pictures left out because the file does not exist"),
    "cropped": ("note", "boxes left out because the crop to data.size cuts them off"),
    "listed twice": ("warning", "pictures that are listed twice, whose boxes are put together"),
    "without boxes": ("note", "pictures without boxes, which are used as such"),
    "sparse numbers": (
        "note",
        "gaps among the class numbers of the file; the classes are numbered anew from 0",
    ),
    "val as test": ("note", "sources without a split 'test', whose split 'val' is the test set"),
    "difficult": (
        "note",
        "objects marked as difficult, which are treated as crowds: detecting them is neither right nor wrong",
    ),
}
"""What can be odd, by kind: its severity, and the words before the count."""


def places_of(classes: Sequence[str]) -> dict[str, int]:
    """Return the number of each class by its name; of several classes of one name, the first."""
    return {name: number for number, name in reversed(list(enumerate(classes)))}


class Oddities(dict[str, list[str]]):
    """The places, for messages, where annotations are odd, by a key of ODDITIES."""

    def add(self, kind: str, place: str) -> None:
        """Add a place."""
        self.setdefault(kind, []).append(place)

    def findings(self, subject: str) -> tuple[Finding, ...]:
        """Return a finding for each kind, with the number of places and the first."""
        return tuple(
            Finding(severity=severity, subject=subject, text=f"{words}: {len(self[kind]):,}, first {self[kind][0]}")
            for kind, (severity, words) in ODDITIES.items()
            if kind in self
        )


class Box(NamedTuple):
    """One box as annotated: its class number, x1 y1 x2 y2, the area of its object if known, and whether it is a crowd."""

    number: int
    corners: tuple[float, float, float, float]
    area: float | None = None
    crowd: bool = False


class Annotation(NamedTuple):
    """The boxes of a picture; `size` is the width and height that the annotation states, if it does.

    `is_relative` corners are shares of the width and height of the picture.
    """

    picture: Path
    boxes: tuple[Box, ...]
    size: tuple[int, int] | None = None
    is_relative: bool = False


class Annotations(NamedTuple):
    """The annotated pictures of a source, which exist, and the names of the classes.

    `root` is the folder that the names of pictures are relative to, `files` are the files of annotations. `opener` opens a picture.
    """

    pictures: tuple[Annotation, ...]
    classes: tuple[str, ...]
    root: Path
    files: tuple[Path, ...]
    oddities: Oddities
    opener: Opener = itself


def read_boxed(found: Annotations, reading: Reading, report: Reporter) -> Labelled:
    """Read pictures (N, H, W, 3), uint8, and their boxes (N, M, 7), float32, with corners in pixels of the input.

    Raises ConfigError that names the pictures that cannot be read or have another size than annotated, unless `reading` asks to leave
    them out, and if no picture has a box.
    """
    oddities = Oddities({kind: list(places) for kind, places in found.oddities.items()})
    annotations = _by_picture(found, oddities)
    key = ["boxes", reading.content, reading.resizing]

    def read(picture: Path) -> Sample:
        return _read(annotations[picture], reading, found.opener)

    arrays, files, broken = decode(list(annotations), Decoding(key, lambda _: read, USABLE, reading.skip_bad, report))
    names = {picture: _name(picture, found.root) for picture in annotations}
    rows: list[Array] = []
    for file, (width, height) in zip(files, arrays["size"].tolist(), strict=True):
        boxes = list(_clean(annotations[file], (width, height), names[file], oddities))
        if not boxes:
            oddities.add("without boxes", names[file])
        rows.append(_labels(boxes, (width, height), reading))
        for _ in range(len(boxes) - len(rows[-1])):
            oddities.add("cropped", names[file])
    if not any(len(one) for one in rows):
        raise ConfigError(
            f"data: none of the {len(files):,} pictures of {found.root.name} has a box that can be used; check the annotations"
        )
    return Labelled(
        arrays["inputs"], _packed(rows), found.classes, tuple(names[file] for file in files),
        tuple(f"{names[file]} ({reason})" for file, reason in broken.items()),
        findings=oddities.findings(f"data.{reading.split}"),
    )  # fmt: skip


def _by_picture(found: Annotations, oddities: Oddities) -> dict[Path, Annotation]:
    """Return the annotation of each picture; boxes of a picture that is listed twice are put together."""
    annotations: dict[Path, Annotation] = {}
    for one in found.pictures:
        if (first := annotations.get(one.picture)) is not None:
            oddities.add("listed twice", _name(one.picture, found.root))
            one = one._replace(boxes=(*first.boxes, *one.boxes))  # noqa: PLW2901
        annotations[one.picture] = one
    return annotations


def _name(picture: Path, root: Path) -> str:
    return picture.relative_to(root).as_posix() if picture.is_relative_to(root) else picture.as_posix()


def _read(annotation: Annotation, reading: Reading, opener: Opener) -> Sample:
    """Read a picture in the input, and its own size; raises ValueError if the annotation states another size."""
    image = open_image(annotation.picture, "RGB", opener)
    if annotation.size is not None and annotation.size != image.size:
        own, stated = ("x".join(map(str, size)) for size in (image.size, annotation.size))
        raise ValueError(f"is {own} after EXIF rotation, but its annotation says {stated}")
    resized = image if reading.resizing is None else reading.resizing.apply(image)
    return {"inputs": np.asarray(resized), "size": np.array(image.size)}


def _clean(annotation: Annotation, size: tuple[int, int], name: str, oddities: Oddities) -> Iterator[Box]:
    """Yield the usable boxes of a picture, in pixels of the picture and clipped to it."""
    seen = set()
    for number, box in enumerate(annotation.boxes, 1):
        corners = (
            tuple(value * side for value, side in zip(box.corners, size * 2, strict=True))
            if annotation.is_relative
            else box.corners
        )
        x1, y1, x2, y2 = corners
        place, inside = f"{name}, box {number}", _clipped(corners, size)
        kind = _unusable(corners, inside)
        if kind is None and (key := (box.number, *(round(value, 2) for value in inside))) in seen:
            kind = "duplicated"
        if kind is not None:
            oddities.add(kind, f"{place}: {x1:g} {y1:g} {x2:g} {y2:g}")
            continue
        seen.add(key)
        if max(abs(one - other) for one, other in zip(corners, inside, strict=True)) > ROUNDING:
            oddities.add("clipped", f"{place}: {x1:g} {y1:g} {x2:g} {y2:g} in {size[0]}x{size[1]}")
        yield box._replace(corners=inside)


def _unusable(corners: Sequence[float], inside: Sequence[float]) -> str | None:
    """Return the kind of oddity for which a box cannot be used, or None."""
    if not all(map(math.isfinite, corners)):
        return "no number"
    if corners[2] <= corners[0] or corners[3] <= corners[1]:
        return "no area"
    return "outside" if inside[2] <= inside[0] or inside[3] <= inside[1] else None


def _clipped(corners: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (min(max(value, 0.0), float(side)) for value, side in zip(corners, size * 2, strict=True))
    return x1, y1, x2, y2


def _labels(boxes: Sequence[Box], size: tuple[int, int], reading: Reading) -> Array:
    """Return the boxes of a picture as rows (M, 7) in the input; boxes that a crop cuts off whole are left out."""
    corners = np.array([box.corners for box in boxes], np.float64).reshape(-1, 4)
    areas = [_area(box) for box in boxes]
    rows = np.column_stack([[box.number for box in boxes], corners, areas, [box.crowd for box in boxes]])
    if reading.resizing is None:
        return rows
    width, height = reading.resizing.width, reading.resizing.height
    rows[:, 1:5] = np.clip(reading.resizing.place(*size).to_input(corners), 0, [width, height, width, height])
    return rows[(rows[:, 3] > rows[:, 1]) & (rows[:, 4] > rows[:, 2])]


def _area(box: Box) -> float:
    x1, y1, x2, y2 = box.corners
    return box.area or (x2 - x1) * (y2 - y1)


def _packed(rows: Sequence[Array]) -> Array:
    """Return the rows of all pictures (N, M, 7); M is the largest number of rows, at least 1."""
    labels = np.zeros((len(rows), max(1, *map(len, rows)), COLUMNS), np.float32)
    labels[:, :, 0] = UNUSED
    for all_rows, own in zip(labels, rows, strict=True):
        all_rows[: len(own)] = own
    return labels
