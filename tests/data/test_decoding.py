"""Folders are decoded once, into files that later runs map; an interrupted decoding leaves nothing that is used."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgedistill.data.decoding import describe_decoded
from edgedistill.data.geometry import Resizing
from edgedistill.data.reading import Reading
from edgedistill.data.sources import Source, load_source
from edgedistill.errors import ConfigError
from tests.support.learning import config_of, loaded, only
from tests.support.sshd import wait_until

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("EDGEDISTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "decoded"


def put(folder: Path, count: int = 150, channels: tuple[int, ...] = (3,)) -> Path:
    for i in range(count):
        path = folder / "ab"[i % 2] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (8, 8, *channels), np.uint8)).save(path)
    return folder


def read(folder: Path, **keys: object) -> Source:
    return load_source(folder.name, folder.parent, Reading(**keys))


def pixels(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*/*.png"))])


def test_the_second_time_nothing_is_decoded(tmp_path: Path, cache: Path) -> None:
    folder = put(tmp_path / "set")
    first = only(read(folder).inputs)
    np.testing.assert_array_equal(first, pixels(folder))
    assert isinstance(first, np.memmap)
    assert not first.flags.writeable
    (made,) = cache.iterdir()
    (made / "inputs.npy").write_bytes((made / "inputs.npy").read_bytes()[:-1] + b"\x07")
    assert only(read(folder).inputs)[-1, -1, -1, -1] == 7
    assert only(read(folder, resizing=Resizing(4, 6)).inputs).shape == (150, 6, 4, 3)
    Image.new("RGB", (8, 8)).save(folder / "a" / "000.png")
    assert not only(read(folder).inputs)[0].any()
    lines = list(describe_decoded())
    assert lines[0].startswith(f"3 decoded sources in {cache}")
    assert any("150 files, inputs 150x6x4x3 uint8, " in line for line in lines)


@pytest.mark.parametrize("harm", ["short", "no array", "no manifest", "other shape"])
def test_a_damaged_cache_is_made_again(tmp_path: Path, cache: Path, harm: str) -> None:
    folder = put(tmp_path / "set", 5)
    read(folder)
    (made,) = cache.iterdir()
    match harm:
        case "short":
            os.truncate(made / "inputs.npy", 300)
        case "no array":
            (made / "inputs.npy").unlink()
        case "no manifest":
            (made / "manifest.json").write_text("{")
        case "other shape":
            np.save(made / "inputs.npy", np.zeros((4, 8, 8, 3), np.uint8))
    np.testing.assert_array_equal(only(read(folder).inputs), pixels(folder))


def test_files_that_cannot_be_read_have_no_rows(tmp_path: Path, cache: Path) -> None:
    folder = put(tmp_path / "set")
    whole = pixels(folder)
    for name in ("a/000.png", "b/075.png"):
        (folder / name).write_bytes((folder / name).read_bytes()[:90])
    with pytest.raises(ConfigError, match=r"2 files are not readable images: a/000\.png, b/075\.png; .* the first: "):
        read(folder)
    assert [path.name for path in next(cache.iterdir()).iterdir()] == [".lock"]
    kept = [row for row in range(150) if row not in (0, 75 + 37)]  # files of class a come first
    for _ in range(2):
        found = read(folder, skip_bad=True)
        np.testing.assert_array_equal(only(found.inputs), whole[kept])
        assert [name.partition(" ")[0] for name in found.left_out] == ["a/000.png", "b/075.png"]
    with pytest.raises(ConfigError, match="2 files are not readable images"):
        read(folder)


def test_grey_test_images_are_read_in_colour_as_the_training_images_are(tmp_path: Path) -> None:
    put(tmp_path / "train", 20)
    put(tmp_path / "test", 6, ())
    dataset = loaded(config_of(tmp_path, data={"train": "train", "test": "test"}))
    np.testing.assert_array_equal(only(dataset.test.inputs), pixels(tmp_path / "test")[..., None].repeat(3, 3))


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = put(tmp_path / "set", 2)
    (tmp_path / "cache").write_text("not a folder")
    with pytest.raises(
        ConfigError, match=r"the cache cannot be written: .*; set EDGEDISTILL_CACHE to a folder that can"
    ):
        read(folder)


@pytest.mark.slow
def test_a_killed_decoding_starts_again(tmp_path: Path, cache: Path) -> None:
    folder = put(tmp_path / "set", 400)
    os.mkfifo(folder / "b" / "999.png")  # the decoding waits here for ever, after the other files
    code = (
        "import sys; from pathlib import Path; from edgedistill.data.decoding import *; from edgedistill.data.images import decode_image\n"
        "from edgedistill.data.files import IMAGES\n"
        f"files = sorted(Path({str(folder)!r}).glob('*/*.png'))\n"
        "decode(files, Decoding('key', lambda broken: lambda file: {'inputs': decode_image(file, None, 'RGB')}, IMAGES))"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path) as process:
        wait_until(lambda: list(cache.glob("*/inputs.npy")))
        (made,) = cache.iterdir()
        with (made / ".lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        process.send_signal(signal.SIGKILL)
    assert not (made / "manifest.json").exists()
    assert any(line.endswith("incomplete") for line in describe_decoded())
