"""Read annotations of YOLO datasets: a .yaml names the splits and classes, and each picture has a .txt with a line per box.

A line is: class, x and y of the centre, width, height, as shares of the picture. Longer lines are the corners of a polygon, whose
bounding box is taken, or, where the .yaml has kpt_shape, a box with keypoints, which are left out. The .txt of
`images/a/b.jpg` is `labels/a/b.txt`: the last folder named images is replaced. A picture without a .txt has no boxes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from edgedistill.data.boxes import Annotation, Annotations, Box, Oddities, places_of
from edgedistill.data.files import names_in
from edgedistill.data.images import IMAGE_SUFFIXES
from edgedistill.data.reading import Reading
from edgedistill.errors import ConfigError
from edgedistill.records.stages import SplitName

SUFFIXES: Final = (".yaml", ".yml")
VALUES: Final = 5
"""The numbers of a line with a box."""


def read_yolo(file: Path, reading: Reading) -> Annotations:
    """Read the annotations of the split of `reading` in a .yaml; raises ConfigError for a file that is not in this format."""
    table = _table(file)
    names = _names(file, table)
    classes = reading.classes or names
    places = places_of(classes)
    numbers = {number: places[name] for number, name in enumerate(names) if name in places}
    oddities, annotations, read = Oddities(), [], []
    split = _split_of(file, table, reading.split, oddities)
    pictures = _pictures(file, table, split)
    keypoints = "kpt_shape" in table
    for picture in pictures:
        labels = _labels_of(picture)
        boxes = tuple(_boxes(labels, numbers, oddities, keypoints=keypoints)) if labels.is_file() else ()
        read += [labels] if labels.is_file() else []
        annotations.append(Annotation(picture, boxes, is_relative=True))
    if not read:
        raise ConfigError(
            f"data: no picture of {file.name}, {split} has a label file; looked for {_labels_of(pictures[0])}"
        )
    for labels in _lonely(read):
        oddities.add("missing picture", f"{labels.parent.name}/{labels.name}")
    return Annotations(tuple(annotations), classes, file.parent, (file, *read), oddities)


def is_yolo(file: Path) -> bool:
    """Return whether a file is the .yaml of a dataset in this format."""
    if file.suffix not in SUFFIXES or not file.is_file():
        return False
    try:
        return any(_table(file).get(key) for key in ("train", "val", "test"))
    except ConfigError:
        return False


def splits_of(file: Path) -> list[SplitName]:
    """Return the splits that a .yaml has."""
    table = _table(file)
    splits: tuple[SplitName, ...] = ("train", "val", "test")
    return [split for split in splits if _given(table, split)]


def _split_of(file: Path, table: dict[str, Any], split: SplitName, oddities: Oddities) -> SplitName:
    """Return the split to read: val where a .yaml has val but no test, as most have, and the test split is wanted."""
    if split != "test" or _given(table, "test") or not _given(table, "val"):
        return split
    oddities.add("val as test", file.name)
    return "val"


def _given(table: dict[str, Any], split: str) -> Any:
    return table.get(split) or table.get("validation" if split == "val" else split)


def _table(file: Path) -> dict[str, Any]:
    import yaml

    try:
        table = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"data: {file.name} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(table, dict) or "names" not in table:
        raise ConfigError(f"data: {file.name} is not the .yaml of a YOLO dataset: it has no key 'names'")
    return table


def _names(file: Path, table: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the classes, which are a list, or a dictionary by number."""
    names = table["names"]
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise ConfigError(
                f"data: {file.name}: the numbers of 'names' are not 0 to {len(names) - 1}; name every class"
            )
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ConfigError(f"data: {file.name}: 'names' is {names!r}; it lists the names of the classes")
    return tuple(map(str, names))


def _pictures(file: Path, table: dict[str, Any], split: str) -> list[Path]:
    """Return the pictures of a split: of a folder, of a .txt that lists them, or of several of these."""
    given = _given(table, split)
    if not given:
        held = ", ".join(key for key in ("train", "val", "test") if table.get(key)) or "none"
        raise ConfigError(
            f"data: {file.name} has no split '{split}' (it has: {held}); remove data.{split}, or add the key to the file"
        )
    places = [_place(file, table, str(one)) for one in (given if isinstance(given, list) else [given])]
    pictures = [picture for place in places for picture in _pictures_in(place)]
    if not pictures:
        raise ConfigError(f"data: {file.name}: there are no images in {', '.join(map(str, places))}")
    return list(dict.fromkeys(pictures))


def _place(file: Path, table: dict[str, Any], text: str) -> Path:
    """Return the place of a split: relative to 'path', to the file, or, as exports of Roboflow mean '../train', beside the file."""
    base = file.parent / str(table.get("path") or ".")
    tried = [base / text, file.parent / text, file.parent / text.removeprefix("../")]
    found = next((path for path in tried if path.exists()), None)
    if found is None:
        raise ConfigError(f"data: {file.name} names {text}, which does not exist (looked for {tried[0]})")
    return found


def _pictures_in(place: Path) -> Iterator[Path]:
    if place.is_dir():
        yield from (place / name for name in names_in(place, IMAGE_SUFFIXES))
        return
    for line in place.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.strip():
            yield place.parent / line.strip()


def _labels_of(picture: Path) -> Path:
    parts = picture.parts
    at = next((at for at in reversed(range(len(parts) - 1)) if parts[at] == "images"), None)
    moved = picture if at is None else Path(*parts[:at], "labels", *parts[at + 1 :])
    return moved.with_suffix(".txt")


def _lonely(read: list[Path]) -> list[Path]:
    """Return the label files without a picture, in the folders of the label files that were read."""
    known, folders = set(read), {path.parent for path in read}
    lists = {"classes.txt", "train.txt", "val.txt", "test.txt"}
    return sorted(
        path for folder in folders for path in folder.glob("*.txt") if path not in known and path.name not in lists
    )


def _boxes(labels: Path, numbers: dict[int, int], oddities: Oddities, *, keypoints: bool) -> Iterator[Box]:
    for place, line in enumerate(labels.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            number, *values = map(float, line.split())
            corners = _corners(values[: VALUES - 1] if keypoints else values)
        except ValueError:
            raise ConfigError(
                f"data: {labels.parent.name}/{labels.name}, line {place}: '{line[:60]}' is not a box; expected: class x y width height"
            ) from None
        if number in numbers:
            yield Box(numbers[int(number)], corners)
        else:
            oddities.add("unknown class", f"{labels.parent.name}/{labels.name}, line {place}, class {number:g}")


def _corners(values: list[float]) -> tuple[float, float, float, float]:
    """Return the corners of a box, or of a polygon's bounding box, as shares; raises ValueError for another count of numbers."""
    if len(values) == VALUES - 1:
        x, y, width, height = values
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if len(values) < 6 or len(values) % 2:
        raise ValueError
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
