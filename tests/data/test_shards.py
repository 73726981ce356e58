"""Shards of pictures are read where they lie, with the labels that folders would give, and nothing in them leads elsewhere."""

import json
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgedistill.data.dataset import Dataset, load_dataset
from edgedistill.data.examination import examine
from edgedistill.data.profile import profile_data
from edgedistill.data.reading import Reading
from edgedistill.data.settings import data_settings
from edgedistill.data.shards import find_shard_splits, find_shards
from edgedistill.data.sources import fingerprint_source, load_source
from edgedistill.data.webdataset import NAME
from edgedistill.errors import ConfigError
from edgedistill.runtime.files import sha256_of
from tests.support.learning import config_of, sources_of

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 6, 8, 3), np.uint8)
KINDS = ("cat", "dog", "owl")


def encoded(number: int) -> bytes:
    file = BytesIO()
    Image.fromarray(PIXELS[number]).save(file, "PNG")
    return file.getvalue()


def tar(path: Path, members: list[tuple[str, bytes | str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            one, data = tarfile.TarInfo(name), content.encode() if isinstance(content, str) else content
            one.size = len(data)
            archive.addfile(one, BytesIO(data))
    return path


def shards(folder: Path, field: str = "cls", count: int = 3) -> None:
    """Write four samples into each of some shards; the label of a sample is its number modulo 3, or its name."""
    for number in range(count):
        members: list[tuple[str, bytes | str]] = []
        for sample in range(4 * number, 4 * number + 4):
            kind = sample % 3
            label = {"cls": f"{kind}\n", "txt": KINDS[kind], "json": json.dumps({"label": KINDS[kind]})}[field]
            members += [(f"./day/{sample:06}.PNG", encoded(sample)), (f"./day/{sample:06}.{field}", label)]
        tar(folder / f"train-{number:06}.tar", members)


def loaded(folder: Path, **data: Any) -> Dataset:
    return load_dataset(data_settings(sources_of(config_of(folder, data=data))))


@pytest.mark.parametrize("text", ["shards/train-{000000..000002}.tar", "shards/train-*.tar", "shards"])
def test_shards_are_read_as_pictures_with_labels(tmp_path: Path, text: str) -> None:
    shards(tmp_path / "shards")
    source = load_source(text, tmp_path)
    assert np.array_equal(source.inputs["input"], PIXELS)
    assert source.labels.tolist() == [0, 1, 2] * 4
    assert source.files is not None
    assert (source.files[5], source.left_out, source.ignored) == ("train-000001.tar/day/000005.PNG", (), ())


@pytest.mark.parametrize("field", ["txt", "json"])
def test_labels_can_be_names(tmp_path: Path, field: str) -> None:
    shards(tmp_path, field)
    data = loaded(tmp_path, train="train-{000000..000002}.tar", test="train-000000.tar", val="train-000001.tar")
    assert data.record.classes == KINDS
    assert data.train.labels.tolist() == [0, 1, 2] * 4
    assert data.val.labels.tolist() == [1, 2, 0, 1]


def test_shards_are_decoded_once_and_their_headers_are_read_once(tmp_path: Path) -> None:
    shards(tmp_path)
    before = load_source("train-*.tar", tmp_path)
    content = fingerprint_source("train-*.tar", tmp_path, sha256_of)
    for file in tmp_path.glob("*.tar"):
        file.write_bytes(b"")  # whose hash would be another one, so that nothing may be read again
    again = load_source("train-*.tar", tmp_path, Reading(content=content))
    assert np.array_equal(again.inputs["input"], before.inputs["input"])
    assert (again.labels.tolist(), again.files) == (before.labels.tolist(), before.files)
    shards(tmp_path, "txt")
    assert fingerprint_source("train-*.tar", tmp_path, sha256_of) != content


def test_members_are_grouped_as_webdataset_does() -> None:
    # What webdataset.tariterators.base_plus_ext of version 1.0.2 returns.
    names = {
        "a/b.c.jpg": ("a/b", "c.jpg"), "a.b/c.jpg": ("a.b/c", "jpg"), "000.seg.png": ("000", "seg.png"), "x/.hidden": ("x/", "hidden"),
        "noending": None, "a/b/c.tar.gz": ("a/b/c", "tar.gz"),
    }  # fmt: skip
    assert {name: found.groups() if (found := NAME.fullmatch(name)) else None for name in names} == names


def test_what_is_wrong_with_a_sample_is_told_or_left_out(tmp_path: Path) -> None:
    link = tarfile.TarInfo("link.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    members: list[tuple[str, bytes | str]] = [
        ("0.png", encoded(0)), ("0.cls", "1"), ("1.png", encoded(1)), ("2.png", b"no picture"), ("2.cls", "0"),
        ("../3.png", encoded(3)), ("../3.cls", "1"), ("/etc/4.png", encoded(4)), ("/etc/4.cls", "1"), ("5.png", encoded(5)),
        ("5.json", '{"caption": "an owl"}'), ("6.png", encoded(6)), ("6.jpg", encoded(6)), ("7.png", encoded(7)), ("7.cls", "0"),
        ("notes.cls", "3"), ("README", "text"), ("8.png", encoded(8)), ("8.cls", b"\xff"),
    ]  # fmt: skip
    path = tar(tmp_path / "a.tar", members)
    with tarfile.open(path, "a") as archive:
        archive.addfile(link)
    with pytest.raises(
        ConfigError, match=r"7 files are not readable images: .*a.tar/1.png.*leave them out with --skip-bad"
    ):
        load_source("a.tar", tmp_path)
    source = load_source("a.tar", tmp_path, Reading(skip_bad=True))
    assert source.files == ("a.tar/0.png", "a.tar/7.png")
    assert source.labels.tolist() == [1, 0]
    assert sorted(source.ignored) == ["a.tar/README", "a.tar/link.png", "a.tar/notes.cls"]
    reasons = dict(one.rstrip(")").split(" (", 1) for one in source.left_out)
    assert reasons["a.tar/1.png"] == "has no label: no member with the ending .cls, .json or .txt"
    assert reasons["a.tar/../3.png"] == reasons["a.tar/etc/4.png"] == "its name leads out of the archive"
    assert reasons["a.tar/5.png"].startswith("its .json holds no label")
    assert reasons["a.tar/6.png"] == "the sample has 2 pictures"
    assert reasons["a.tar/8.png"] == "its .cls is not UTF-8"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pipe:cat a.tar", "URLs are not opened and commands are not run"),
        ("https://host/a-{0..3}.tar", "URLs are not opened"),
        ("a.tar.gz", "a.tar.gz is compressed"),
        ("b-{00..03}.tar", r"3 of 4 shards do not exist: b-01.tar, b-02.tar, b-03.tar"),
        ("c-*.tar", "no such file, and no file matches it"),
        ("cut.tar", "cut.tar is not a whole .tar file: "),
        ("junk.tar", "junk.tar is not a whole .tar file: "),
        ("empty.tar", "the shards hold no pictures"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said(tmp_path: Path, text: str, message: str) -> None:
    shards(tmp_path, count=1)
    whole = (tmp_path / "train-000000.tar").read_bytes()
    (tmp_path / "b-00.tar").write_bytes(whole)
    (tmp_path / "cut.tar").write_bytes(whole[:1600])
    (tmp_path / "junk.tar").write_bytes(b"no tar" * 300)
    tar(tmp_path / "empty.tar", [("a.txt", "text")])
    with pytest.raises(ConfigError, match=message):
        load_source(text, tmp_path)
    assert not (tmp_path / "a.tar").exists()


def test_an_archive_beside_class_folders_is_no_source(tmp_path: Path) -> None:
    shards(tmp_path / "data")
    (tmp_path / "data" / "cat").mkdir()
    assert find_shards("data", tmp_path) is None


def test_shards_can_hold_the_samples_without_labels(tmp_path: Path) -> None:
    shards(tmp_path)
    np.savez(tmp_path / "a.npz", inputs=255 - PIXELS, labels=np.arange(12) % 3)
    np.savez(tmp_path / "b.npz", inputs=PIXELS // 2, labels=np.arange(12) % 3)
    data = loaded(tmp_path, train="a.npz", val="b.npz", test="b.npz", unlabelled="train-*.tar")
    assert (len(data.distilled), data.record.unlabelled) == (24, 12)
    assert np.array_equal(data.distilled.inputs["input"][12:], PIXELS)
    assert not [one for one in examine(data) if "labels, which are not read" in one.text]


def test_init_finds_shards_and_their_splits(tmp_path: Path) -> None:
    for split in ("test", "valid", "train"):
        shards(tmp_path / "made", "txt")
        (tmp_path / "data").mkdir(exist_ok=True)
        for file in (tmp_path / "made").iterdir():
            file.rename(tmp_path / "data" / file.name.replace("train", split))
    found = profile_data(tmp_path / "data", tmp_path / "job")
    assert (found.train, found.classes, found.fewest, found.side) == (12, 3, 4, 6)
    assert {key: found.keys[key] for key in ("train", "val", "test")} == {
        "train": "../data/train*.tar", "val": "../data/valid*.tar", "test": "../data/test*.tar",
    }  # fmt: skip
    assert found.keys["mean"] == pytest.approx(PIXELS.mean((0, 1, 2)) / 255, abs=1e-3)
    assert find_shard_splits(tmp_path / "data" / "test-000001.tar") == {"train": tmp_path / "data" / "test-000001.tar"}


def test_brackets_in_the_names_of_folders_are_no_pattern(tmp_path: Path) -> None:
    place = tmp_path / "job [1]" / "set [2]"
    shards(place)
    train = profile_data(place, tmp_path / "job [1]").keys["train"]
    assert len(loaded(tmp_path / "job [1]", train=train, val=train, test=train).test) == 12
    one = "set [2]/train-{000001..000001}.tar"
    assert len(loaded(tmp_path / "job [1]", train="set [2]", val=one, test=one).test) == 4


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"needs the package pyarrow; run: pip install 'edgedistill\[parquet\]'"):
        load_source("a.parquet", tmp_path)
