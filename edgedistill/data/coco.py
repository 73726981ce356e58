"""Read annotations in COCO's format: a JSON file with images, annotations and categories (https://cocodataset.org/#format-data).

A box is x, y, width, height in pixels. Categories are numbered from 0 in the order of their ids.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from edgedistill.data.boxes import Annotation, Annotations, Box, Oddities, places_of
from edgedistill.data.files import names_in
from edgedistill.data.reading import Reading
from edgedistill.errors import ConfigError

TABLES: Final = ("images", "annotations", "categories")
TRIED: Final = 20
"""The first pictures of a file are looked for in each possible folder, at most this many."""


def read_coco(file: Path, images: Path | None, reading: Reading) -> Annotations:
    """Read the annotations of a file; `images` is the folder of the pictures if the configuration names it.

    Raises ConfigError for a file that is not in this format, and if none of the pictures exists.
    """
    try:
        tables = json.loads(file.read_bytes())
        return _annotations(file, tables, images, reading)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ConfigError(f"data: {file.name} is not a COCO file: {_explain(error)}") from None


def looks_like_coco(file: Path) -> bool:
    """Return whether the text of a file has the name of a table of this format, without reading it as JSON."""
    if not file.stat().st_size:
        return False
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return any(text.find(f'"{name}"'.encode()) >= 0 for name in TABLES)


def _explain(error: Exception) -> str:
    return f"key {error} is missing" if isinstance(error, KeyError) else str(error)


def _annotations(file: Path, tables: dict[str, Any], images: Path | None, reading: Reading) -> Annotations:
    missing = [name for name in TABLES if not isinstance(tables.get(name), list)]
    if missing:
        raise ConfigError(f"data: {file.name} is not a COCO file: it has no list '{missing[0]}'")
    oddities = Oddities()
    categories = {
        int(one["id"]): str(one["name"]) for one in sorted(tables["categories"], key=lambda one: int(one["id"]))
    }
    classes = reading.classes or tuple(categories.values())
    places = places_of(classes)
    numbers = {key: places[name] for key, name in categories.items() if name in places}
    _note_holes(list(categories), file, oddities)
    root = _root(file, images, [str(one["file_name"]) for one in tables["images"]], reading)
    _refuse_shared_ids(file, tables["images"])
    boxes: dict[int, list[Box]] = {int(one["id"]): [] for one in tables["images"]}
    for key, box in _boxes(tables["annotations"], boxes, numbers, oddities):
        boxes[key].append(box)
    pictures = tuple(_pictures(tables["images"], root, boxes, oddities))
    return Annotations(pictures, classes, root, (file,), oddities)


def _refuse_shared_ids(file: Path, images: Iterable[Mapping[str, Any]]) -> None:
    """Raise ConfigError if two pictures have one id: it would be unknown which of them a box belongs to."""
    names: dict[int, str] = {}
    for one in images:
        name = str(one["file_name"])
        if names.setdefault(int(one["id"]), name) != name:
            raise ConfigError(
                f"data: {file.name}: {names[int(one['id'])]} and {name} have the same id {one['id']}; give every picture its own id, "
                "also where files are joined"
            )


def _note_holes(ids: list[int], file: Path, oddities: Oddities) -> None:
    for before, after in pairwise(sorted(ids)):
        if after - before > 1:
            missing = f"{before + 1}" if after - before == 2 else f"{before + 1} to {after - 1}"
            oddities.add("sparse numbers", f"{file.name}, category {missing}")


def _boxes(
    annotations: Iterable[Mapping[str, Any]], known: Mapping[int, Any], numbers: Mapping[int, int], oddities: Oddities
) -> Iterator[tuple[int, Box]]:
    """Yield the id of the picture and the box of each annotation whose picture and class are known."""
    for place, one in enumerate(annotations):
        name = f"annotation {one.get('id', place)}"
        picture, category = int(one["image_id"]), int(one["category_id"])
        if picture not in known:
            oddities.add("unknown picture", f"{name}, image {picture}")
        elif category not in numbers:
            oddities.add("unknown class", f"{name}, category {category}")
        else:
            x, y, width, height = map(float, one["bbox"])
            area = float(one.get("area") or 0) or None
            yield picture, Box(numbers[category], (x, y, x + width, y + height), area, bool(one.get("iscrowd")))


def _pictures(
    images: Iterable[Mapping[str, Any]], root: Path, boxes: Mapping[int, list[Box]], oddities: Oddities
) -> Iterator[Annotation]:
    for one in images:
        path = root / str(one["file_name"])
        if not path.is_file():
            oddities.add("missing picture", str(one["file_name"]))
            continue
        width, height = int(one.get("width") or 0), int(one.get("height") or 0)
        yield Annotation(path, tuple(boxes[int(one["id"])]), (width, height) if width and height else None)


def _root(file: Path, images: Path | None, names: list[str], reading: Reading) -> Path:
    """Return the folder of the pictures: the given one, that of the file, a usual one beside it, or the only one below it that has them."""
    if not names:
        raise ConfigError(f"data: {file.name} lists no images")
    bases = [file.parent, file.parent.parent] if images is None else [images]
    places = [place for base in bases for place in (base, base / "images", *_folders(base, file.stem, reading.split))]
    found = next((place for place in places if any((place / name).is_file() for name in names[:TRIED])), None)
    if found is None and images is None:
        ending = f"/{names[0]}"
        below = [name for name in names_in(file.parent) if name.endswith(ending)]
        found = file.parent / below[0].removesuffix(ending) if len(below) == 1 else None
    if found is None:
        advice = (
            "set data.images to the folder of the pictures" if images is None else f"data.images is '{reading.images}'"
        )
        raise ConfigError(
            f"data: {file.name} lists {names[0]}, which is not in {places[0]} or one folder below it; {advice}"
        )
    return found


def _folders(base: Path, stem: str, split: str) -> Iterator[Path]:
    """Yield the folders that are named as a split, for example train2017, in a folder and in its folder images.

    Those that the name of the file ends with come first: val2017 for instances_val2017.json, whichever split it is used as.
    """
    folders = [path for place in (base, base / "images") if place.is_dir() for path in _folders_in(place)]
    yield from (path for path in folders if stem.endswith(path.name))
    yield from (path for path in folders if path.name.startswith(split))


def _folders_in(place: Path) -> list[Path]:
    """Return the folders in a folder, which may hold 100,000 pictures: a listing says which entries are folders."""
    with os.scandir(place) as entries:
        return sorted(Path(entry) for entry in entries if entry.is_dir())
