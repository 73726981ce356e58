"""Pictures in .parquet files, as Hugging Face's datasets writes them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedistill.data.dataset import load_dataset
from edgedistill.data.profile import profile_data
from edgedistill.data.reading import Reading
from edgedistill.data.settings import data_settings
from edgedistill.data.sources import load_source
from edgedistill.errors import ConfigError
from tests.data.test_shards import KINDS, PIXELS, encoded
from tests.support.learning import config_of, sources_of

pa = pytest.importorskip("pyarrow", reason="the optional package pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet")

LABELS = {"image": {"_type": "Image"}, "label": {"names": list(KINDS), "_type": "ClassLabel"}}
STRUCTS = [{"bytes": encoded(number), "path": None} for number in range(12)]


def write(path: Path, columns: dict[str, Any], features: dict[str, Any] | None = None, rows: int = 5) -> None:
    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=rows)


def test_tables_are_read_with_the_names_of_their_classes(tmp_path: Path) -> None:
    for number in range(2):
        part = slice(6 * number, 6 * number + 6)
        columns = {"image": STRUCTS[part], "label": [kind % 3 for kind in range(12)][part]}
        write(tmp_path / f"train-0000{number}-of-00002.parquet", columns, LABELS, 4)
    write(tmp_path / "test-00000-of-00001.parquet", {"image": STRUCTS[:3], "label": [0, 1, 2]}, LABELS)
    (tmp_path / "dataset_infos.json").write_text("{}")
    source = load_source(".", tmp_path)
    assert np.array_equal(source.inputs["input"], PIXELS)
    assert (source.labels.tolist(), source.classes) == ([0, 1, 2] * 4, KINDS)
    assert source.files is not None
    assert source.files[7] == "train-00001-of-00002.parquet/1"
    assert len(load_source(".", tmp_path, Reading(split="test")).labels) == 3
    with pytest.raises(ConfigError, match="are named as splits, but none begins with val"):
        load_source(".", tmp_path, Reading(split="val"))


def test_pictures_can_be_binary_and_labels_names(tmp_path: Path) -> None:
    columns = {"img": [encoded(number) for number in range(12)], "cls": [KINDS[number % 3] for number in range(12)]}
    write(tmp_path / "a.parquet", columns)
    config = config_of(tmp_path, data={"train": "a.parquet", "test": "a.parquet", "val": "a.parquet"})
    data = load_dataset(data_settings(sources_of(config)))
    assert (data.record.classes, data.train.labels.tolist()) == (KINDS, [0, 1, 2] * 4)


def test_rows_that_cannot_be_used_are_left_out(tmp_path: Path) -> None:
    images = [*STRUCTS[:2], {"bytes": None, "path": "b.png"}, {"bytes": b"no picture", "path": None}, None, STRUCTS[5]]
    write(tmp_path / "a.parquet", {"image": images, "label": [0, 1, 1, 0, 1, -1]}, LABELS)
    with pytest.raises(ConfigError, match="4 files are not readable images: "):
        load_source("a.parquet", tmp_path)
    source = load_source("a.parquet", tmp_path, Reading(skip_bad=True))
    assert source.labels.tolist() == [0, 1]
    reasons = dict(one.rstrip(")").split(" (", 1) for one in source.left_out)
    assert reasons["a.parquet/2"].startswith("holds the path of a picture, not its bytes")
    assert (reasons["a.parquet/4"], reasons["a.parquet/5"]) == ("has no picture", "has no label")


def test_boxes_are_those_of_the_column_objects(tmp_path: Path) -> None:
    boxes = [{"bbox": [[1.0, 2.0, 4.0, 3.0], [0.0, 0.0, 2.0, 0.0]], "category": [2, 0]}, {"bbox": [], "category": []}]
    category = {"feature": {"names": list(KINDS), "_type": "ClassLabel"}, "_type": "Sequence"}
    features = {"image": {"_type": "Image"}, "objects": {"bbox": {"_type": "Sequence"}, "category": category}}
    write(tmp_path / "train.parquet", {"image": STRUCTS[:2], "objects": boxes}, features)
    one_by_one = [
        [{"bbox": [1.0, 2.0, 4.0, 3.0], "category": "owl", "area": 7.0}],
        [{"bbox": [0.0, 0.0, 2.0, 2.0], "category": "cow", "area": 4.0}],
    ]
    write(tmp_path / "test.parquet", {"image": STRUCTS[:2], "objects": one_by_one})
    train = load_source("train.parquet", tmp_path, Reading(task="detection"))
    assert np.array_equal(train.inputs["input"], PIXELS[:2])
    assert train.labels[0, 0].tolist() == [2, 1, 2, 5, 5, 12, 0]
    assert (train.labels[1, :, 0].tolist(), train.classes) == ([-1], KINDS)
    assert [one.text.split(":")[0] for one in train.findings] == [
        "boxes left out because they have no area", "pictures without boxes, which are used as such",
    ]  # fmt: skip
    test = load_source("test.parquet", tmp_path, Reading(task="detection", classes=KINDS))
    assert test.labels[0, 0].tolist() == [2, 1, 2, 5, 5, 7, 0]
    assert "boxes left out because their class is not in the list of classes: 1" in str(test.findings[0])
    found = profile_data(tmp_path, tmp_path / "job")
    assert (found.form, found.train, found.classes) == ("boxes", 2, 3)
    assert (found.keys["task"], found.keys["train"], found.keys["test"]) == (
        "detection",
        "../train*.parquet",
        "../test*.parquet",
    )


@pytest.mark.parametrize(
    ("columns", "task", "message"),
    [
        ({"photo": [b""], "label": [0]}, "classification", "has no column of pictures; expected a column 'image' of bytes; it has photo, label"),
        ({"image": [b""], "kind": [0]}, "classification", "has no column of labels; name the column 'label'"),
        ({"image": [b""], "label": [0], "class": [1]}, "classification", "has several columns of labels, label, class"),
        ({"image": [b""], "label": [0]}, "detection", "has no column 'objects'"),
        ({"image": [b""], "label": [0]}, "segmentation", "shards hold no masks"),
    ],
)  # fmt: skip
def test_what_a_table_lacks_is_said(tmp_path: Path, columns: dict[str, Any], task: str, message: str) -> None:
    write(tmp_path / "a.parquet", columns)
    with pytest.raises(ConfigError, match=message):
        load_source("a.parquet", tmp_path, Reading(task=task))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(ConfigError, match=r"a.parquet is not a whole .parquet file: "):
        load_source("a.parquet", tmp_path)
