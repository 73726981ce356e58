"""Read pictures from .parquet files as Hugging Face's `datasets` writes them, by pyarrow.

The column of pictures is a struct of `bytes` and `path`, or binary. Labels are numbers whose names are in the metadata of the schema
(ClassLabel), names, or lists of numbers; the boxes of a column `objects` are x, y, width, height in pixels, with a category each.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final
from weakref import WeakValueDictionary

from edgedistill.data.boxes import Annotation, Annotations, Box, Oddities
from edgedistill.data.reading import Reading
from edgedistill.data.shards import Label, Samples, Shards, as_label
from edgedistill.errors import ConfigError

PICTURES: Final = ("image", "img", "picture", "jpg", "png")
LABELS: Final = ("label", "labels", "class", "cls")
"""The names of columns of pictures and of labels, where the metadata does not say which they are."""
OBJECTS: Final = "objects"
LARGEST_GROUP: Final = 2 << 30
"""The most bytes of a row group, which is read as a whole."""


class Tables:
    """The .parquet files of a source, and the row groups that threads read from at the moment, each of them in memory once.

    Raises ConfigError for a file that is not Parquet, for files with other columns than the first, and for columns whose row groups
    are too large to be read.
    """

    def __init__(self, shards: Shards, split: str) -> None:
        self.files, self.split = shards.files, split
        self._opened = [_open(file) for file in shards.files]
        self.schema = self._opened[0].schema_arrow
        for file, one in zip(self.files, self._opened, strict=True):
            if one.schema_arrow.names != self.schema.names:
                raise ConfigError(f"data.{split}: {file.name} has other columns than {self.files[0].name}")
        self.features = _features(self.schema)
        self.picture = self._picture()
        self.groups = [
            (number, group, one.metadata.row_group(group).num_rows)
            for number, one in enumerate(self._opened)
            for group in range(one.metadata.num_row_groups)
        ]
        self._lock, self._mine = threading.Lock(), threading.local()
        self._shared: WeakValueDictionary[tuple[int, int], Any] = WeakValueDictionary()

    def _picture(self) -> str:
        named = [name for name, feature in self.features.items() if _kind(feature) == "Image"]
        found = next((name for name in (*named, *PICTURES) if name in self.schema.names), None)
        if found is None:
            raise ConfigError(
                f"data.{self.split}: {self.files[0].name} has no column of pictures; expected a column 'image' of bytes; it has "
                f"{', '.join(self.schema.names)}"
            )
        return found

    def column(self, name: str) -> list[Any]:
        """Return the values of a small column in all rows."""
        self.require_readable(name)
        found: list[Any] = []
        for file, one in zip(self.files, self._opened, strict=True):
            with _whole(file):
                found += one.read(columns=[name])[name].to_pylist()
        return found

    def require_readable(self, name: str) -> None:
        """Raise ConfigError if a row group of a column is too large to be read; sizes are those of the data, not of the file."""
        for file, one in zip(self.files, self._opened, strict=True):
            for number in range(one.metadata.num_row_groups):
                # pyarrow ends the process where a damaged file contradicts itself about a column, so that only large groups are looked into
                group = one.metadata.row_group(number)
                size = group.total_byte_size
                if size > LARGEST_GROUP:
                    chunks = (group.column(at) for at in range(group.num_columns))
                    size = sum(
                        chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] == name
                    )
                if size > LARGEST_GROUP:
                    raise ConfigError(
                        f"data.{self.split}: column '{name}' of {file.name} has {size / 1e9:.1f} GB in row group {number}, which must be read "
                        "as a whole; write the file with smaller row groups, for example row_group_size = 100"
                    )

    def row(self, number: int, group: int, row: int) -> Any:
        """Return a picture; a thread keeps the row group of its last picture, which other threads share."""
        if getattr(self._mine, "key", None) != (number, group):
            with self._lock:
                found = self._shared.get((number, group))
                if found is None:
                    with _whole(self.files[number]):
                        found = self._opened[number].read_row_group(group, columns=[self.picture])
                    self._shared[number, group] = found
            self._mine.key, self._mine.table = (number, group), found
        return self._mine.table[0][row].as_py()


def _open(file: Path) -> Any:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise ConfigError(
            f"data: {file.name} needs the package pyarrow; run: pip install 'edgedistill[parquet]'"
        ) from None
    with _whole(file):
        return pq.ParquetFile(file)


@contextmanager
def _whole(file: Path) -> Iterator[None]:
    """Turn what pyarrow raises for a damaged file into a ConfigError."""
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"data: {file.name} is not a whole .parquet file: {reason}; download it or make it again"
        ) from None


def _features(schema: Any) -> dict[str, Any]:
    """Return what the metadata of Hugging Face says about columns."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, dict) else {}


def _kind(feature: Any) -> str | None:
    return feature.get("_type") if isinstance(feature, Mapping) else None


def _class_names(feature: Any) -> tuple[str, ...] | None:
    """Return the names of the first ClassLabel in a feature, or None."""
    if _kind(feature) == "ClassLabel" and feature.get("names"):
        return tuple(map(str, feature["names"]))
    inside = feature.values() if isinstance(feature, Mapping) else feature if isinstance(feature, list) else ()
    return next((names for one in inside if (names := _class_names(one)) is not None), None)


