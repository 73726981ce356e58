"""The sources of labels that belong to places in pictures: masks in a folder, and boxes in one of three formats."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from edgedistill.data.boxes import Annotations, read_boxed
from edgedistill.data.coco import read_coco
from edgedistill.data.files import names_in
from edgedistill.data.masks import MASK_SUFFIXES, find_folders, find_pairs, names_of, read_masked
from edgedistill.data.reading import Labelled, Reading
from edgedistill.data.voc import is_voc, read_voc
from edgedistill.data.yolo import SUFFIXES, read_yolo
from edgedistill.errors import ConfigError
from edgedistill.runtime.progress import Reporter

TASKS: Final = ("segmentation", "detection")
COCO_NAMES: Final = ("_annotations.coco.json", "annotations.json")
"""The names of a COCO file in a folder with its pictures."""


def holds_masks(path: Path) -> bool:
    """Return whether a source is pictures with masks and has no boxes; the labels of a YOLO folder are texts."""
    found = find_folders(path) if path.is_dir() else None
    if found is None or is_voc(path) or any((path / name).is_file() for name in COCO_NAMES):
        return False
    return bool(names_in(found[1], MASK_SUFFIXES))


def read_dense(path: Path, folder: Path, reading: Reading, report: Reporter) -> Labelled:
    """Read a source of masks or boxes; `folder` is the folder of the configuration. Raises ConfigError that names what is wrong."""
    if reading.task == "segmentation":
        return read_masked(find_pairs(path), path, reading, report)
    return read_boxed(_annotations(path, folder, reading), reading, report)


class Pictures(NamedTuple):
    """The pictures of a source of masks or boxes, and the names of the classes, None if only reading the masks tells."""

    files: tuple[Path, ...]
    classes: tuple[str, ...] | None


def find_pictures(path: Path, folder: Path, reading: Reading) -> Pictures:
    """Return the pictures of a source of masks or boxes; raises ConfigError as `read_dense` does."""
    if reading.task == "segmentation":
        pairs = find_pairs(path)
        return Pictures(pairs.pictures, names_of(pairs, reading))
    found = _annotations(path, folder, reading)
    return Pictures(tuple(one.picture for one in found.pictures), found.classes)


def dense_files(path: Path, folder: Path, reading: Reading) -> tuple[Path, ...]:
    """Return the files that decide the samples of a source of masks or boxes; raises ConfigError as `read_dense` does."""
    if reading.task == "segmentation":
        return find_pairs(path).files
    found = _annotations(path, folder, reading)
    return (*found.files, *(one.picture for one in found.pictures))


def _annotations(path: Path, folder: Path, reading: Reading) -> Annotations:
    """Read annotations; `folder` is the folder of the configuration, which data.images is relative to."""
    file = next((path / name for name in COCO_NAMES if (path / name).is_file()), path)
    if file.suffix == ".json":
        return read_coco(file, None if reading.images is None else (folder / reading.images).resolve(), reading)
    if reading.images is not None:
        raise ConfigError(
            f"data.images: only applies to a COCO .json, but data.{reading.split} is {path.name}; remove the key"
        )
    if file.suffix in SUFFIXES:
        return read_yolo(file, reading)
    if is_voc(file):
        return read_voc(file, reading)
    raise ConfigError(
        f"data: '{path.name}' holds no boxes; expected a COCO .json, the .yaml of a YOLO dataset, or a folder or list of Pascal VOC annotations"
    )
