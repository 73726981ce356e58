"""Folders of pictures and masks: the layouts that people have, void, and what is wrong with masks, by file name."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgedistill.data.geometry import Resizing
from edgedistill.data.masks import find_pairs
from edgedistill.data.profile import Choices, profile_data
from edgedistill.data.reading import Reading
from edgedistill.data.settings import data_settings
from edgedistill.data.sources import Source, load_source
from edgedistill.errors import ConfigError
from edgedistill.runtime.files import sha256_of
from tests.support.learning import config_of, only, sources_of

RNG = np.random.default_rng(0)
MASK = np.array([[0, 1, 2], [3, 3, 0]], np.uint8)


def put(folder: Path, pictures: str, masks: str, values: np.ndarray = MASK, count: int = 3) -> Path:
    for i in range(count):
        picture, mask = folder / pictures.format(i), folder / masks.format(i)
        picture.parent.mkdir(parents=True, exist_ok=True)
        mask.parent.mkdir(parents=True, exist_ok=True)
        height, width = values.shape
        Image.fromarray(RNG.integers(0, 256, (height, width, 3), np.uint8)).save(picture)
        Image.fromarray(np.roll(values, i, 1)).save(mask)
    return folder


def read(folder: Path, source: str = ".", **keys: object) -> Source:
    return load_source(source, folder, Reading(task="segmentation", **keys))


@pytest.mark.parametrize(
    ("pictures", "masks", "source"),
    [
        ("train/images/{}.jpg", "train/masks/{}.png", "train"),
        ("images/train/a/{}.png", "labels/train/a/{}.png", "images/train"),
        ("train/{}.png", "trainannot/{}.png", "train"),
        ("images/{}.png", "labels/{}_P.png", "."),
        ("JPEGImages/{}.jpg", "SegmentationClass/{}.png", "."),
    ],
)
def test_layouts(tmp_path: Path, pictures: str, masks: str, source: str) -> None:
    found = read(put(tmp_path, pictures, masks), source)
    assert only(found.inputs).shape == (3, 2, 3, 3)
    assert (found.labels.dtype, found.classes) == (np.uint8, ("0", "1", "2", "3"))
    np.testing.assert_array_equal(found.labels[1], np.roll(MASK, 1, 1))
    assert found.files is not None
    assert found.files[0].endswith(pictures.format(0).rpartition("/")[2])


def test_names_that_begin_alike_keep_their_masks(tmp_path: Path) -> None:
    found = find_pairs(put(tmp_path, "images/{}.png", "masks/{}_mask.png", count=12))
    assert [mask and mask.name for mask in found.masks] == [f"{one.stem}_mask.png" for one in found.pictures]
    (tmp_path / "masks" / "1_mask.png").unlink()
    missing = [one.name for one, mask in zip(*find_pairs(tmp_path)[:2], strict=True) if mask is None]
    assert missing == ["1.png"]


def test_void_is_255_and_values_above_it_count_one_less(tmp_path: Path) -> None:
    put(tmp_path, "images/{}.png", "masks/{}.png")
    (tmp_path / "classes.txt").write_text("sky\nroad\nvoid\ncar\n")
    found = read(tmp_path, void=2)
    assert found.classes == ("sky", "road", "car")
    np.testing.assert_array_equal(found.labels[0], [[0, 1, 255], [2, 2, 0]])
    assert read(tmp_path, void=0, classes=("a", "b", "c")).labels[0].tolist() == [[255, 0, 1], [2, 2, 255]]


def test_palette_masks_are_class_numbers(tmp_path: Path) -> None:
    put(tmp_path, "images/{}.png", "masks/{}.png")
    palette = Image.fromarray(MASK).convert("P")
    palette.putdata(MASK.ravel().tolist())
    palette.putpalette(RNG.integers(0, 256, 768, np.uint8).tolist())
    palette.save(tmp_path / "masks" / "0.png")
    np.testing.assert_array_equal(read(tmp_path).labels[0], MASK)


def test_a_letterbox_is_void_outside_the_picture(tmp_path: Path) -> None:
    put(tmp_path, "images/{}.png", "masks/{}.png", np.kron(MASK, np.ones((2, 2), np.uint8)))
    found = read(tmp_path, resizing=Resizing(6, 8, "letterbox", 114))
    assert (found.labels[0, [0, 1, 6, 7]] == 255).all()
    assert (only(found.inputs)[0, [0, 1, 6, 7]] == 114).all()
    np.testing.assert_array_equal(found.labels[0, 2:6], np.kron(MASK, np.ones((2, 2))))


def test_unusable_masks_are_named_or_left_out(tmp_path: Path) -> None:
    put(tmp_path, "images/{}.png", "masks/{}.png", count=6)
    Image.fromarray(MASK.T.copy()).save(tmp_path / "masks" / "1.png")
    Image.fromarray(np.stack([MASK] * 3, 2)).save(tmp_path / "masks" / "2.png")
    (tmp_path / "masks" / "3.png").unlink()
    Image.fromarray(MASK * 10).save(tmp_path / "masks" / "4.png")
    classes = ("a", "b", "c", "d")
    with pytest.raises(
        ConfigError, match=r"4 files are not pictures with usable masks: images/1\.png, .*images/4\.png"
    ):
        read(tmp_path, classes=classes)
    found = read(tmp_path, classes=classes, skip_bad=True)
    assert found.files == ("images/0.png", "images/5.png")
    assert [name.partition(" ")[2] for name in found.left_out] == [
        "(mask 1.png is 2x3, but the picture is 3x2 after EXIF rotation)",
        "(mask 2.png has mode RGB; expected a palette or grey image with a class number in each pixel)",
        "(has no mask)",
        "(mask 4.png holds the value 10, but the values of 4 classes are 0 to 3 with data.void = 255)",
    ]


def test_folders_without_masks_and_masks_of_one_class_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "binary", "images/{}.png", "masks/{}.png", np.where(MASK > 1, 255, 0).astype(np.uint8))
    with pytest.raises(ConfigError, match=r"hold class 0 and void .* has the values 0 and 1, not 0 and 255"):
        read(tmp_path / "binary")
    put(tmp_path / "jpeg", "images/{}.png", "masks/{}.jpg")
    with pytest.raises(ConfigError, match=r"jpeg/masks holds no PNG masks \(JPEG changes class numbers\)"):
        read(tmp_path / "jpeg")
    (tmp_path / "none").mkdir()
    with pytest.raises(ConfigError, match=r"folder none has no masks; expected none/images/NAME\.jpg"):
        read(tmp_path, "none")


def test_the_fingerprint_covers_pictures_masks_and_resizing(tmp_path: Path) -> None:
    put(tmp_path / "train", "images/{}.png", "masks/{}.png")

    def fingerprint(**data: object) -> str:
        config = config_of(tmp_path, data={"train": "train", "task": "segmentation", "size": [6, 4]} | data)
        return data_settings(sources_of(config, hash_file=sha256_of)).fingerprint

    first = fingerprint()
    assert len({first, fingerprint(resize="stretch"), fingerprint(padding=0), fingerprint(void=3)}) == 4
    assert first == fingerprint(resize="letterbox", padding=114, void=255)
    Image.fromarray(MASK[::-1].copy()).save(tmp_path / "train" / "masks" / "1.png")
    assert fingerprint() != first


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"size": [3]}, r"size is \[3\]; it is the side of a square in pixels, or \[width, height\]"),
        ({"size": 0}, "size is 0; it is the side"),
        ({"resize": "stretch"}, "resize = 'stretch' needs size"),
        ({"size": 9, "resize": "fit"}, "resize: input should be 'crop', 'letterbox'"),
        ({"size": 9, "padding": 3}, "padding only applies to resize 'letterbox'"),
        ({"void": 3}, "void only applies to task 'segmentation'; the task is 'classification'"),
        ({"images": "x"}, "images only applies to task 'detection'"),
    ],
)
def test_keys_that_do_not_apply_are_refused(tmp_path: Path, keys: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(tmp_path, data={"train": "train"} | keys)


def test_init_finds_the_form_and_the_splits(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        put(tmp_path / "one" / split, "images/{}.png", "masks/{}.png", np.tile(MASK, (300, 200)), 1)
        put(tmp_path / "two", f"images/{split}/{{}}.png", f"labels/{split}/{{}}.png")
    found = profile_data(tmp_path / "one", tmp_path)
    assert found.keys | {"task": "segmentation", "train": "one/train", "test": "one/valid", "void": 255} == found.keys
    assert (found.summary, found.keys["size"]) == ("1 pictures of 600\u00d7600 with masks", [480, 480])
    assert profile_data(tmp_path / "two", tmp_path).keys["test"] == "two/images/valid"
    with pytest.raises(
        ConfigError, match=r"--kind only applies to an \.npz file; these are pictures with the task segmentation"
    ):
        profile_data(tmp_path / "one", tmp_path, Choices(kind="image"))


@pytest.mark.slow
def test_camvid_is_read_as_it_lies(shared_data: Path) -> None:
    found = load_source("val", shared_data / "segmentation" / "camvid", Reading(task="segmentation", void=11))
    assert only(found.inputs).shape == (101, 360, 480, 3)
    assert (found.labels.shape, found.classes) == ((101, 360, 480), tuple(map(str, range(11))))
    assert np.unique(found.labels).tolist() == [*range(11), 255]
