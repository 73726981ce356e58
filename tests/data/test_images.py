"""Image files are read as a viewer shows them, whatever their mode; sets that cannot be learned from are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgedistill.config.load import parse_text
from edgedistill.data.examination import examine
from edgedistill.data.files import IMAGES, refuse
from edgedistill.data.profile import Choices, profile_data
from edgedistill.data.sources import load_source
from edgedistill.data.template import InitOptions, render_config
from edgedistill.errors import ConfigError
from tests.support.command import edgedistill
from tests.support.learning import config_of, loaded, only

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (8, 8), np.uint8)
COLOUR = RNG.integers(0, 256, (8, 8, 3), np.uint8)


def put(folder: Path, *images: Image.Image, suffix: str = "png", **options: object) -> Path:
    """Save images to class folders a and b in turn."""
    for i, image in enumerate(images):
        path = folder / "ab"[i % 2] / f"{i:02}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, **options)
    return folder


def read(folder: Path) -> np.ndarray:
    return only(load_source(folder.name, folder.parent).inputs)


def several(count: int = 8) -> list[Image.Image]:
    return [Image.fromarray(np.roll(COLOUR, i, 0)) for i in range(count)]


def test_one_image_in_colour_makes_the_folder_colour(tmp_path: Path) -> None:
    folder = put(tmp_path / "set", Image.fromarray(GREY), *several(7))
    assert read(folder).shape == (8, 8, 8, 3)
    np.testing.assert_array_equal(read(folder)[0], np.repeat(GREY[..., None], 3, 2))
    assert "colour" in profile_data(folder, tmp_path).summary
    assert read(put(tmp_path / "grey", Image.fromarray(GREY), Image.fromarray(GREY.T))).shape == (2, 8, 8)


@pytest.mark.parametrize(("dtype", "suffix"), [(np.uint16, "png"), (np.uint16, "tif"), (np.int32, "tif")])
def test_16_bits_become_8(tmp_path: Path, dtype: type, suffix: str) -> None:
    folder = put(tmp_path / "set", *(Image.fromarray(one.astype(dtype) * 257) for one in (GREY, GREY.T)), suffix=suffix)
    np.testing.assert_array_equal(read(folder), [GREY, GREY.T])


def test_floats_from_0_to_1_become_8_bits_and_others_are_refused(tmp_path: Path) -> None:
    floats = GREY.astype(np.float32) / 255
    folder = put(tmp_path / "set", Image.fromarray(floats), Image.fromarray(floats.T.copy()), suffix="tif")
    np.testing.assert_array_equal(read(folder), [GREY, GREY.T])
    floats[:] = 255 * (floats > 0.5)
    with pytest.raises(ConfigError, match=r"a/00\.tif has pixels from 0 to 255; expected 0 to 1 in an image of floats"):
        read(put(folder, Image.fromarray(floats), suffix="tif"))
    floats[0, 0] = np.nan
    with pytest.raises(ConfigError, match=r"a/00\.tif has pixels from nan to nan"):
        read(put(folder, Image.fromarray(floats), suffix="tif"))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_images_are_turned_as_exif_says(tmp_path: Path, suffix: str) -> None:
    wide = RNG.integers(0, 256, (6, 10, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = [Image.fromarray(np.roll(wide, i, 0)).transpose(Image.Transpose.ROTATE_90) for i in range(8)]
    folder = put(tmp_path / "set", *stored, suffix=suffix, exif=exif)
    np.testing.assert_array_equal(read(folder)[0], wide)
    assert "8 images of 10\u00d76," in profile_data(folder, tmp_path).summary


def test_transparent_pixels_show_white(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[0, 0] = (9, 8, 7, 255)
    palette = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).convert("P")
    palette.info["transparency"] = 5
    images = read(put(tmp_path / "set", Image.fromarray(pixels), palette))
    assert images[0, 0, 0].tolist() == [9, 8, 7]
    assert (images[0, 1:] == 255).all()
    assert images[1, 0, 4:7, 0].tolist() == [4, 255, 6]
    grey = np.stack([GREY, np.full_like(GREY, 0)], 2)
    assert (read(put(tmp_path / "grey", Image.fromarray(grey), Image.fromarray(GREY)))[0] == 255).all()


def test_all_unreadable_files_are_listed(tmp_path: Path) -> None:
    folder = put(tmp_path / "set", *several(30))
    for i in range(0, 24, 2):
        (folder / "a" / f"{i:02}.png").write_bytes((folder / "a" / f"{i:02}.png").read_bytes()[: 20 if i % 4 else 100])
    words = (
        r"12 files are not readable images: a/00\.png, a/02\.png, .*a/22\.png; repair or remove them, or leave them out"
    )
    with pytest.raises(ConfigError, match=words):
        read(folder)
    with pytest.raises(ConfigError, match="files are not readable images: a/"):
        profile_data(folder, tmp_path)
    refused = {Path(f"a/{i}.png"): "" for i in range(25)}
    with pytest.raises(ConfigError, match=r"25 files are .*, a/19\.png and 5 more; "):
        refuse(refused, IMAGES)


def test_unreadable_files_are_left_out_and_recorded(tmp_path: Path) -> None:
    put(tmp_path / "set", *(Image.fromarray(RNG.integers(0, 256, (8, 8), np.uint8)) for _ in range(40)))
    for name, length in {"a/04.png": 20, "b/09.png": 90}.items():
        (tmp_path / "set" / name).write_bytes((tmp_path / "set" / name).read_bytes()[:length])
    (tmp_path / "set" / "notes.txt").touch()
    (tmp_path / "set" / "loose.png").touch()
    config = config_of(tmp_path, data={"train": "set", "skip_bad": True})
    dataset = loaded(config)
    record = dataset.record
    assert record.train + record.val + record.test == 38
    assert [name.partition(" ")[0] for name in record.left_out["train"]] == ["a/04.png", "b/09.png"]
    found = "\n".join(str(one) for one in examine(dataset))
    assert "note: data.train: left out, because they cannot be read: 2 files, a/04.png (" in found
    assert "warning: data.train: 1 image or WAV files are not used: loose.png; samples of one kind belong" in found
    text = render_config(
        profile_data(tmp_path / "set", tmp_path, Choices(skip_bad=True)), InitOptions(name="a", kits={"ort": ("fp32",)})
    )
    assert parse_text(text, tmp_path / "edgedistill.toml").data.skip_bad
    (tmp_path / "edgedistill.toml").write_text(text.replace("skip_bad = true\n", ""))
    result = edgedistill("run", "edgedistill.toml", "--until", "data", "--skip-bad", "--run-dir", "made", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "data.train: left out, because they cannot be read: 2 files, a/04.png (" in result.stderr
    stored = json.loads((tmp_path / "made" / "manifest.json").read_text())["stages"]["data"]["record"]
    assert [one["subject"] for one in stored["findings"] if "left out" in one["text"]] == ["data.train"]
    assert len(stored["left_out"]["train"]) == 2
    with pytest.raises(ConfigError, match="2 files are not readable images"):
        loaded(config_of(tmp_path, data={"train": "set"}))


def test_a_grey_test_folder_is_read_in_colour_where_the_training_folder_has_colour(tmp_path: Path) -> None:
    put(tmp_path / "train", *several(20))
    put(tmp_path / "test", *(Image.fromarray(np.roll(GREY, i, 0)) for i in range(8)))
    test = loaded(config_of(tmp_path, data={"train": "train", "test": "test"})).test
    np.testing.assert_array_equal(only(test.inputs)[0], np.repeat(GREY[..., None], 3, 2))


def test_sets_that_cannot_be_learned_from_are_refused(tmp_path: Path) -> None:
    folder = put(tmp_path / "set", *several())
    (folder / ".hidden").mkdir()
    assert len(read(folder)) == 8
    (folder / "c").mkdir()
    for act in (lambda: read(folder), lambda: profile_data(folder, tmp_path)):
        with pytest.raises(ConfigError, match=r"^data: class folder set/c holds no images; add images, or remove"):
            act()
    put(tmp_path / "same", *([Image.fromarray(COLOUR)] * 20))
    with pytest.raises(
        ConfigError, match=r"^data\.train \(same\): all 20 samples are identical; check how the data was made$"
    ):
        loaded(config_of(tmp_path, data={"train": "same"}))
    with pytest.raises(ConfigError, match="same: all 20 samples are identical"):
        profile_data(tmp_path / "same", tmp_path)
