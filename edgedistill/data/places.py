"""Find out what form the data of a user has, and where its training, validation and test sets are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from edgedistill.data.coco import looks_like_coco
from edgedistill.data.dense import COCO_NAMES
from edgedistill.data.files import names_in
from edgedistill.data.masks import MASK_SUFFIXES, find_folders
from edgedistill.data.voc import SETS, is_voc
from edgedistill.data.yolo import is_yolo, splits_of
from edgedistill.records.stages import SplitName

TRAIN_NAMES: Final = ("train", "training")
TEST_NAMES: Final = ("test", "testing")
VAL_NAMES: Final = ("val", "valid", "validation")
"""Names of folders and files that hold a split."""

NAMES: Final[dict[SplitName, Sequence[str]]] = {"train": TRAIN_NAMES, "val": VAL_NAMES, "test": TEST_NAMES}


class Places(NamedTuple):
    """The task of data with boxes or masks, and its sources by split, which include train."""

    task: str
    sources: dict[SplitName, Path]


def find_places(data: Path, task: str | None = None) -> Places | None:
    """Return the places of data with boxes or masks, of one task if given; None for data of another form."""
    forms = (("detection", _coco), ("detection", _yolo), ("detection", _voc), ("segmentation", _masks))
    found = (Places(own, find(data)) for own, find in forms if task in (None, own))
    return next((places for places in found if "train" in places.sources), None)


def _coco(data: Path) -> dict[SplitName, Path]:
    train = data if data.suffix == ".json" else next(_coco_files(data), None)
    if train is None:
        return {}
    found: dict[SplitName, Path] = {"train": train}
    own = next((name for name in TRAIN_NAMES[::-1] if name in train.name), None)
    for split in ("val", "test"):
        folders = (
            train.parent.with_name(name) / train.name for name in NAMES[split] if train.parent.name in TRAIN_NAMES
        )
        files = (train.with_name(train.name.replace(own, name)) for name in NAMES[split] if own is not None)
        if place := next((path for path in (*folders, *files) if path.is_file()), None):
            found[split] = place
    return found


def _coco_files(data: Path) -> Iterator[Path]:
    """Yield the files that hold the boxes of the training set, by their names."""
    if data.is_dir():
        yield from (path for name in TRAIN_NAMES for own in COCO_NAMES if (path := data / name / own).is_file())
        for folder in (data, data / "annotations"):
            named = (path for name in TRAIN_NAMES for path in sorted(folder.glob(f"*{name}*.json")))
            yield from (path for path in named if looks_like_coco(path))
        yield from (path for own in COCO_NAMES if (path := data / own).is_file())


def _yolo(data: Path) -> dict[SplitName, Path]:
    files = sorted((*data.glob("*.yaml"), *data.glob("*.yml"))) if data.is_dir() else [data]
    file = next((path for path in files if is_yolo(path)), None)
    return {} if file is None else dict.fromkeys(splits_of(file), file)


def _voc(data: Path) -> dict[SplitName, Path]:
    if not data.is_dir():
        return {}
    if not is_voc(data):
        return {split: path for split, path in _folders(data).items() if is_voc(path)}
    lists = {path.stem: path for path in (data / SETS).glob("*.txt")}
    if not lists:
        return {"train": data}
    if "train" not in lists and "trainval" in lists:
        lists["train"] = lists["trainval"]
    return {split: data if lists[split].stem == split else lists[split] for split in NAMES if split in lists}


def _masks(data: Path) -> dict[SplitName, Path]:
    if not data.is_dir():
        return {}
    if not _has_masks(data):
        return {split: path for split, path in _folders(data).items() if _has_masks(path)}
    found = find_folders(data)
    inside = {} if found is None else {split: path for split, path in _folders(found[0]).items() if _has_masks(path)}
    return inside if "train" in inside else {"train": data}


def _has_masks(folder: Path) -> bool:
    found = find_folders(folder)
    return found is not None and bool(names_in(found[1], MASK_SUFFIXES))


def _folders(data: Path) -> dict[SplitName, Path]:
    """Return the folders of splits in a folder."""
    found = {
        split: next((data / name for name in names if (data / name).is_dir()), None) for split, names in NAMES.items()
    }
    return {split: path for split, path in found.items() if path is not None}


def relative(path: Path, folder: Path) -> str:
    """Return a path relative to `folder`, as a configuration there names it."""
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