def table_samples(shards: Shards, reading: Reading) -> Samples:
    """Return the samples of .parquet files: their names are the numbers of their rows."""
    tables = Tables(shards, reading.split)
    places = list(_places(tables))
    labels: list[Label | None] = [None] * len(places)
    classes, broken = None, dict[int, str]()
    if reading.has_labels:
        column = _label_column(tables)
        classes = _class_names(tables.features.get(column))
        values = tables.column(column)  # -1 stands for no label in test sets
        labels = [None if value == -1 and classes else as_label(value) for value in values]
        broken = {number: "has no label" for number, label in enumerate(labels) if label is None}

    def read(number: int) -> bytes:
        return _bytes(tables.row(*places[number]))

    tables.require_readable(tables.picture)
    return Samples(_names(tables), labels, broken, read, classes)


def _places(tables: Tables) -> Iterator[tuple[int, int, int]]:
    """Yield the file, the row group, and the row in it, of each row."""
    for number, group, rows in tables.groups:
        yield from ((number, group, row) for row in range(rows))


def _names(tables: Tables) -> list[str]:
    """Return FILE/ROW for each row."""
    counts = [0] * len(tables.files)
    for number, _, rows in tables.groups:
        counts[number] += rows
    return [f"{file.name}/{row}" for file, count in zip(tables.files, counts, strict=True) for row in range(count)]


def _label_column(tables: Tables) -> str:
    named = [name for name, feature in tables.features.items() if _kind(feature) == "ClassLabel"]
    candidates = [name for name in LABELS if name in tables.schema.names] or named
    if len(candidates) == 1:
        return candidates[0]
    problem = f"has several columns of labels, {', '.join(candidates)}" if candidates else "has no column of labels"
    raise ConfigError(
        f"data.{tables.split}: {tables.files[0].name} {problem}; name the column 'label'; it has {', '.join(tables.schema.names)}"
    )


def _bytes(value: Any) -> bytes:
    """Return the content of a picture; raises ValueError if there is none."""
    content = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(content, bytes):
        return content
    if isinstance(value, dict) and value.get("path"):
        raise ValueError("holds the path of a picture, not its bytes; write the data set again with its pictures")
    raise ValueError("has no picture")


def table_boxes(shards: Shards, reading: Reading) -> Annotations:
    """Return the annotated pictures of .parquet files with a column `objects`."""
    tables = Tables(shards, reading.split)
    if OBJECTS not in tables.schema.names:
        raise ConfigError(
            f"data.{reading.split}: {tables.files[0].name} has no column '{OBJECTS}' with bbox and category; it has {', '.join(tables.schema.names)}"
        )
    tables.require_readable(tables.picture)
    names = _names(tables)
    places = dict(zip((shards.root / name for name in names), _places(tables), strict=True))
    objects = [_objects(value, name) for value, name in zip(tables.column(OBJECTS), names, strict=True)]
    classes = _box_classes(tables, objects, reading)
    own, oddities = _class_names(tables.features.get(OBJECTS)), Oddities()
    pictures = tuple(
        Annotation(path, tuple(_boxes(one, own or classes, classes, (name, oddities))))
        for path, name, one in zip(places, names, objects, strict=True)
    )

    def opener(path: Path) -> BinaryIO:
        return BytesIO(_bytes(tables.row(*places[path])))

    return Annotations(pictures, classes, shards.root, shards.files, oddities, opener)


def _objects(value: Any, name: str) -> list[dict[str, Any]]:
    """Return the objects of a picture; in files they are a list of structs, or a struct of lists."""
    found = value or []
    try:
        if isinstance(found, dict):
            found = [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]
        return [
            {**one, "bbox": [float(number) for number in one["bbox"]], "category": one["category"]} for one in found
        ]
    except (KeyError, TypeError, ValueError):
        raise ConfigError(
            f"data: {name}: column '{OBJECTS}' must have a bbox of four numbers and a category for each object"
        ) from None


def _box_classes(tables: Tables, objects: Sequence[list[dict[str, Any]]], reading: Reading) -> tuple[str, ...]:
    """Return the classes: those of the configuration or of the training set, those of the metadata, or what the categories are."""
    named = reading.classes or _class_names(tables.features.get(OBJECTS))
    if named is not None:
        return named
    categories = {one["category"] for picture in objects for one in picture}
    if all(isinstance(one, str) for one in categories):
        return tuple(sorted(categories))
    return tuple(map(str, range(max((int(one) for one in categories), default=-1) + 1)))


def has_boxes(shards: Shards) -> bool:
    """Return whether shards have a column of boxes."""
    return shards.are_tables and OBJECTS in Tables(shards, "train").schema.names


def _boxes(
    objects: Sequence[dict[str, Any]], own: Sequence[str], classes: Sequence[str], place: tuple[str, Oddities]
) -> Iterator[Box]:
    """Yield the boxes of a picture whose class is one of `classes`; numbers are those of `own` names."""
    name, oddities = place
    for number, one in enumerate(objects, 1):
        category = one["category"]
        title = category if isinstance(category, str) else own[category] if 0 <= category < len(own) else None
        if title not in classes or len(one["bbox"]) != 4:
            oddities.add("unknown class", f"{name}, box {number}")
            continue
        x, y, width, height = one["bbox"]
        area = float(one.get("area") or 0) or None
        yield Box(classes.index(title), (x, y, x + width, y + height), area, bool(one.get("iscrowd")))
