"""Boxes in COCO, YOLO and Pascal VOC files become the same labels, and what is wrong with them is counted."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgedistill.data.geometry import Resizing
from edgedistill.data.profile import profile_data
from edgedistill.data.reading import Reading
from edgedistill.data.sources import Source, load_source
from edgedistill.data.template import InitOptions, render_config
from edgedistill.errors import ConfigError
from tests.support.command import edgedistill
from tests.support.learning import only

RNG = np.random.default_rng(0)
CLASSES = ("cat", "dog")
BOXES = {"a": [(0, 2, 3, 8, 9), (1, 0, 0, 20, 16)], "b": [(1, 5, 5, 7, 8)], "c": []}
"""Class, x1, y1, x2, y2 in pictures of 20x16 pixels."""


def pictures(folder: Path, suffix: str = "png", names: Any = BOXES) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(RNG.integers(0, 256, (16, 20, 3), np.uint8)).save(folder / f"{name}.{suffix}")


def coco(folder: Path, **changes: Any) -> Path:
    pictures(folder / "photos")
    images = [{"id": i, "file_name": f"{name}.png", "width": 20, "height": 16} for i, name in enumerate(BOXES)]
    annotations = [
        {"id": n, "image_id": i, "category_id": 7 * box[0] + 1, "bbox": [box[1], box[2], box[3] - box[1], box[4] - box[2]]}
        for i, boxes in enumerate(BOXES.values()) for n, box in enumerate(boxes)
    ]  # fmt: skip
    categories = [{"id": 8, "name": "dog"}, {"id": 1, "name": "cat"}]
    tables = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(tables | changes))
    return folder


def yolo(folder: Path, **keys: Any) -> Path:
    pictures(folder / "set" / "images" / "train")
    (folder / "set" / "labels" / "train").mkdir(parents=True)
    for name, boxes in BOXES.items():
        lines = [
            f"{n} {(x1 + x2) / 40} {(y1 + y2) / 32} {(x2 - x1) / 20} {(y2 - y1) / 16}\n" for n, x1, y1, x2, y2 in boxes
        ]
        if lines:
            (folder / "set" / "labels" / "train" / f"{name}.txt").write_text("".join(lines))
    table = {"path": "set", "train": "images/train", "names": {0: "cat", 1: "dog"}} | keys
    (folder / "data.yaml").write_text(json.dumps(table).replace('"0"', "0").replace('"1"', "1"))
    return folder


def voc(folder: Path) -> Path:
    pictures(folder / "VOC" / "JPEGImages", "jpg", [*BOXES, "unused"])
    for name, boxes in BOXES.items():
        xml(folder, name, [(CLASSES[n], x1 + 1, y1 + 1, x2, y2) for n, x1, y1, x2, y2 in boxes])
    (folder / "VOC" / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "VOC" / "ImageSets" / "Main" / "train.txt").write_text("\n".join(BOXES))
    return folder


def xml(
    folder: Path, name: str, boxes: list[tuple[str, float, float, float, float]], size: tuple[int, int] = (20, 16)
) -> None:
    objects = "".join(
        f"<object><name>{n}</name><difficult>0</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for n, x1, y1, x2, y2 in boxes
    )
    (folder / "VOC" / "Annotations").mkdir(parents=True, exist_ok=True)
    path = folder / "VOC" / "Annotations" / f"{name}.xml"
    path.write_text(
        f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{objects}</annotation>"
    )


def read(folder: Path, source: str, **keys: Any) -> Source:
    return load_source(source, folder, Reading(**{"task": "detection"} | keys))


def texts(source: Source) -> list[str]:
    return [f"{one.severity}: {one.subject}: {one.text}" for one in source.findings]


def test_three_formats_give_the_same_labels(tmp_path: Path) -> None:
    sources = [
        read(coco(tmp_path / "coco"), "boxes.json", images="photos"),
        read(yolo(tmp_path / "yolo"), "data.yaml"),
        read(voc(tmp_path / "voc"), "VOC"),
        read(tmp_path / "voc", "VOC/ImageSets/Main/train.txt"),
    ]
    expected = np.full((3, 2, 7), 0, np.float32)
    expected[:, :, 0] = -1
    expected[0, 0] = [0, 2, 3, 8, 9, 36, 0]
    expected[0, 1] = [1, 0, 0, 20, 16, 320, 0]
    expected[1, 0] = [1, 5, 5, 7, 8, 6, 0]
    for source in sources:
        assert source.classes == CLASSES
        assert (only(source.inputs).shape, source.labels.dtype) == ((3, 16, 20, 3), np.float32)
        np.testing.assert_allclose(source.labels, expected, atol=1e-5)
        assert f"note: data.train: pictures without boxes, which are used as such: 1, first {source.files[2]}" in texts(
            source
        )
    assert sources[0].files == ("a.png", "b.png", "c.png")


def test_corners_are_in_the_input_and_areas_in_the_picture(tmp_path: Path) -> None:
    found = read(coco(tmp_path), "boxes.json", images="photos", resizing=Resizing(40, 40, "letterbox", 114))
    assert only(found.inputs).shape == (3, 40, 40, 3)
    np.testing.assert_array_equal(found.labels[0, 0], [0, 4, 10, 16, 22, 36, 0])
    cropped = read(tmp_path, "boxes.json", images="photos", resizing=Resizing(2, 16, "crop"))  # x from 9 to 11
    np.testing.assert_array_equal(cropped.labels[0], [[1, 0, 0, 2, 16, 320, 0]])
    assert "note: data.train: boxes left out because the crop to data.size cuts them off: 2, first a.png" in texts(
        cropped
    )


def test_dirty_boxes_are_counted_with_the_first(tmp_path: Path) -> None:
    def box(picture: int, category: int, *sides: float) -> dict[str, Any]:
        return {"image_id": picture, "category_id": category, "bbox": sides, "iscrowd": 0}

    annotations = [
        box(0, 1, 2, 3, 6, 6), box(0, 1, 2, 3, 6, 6), box(0, 8, 2, 3, 6, 6), box(0, 1, 5, 5, 0, 3), box(1, 8, 30, 0, 5, 5),
        box(1, 8, 15, 10, 10, 3), box(1, 8, 15, 5, 5.5, 3), box(1, 3, 0, 0, 5, 5), box(9, 1, 0, 0, 5, 5), box(1, 1, 0, 0, float("nan"), 5),
    ]  # fmt: skip
    found = read(coco(tmp_path, annotations=annotations), "boxes.json", images="photos")
    assert texts(found) == [
        "warning: data.train: boxes left out because a coordinate is not a finite number: 1, first b.png, box 4: 0 0 nan 5",
        "warning: data.train: boxes left out because they have no area: 1, first a.png, box 4: 5 5 5 8",
        "warning: data.train: boxes left out because they lie outside their picture: 1, first b.png, box 1: 30 0 35 5",
        "note: data.train: boxes clipped because they reach beyond their picture by more than a pixel: 1, first b.png, box 2: 15 10 25 13 in 20x16",
        "warning: data.train: boxes left out because the same box of the same class is there already: 1, first a.png, box 2: 2 3 8 9",
        "warning: data.train: boxes left out because their class is not in the list of classes: 1, first annotation 7, category 3",
        "warning: data.train: boxes left out because their picture is not in the list of pictures: 1, first annotation 8, image 9",
        "note: data.train: pictures without boxes, which are used as such: 1, first c.png",
        "note: data.train: gaps among the class numbers of the file; the classes are numbered anew from 0: 1, first boxes.json, category 2 to 7",
    ]
    np.testing.assert_array_equal(found.labels[1, :2, 1:5], [[15, 10, 20, 13], [15, 5, 20, 8]])
    assert (found.labels[..., 0] >= 0).sum() == 4


def test_pictures_that_are_missing_or_of_another_size(tmp_path: Path) -> None:
    coco(tmp_path)
    (tmp_path / "photos" / "b.png").unlink()
    found = read(tmp_path, "boxes.json", images="photos")
    assert found.files == ("a.png", "c.png")
    assert "warning: data.train: annotated pictures left out because the file does not exist: 1, first b.png" in texts(
        found
    )
    Image.new("RGB", (16, 20)).save(tmp_path / "photos" / "c.png")
    with pytest.raises(
        ConfigError, match=r"photos/c\.png is not a picture with usable boxes: is 16x20 .* annotation says 20x16"
    ):
        read(tmp_path, "boxes.json", images="photos")
    assert read(tmp_path, "boxes.json", images="photos", skip_bad=True).files == ("a.png",)
    assert read(tmp_path, "boxes.json", skip_bad=True).files == ("a.png",)  # the only folder below with a.png
    pictures(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"boxes.json lists a.png, which is not in .*; set data.images to the folder"):
        read(tmp_path, "boxes.json")


def test_boxes_of_a_picture_that_is_listed_twice_are_put_together(tmp_path: Path) -> None:
    tables = json.loads((coco(tmp_path) / "boxes.json").read_text())
    tables["images"].append({"id": 9, "file_name": "b.png"})
    tables["annotations"] += [{"image_id": 9, "category_id": 1, "bbox": bbox} for bbox in ([5, 5, 2, 3], [0, 0, 4, 4])]
    (tmp_path / "boxes.json").write_text(json.dumps(tables))
    found = read(tmp_path, "boxes.json", images="photos")
    assert found.labels[1, :, 0].tolist() == [1, 0, 0]
    assert "warning: data.train: pictures that are listed twice, whose boxes are put together: 1, first b.png" in texts(
        found
    )


def test_files_that_are_not_coco_are_refused(tmp_path: Path) -> None:
    for changes, message in (
        ({"categories": 3}, "it has no list 'categories'"),
        ({"annotations": [{"image_id": 0, "category_id": 1}]}, "key 'bbox' is missing"),
        ({"annotations": []}, "none of the 3 pictures of photos has a box"),
    ):
        with pytest.raises(ConfigError, match=message):
            read(coco(tmp_path, **changes), "boxes.json", images="photos")
    (tmp_path / "boxes.json").write_text("[")
    with pytest.raises(ConfigError, match=r"boxes\.json is not a COCO file"):
        read(tmp_path, "boxes.json")
    with pytest.raises(ConfigError, match=r"'photos' holds no boxes; expected a COCO \.json"):
        read(tmp_path, "photos")


def test_yolo_polygons_unknown_classes_and_wrong_lines(tmp_path: Path) -> None:
    labels = yolo(tmp_path) / "set" / "labels" / "train"
    (labels / "c.txt").write_text("1 0.25 0.5 0.5 0.25 0.75 0.75\n5 0.5 0.5 0.1 0.1\n")
    (labels / "lonely.txt").write_text("")
    found = read(tmp_path, "data.yaml")
    np.testing.assert_allclose(found.labels[2, 0, :6], [1, 5, 4, 15, 12, 80])
    assert (
        "warning: data.train: boxes left out because their class is not in the list of classes: 1, first train/c.txt, line 2, class 5"
        in texts(found)
    )
    assert (
        "warning: data.train: annotated pictures left out because the file does not exist: 1, first train/lonely.txt"
        in texts(found)
    )
    (labels / "c.txt").write_text("\n1 0.5 0.5 oops 1\n")
    with pytest.raises(
        ConfigError, match=r"train/c\.txt, line 2: '1 0.5 0.5 oops 1' is not a box; expected: class x y width height"
    ):
        read(tmp_path, "data.yaml")
    with pytest.raises(ConfigError, match=r"data\.yaml has no split 'val' \(it has: train\)"):
        read(tmp_path, "data.yaml", split="val")


def test_a_document_type_is_refused_before_its_entities_expand(tmp_path: Path) -> None:
    voc(tmp_path)
    laughs = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10 if i else "ha"}">' for i in range(10))
    (tmp_path / "VOC" / "Annotations" / "b.xml").write_text(f"<!DOCTYPE a [{laughs}]><a>&l9;</a>")
    with pytest.raises(ConfigError, match=r"Annotations/b\.xml is not a readable XML file: it has a document type"):
        read(tmp_path, "VOC")


def test_voc_names_what_is_missing(tmp_path: Path) -> None:
    voc(tmp_path)
    with pytest.raises(ConfigError, match=r"ImageSets/Main has no val.txt; it has train.txt"):
        read(tmp_path, "VOC", split="val")
    xml(tmp_path, "b", [("bird", 5, 5, 5, 5), ("cat", 0, 1, 4, 9)])
    found = read(tmp_path, "VOC", classes=("dog", "cat"))
    assert (
        "warning: data.train: boxes left out because their class is not in the list of classes: 1, first b.xml, object 1, 'bird'"
        in texts(found)
    )
    np.testing.assert_array_equal(found.labels[1, 0, :5], [1, 0, 0, 4, 9])
    (tmp_path / "VOC" / "ImageSets" / "Main" / "train.txt").write_text("a\nnone\n")
    with pytest.raises(ConfigError, match=r"train\.txt lists 1 pictures without an annotation, first none\.xml"):
        read(tmp_path, "VOC")


def test_init_finds_the_form_and_the_splits(tmp_path: Path) -> None:
    (coco(tmp_path / "coco") / "boxes.json").rename(tmp_path / "coco" / "set_train2017.json")
    shutil.copy(tmp_path / "coco" / "set_train2017.json", tmp_path / "coco" / "set_val2017.json")
    yolo(tmp_path / "yolo", val="images/train")
    main = voc(tmp_path / "voc") / "VOC" / "ImageSets" / "Main"
    shutil.copy(main / "train.txt", main / "val.txt")
    shutil.copytree(tmp_path / "voc" / "VOC" / "Annotations", tmp_path / "beside" / "train")
    pictures(tmp_path / "beside" / "train")
    found = {
        "coco": {"train": "coco/set_train2017.json", "test": "coco/set_val2017.json"},
        "yolo": {"train": "yolo/data.yaml", "test": "yolo/data.yaml"},
        "voc/VOC": {"train": "voc/VOC", "test": "voc/VOC"},
        "beside": {"train": "beside/train"},
    }
    for data, sources in found.items():
        profile = profile_data(tmp_path / data, tmp_path)
        assert profile.keys | {"task": "detection", "size": [20, 16]} | sources == profile.keys
        assert ("test" in profile.keys) == ("test" in sources)
        assert profile.summary == "3 pictures of 20\u00d716 with boxes, 2 classes"
        if "test" in sources:
            held = read(tmp_path, sources["test"], split="test")
            np.testing.assert_array_equal(held.labels, read(tmp_path, sources["train"]).labels)
            said = [
                one for one in texts(held) if "sources without a split 'test', whose split 'val' is the test set" in one
            ]
            assert len(said) == (data != "coco")
        assert 'model = "zoo:detector"' in render_config(profile, InitOptions(name="x", kits={"ort": ("fp32",)}))
    assert profile_data(tmp_path / "coco" / "set_train2017.json", tmp_path).keys["train"] == "coco/set_train2017.json"


def test_the_pictures_of_coco_are_in_the_folder_that_the_file_is_named_after(tmp_path: Path) -> None:
    place = tmp_path / "birds"
    for split in ("train2017", "val2017"):
        file = coco(place) / "boxes.json"
        (place / "annotations").mkdir(exist_ok=True)
        file.rename(place / "annotations" / f"instances_{split}.json")
        (place / "photos").rename(place / split)
    (place / "training_args.json").write_text('{"lr": 0.1}')
    keys = profile_data(place, place).keys
    assert (keys["train"], keys["test"]) == (
        "annotations/instances_train2017.json", "annotations/instances_val2017.json",
    )  # fmt: skip
    pixels = only(read(place, keys["test"], split="test").inputs)
    np.testing.assert_array_equal(pixels[0], np.asarray(Image.open(place / "val2017" / "a.png")))
    assert not np.array_equal(pixels, only(read(place, keys["train"]).inputs))
    edgedistill("init", "job", "--data", "birds", cwd=tmp_path)
    assert 'name = "birds"' in (tmp_path / "job" / "edgedistill.toml").read_text()


def test_two_pictures_of_coco_with_one_id_are_refused(tmp_path: Path) -> None:
    images = [{"id": i // 2, "file_name": f"{name}.png", "width": 20, "height": 16} for i, name in enumerate(BOXES)]
    with pytest.raises(
        ConfigError, match=r"boxes\.json: a\.png and b\.png have the same id 0; give every picture its own"
    ):
        read(coco(tmp_path, images=images), "boxes.json", images="photos")


@pytest.mark.slow
def test_bccd_is_the_same_in_voc_and_coco_apart_from_its_counting(shared_data: Path) -> None:
    folder, names = shared_data / "detection" / "bccd", ("WBC", "RBC", "Platelets")
    found = read(folder, "bccd_test.coco.json", split="test", images="BCCD/JPEGImages")
    drawn = read(folder, "BCCD", split="test", classes=names)
    assert found.classes == names
    assert (found.labels[..., 0] >= 0).sum() == 945
    np.testing.assert_array_equal(found.labels[..., [0, 3, 4, 6]], drawn.labels[..., [0, 3, 4, 6]])
    used = found.labels[..., 0] >= 0
    np.testing.assert_array_equal(found.labels[used][:, 1:3], drawn.labels[used][:, 1:3] + 1)
    train = read(folder, "BCCD", classes=names)
    assert any("they have no area: 1, first JPEGImages/BloodImage_00343.jpg" in text for text in texts(train))
