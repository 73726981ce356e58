"""Counts and sizes that files declare are checked before anything is made of them."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgedistill.data.boxes import places_of
from edgedistill.data.coco import read_coco
from edgedistill.data.dataset import MOST_CLASSES
from edgedistill.data.reading import Reading
from edgedistill.data.text import inflated
from edgedistill.errors import ConfigError
from edgedistill.records.finding import Finding
from edgedistill.tasks.class_labels import LARGEST
from edgedistill.tasks.detection import TASK as DETECTION
from edgedistill.tasks.task import Labels
from tests.support.learning import config_of, loaded


def boxes(**columns: float) -> Labels:
    label = np.array([[[0, 1, 1, 5, 5, 16, 0]]], np.float32)
    for name, value in columns.items():
        label[..., ("kind", "x1", "y1", "x2", "y2").index(name)] = value
    return Labels("train", label, None)


@pytest.mark.parametrize("number", [2.0**31, LARGEST + 1])
def test_a_class_number_of_a_box_is_checked_before_the_classes_are_listed(number: float) -> None:
    with pytest.raises(ConfigError, match=rf"a box has class \d+; the largest class number is {LARGEST}"):
        DETECTION.names([boxes(kind=number)], None, None)


@pytest.mark.parametrize("column", ["kind", "x1"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_box_that_is_no_number_is_named(column: str, value: float) -> None:
    with pytest.raises(ConfigError, match=r"data\.train: a class or a corner of a box is NaN or infinite"):
        DETECTION.read_labels([boxes(**{column: value})], None)


def test_more_values_than_a_model_could_have_are_refused(tmp_path: Path) -> None:
    labels = np.zeros((4, MOST_CLASSES + 1), np.float32)
    labels[0] = 1
    np.savez(tmp_path / "data.npz", inputs=np.arange(4 * 8, dtype=np.float32).reshape(4, 8), labels=labels)
    config = config_of(tmp_path, data={"train": "data.npz", "test": "data.npz", "task": "regression"})
    with pytest.raises(ConfigError, match=r"have 100,001 classes or values; at most 100,000 are supported"):
        loaded(config)


def test_categories_are_looked_up_in_no_time_however_many_there_are(tmp_path: Path) -> None:
    """Looking each name up in a list takes 300,000 x 300,000 comparisons: hours."""
    names = [{"id": i, "name": f"class {i}"} for i in range(300_000)]
    (tmp_path / "a.png").write_bytes(b"")
    boxes = [{"image_id": 1, "category_id": 299_999, "bbox": [1, 1, 2, 2]}]
    table = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": boxes, "categories": names}
    (tmp_path / "boxes.json").write_text(json.dumps(table))
    read = read_coco(tmp_path / "boxes.json", None, Reading("detection"))
    assert [box.number for box in read.pictures[0].boxes] == [299_999]
    assert places_of(("a", "b", "a")) == {"a": 0, "b": 1}


def test_a_table_that_inflates_beyond_the_memory_is_refused(tmp_path: Path) -> None:
    packed = tmp_path / "texts.tsv.gz"
    packed.write_bytes(gzip.compress(bytes(200_000_000)))
    assert len(inflated(packed, 200_000_000)) == 200_000_000
    with pytest.raises(ConfigError, match=r"texts\.tsv\.gz has more than 0\.1 GB when it is decompressed"):
        inflated(packed, 100_000_000)


@pytest.mark.parametrize("damage", [b"no gzip", gzip.compress(b"text" * 999)[:-20]], ids=("other", "cut"))
def test_a_damaged_gz_is_a_sentence(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "texts.tsv.gz").write_bytes(damage)
    with pytest.raises(ConfigError, match=r"texts\.tsv\.gz is not a readable \.gz file"):
        inflated(tmp_path / "texts.tsv.gz", 1_000_000)


def folder_of_pictures(tmp_path: Path, *names: bytes) -> dict[str, object]:
    """Return the data of a folder of two classes of 8 pictures, and of files with other names."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3)).astype(np.uint8)
    for i, one in enumerate(pixels):
        (tmp_path / "data" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(one).save(tmp_path / "data" / "ab"[i % 2] / f"{i}.png")
    for name in names:
        path = os.fsencode(tmp_path / "data") + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120 - pathlib takes no bytes
        with open(path, "wb") as file:  # noqa: PTH123
            file.write((tmp_path / "data" / "a" / "0.png").read_bytes()[: 30 if b"broken" in name else None])
    return {"train": "data", "test": "data", "size": [8, 8], "skip_bad": True}


def test_a_class_whose_name_is_not_utf8_is_named(tmp_path: Path) -> None:
    config = config_of(tmp_path, data=folder_of_pictures(tmp_path, b"b\xe9/1.png", b"b\xe9/2.png"))
    with pytest.raises(ConfigError, match=r"the class 'b\\udce9' has a name that is not UTF-8"):
        loaded(config)


def test_files_whose_names_are_not_utf8_are_read_and_those_left_out_can_be_recorded(tmp_path: Path) -> None:
    config = config_of(tmp_path, data=folder_of_pictures(tmp_path, b"a/caf\xe9.png", b"b/broken\xe9.png"))
    record = loaded(config).record
    assert record.left_out["train"][0].startswith("b/broken\\udce9.png (cannot identify image file")
    assert type(record).model_validate_json(record.model_dump_json()) == record
    found = Finding(severity="note", subject="caf\udce9.png", text="is odd")
    assert Finding.model_validate_json(found.model_dump_json()) == found
