import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgedistill.config.schema import Config
from edgedistill.data.geometry import Resizing
from edgedistill.data.preprocess import preprocessors
from edgedistill.data.reading import Reading
from edgedistill.data.settings import data_settings, view_settings
from edgedistill.data.sources import load_source
from edgedistill.errors import ConfigError
from edgedistill.runtime.folder import Run
from tests.support.learning import config_of, loaded, only, sources_of


def data_config(folder: Path, **data: object) -> Config:
    return config_of(folder, data={"train": "train.npz", "test": "test.npz"} | data)


def write(folder: Path, name: str, inputs: np.ndarray, labels: object, **more: object) -> None:
    np.savez(folder / name, inputs=inputs, labels=np.asarray(labels), **more)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    write(tmp_path, "train.npz", rng.integers(0, 256, (60, 6, 5, 3), np.uint8), np.arange(60) % 3)
    write(tmp_path, "test.npz", rng.integers(0, 256, (9, 6, 5, 3), np.uint8), np.arange(9) % 3)
    return tmp_path


def test_the_split_is_seeded_stratified_and_covers_train(folder: Path) -> None:
    config = data_config(folder, val_fraction=0.2)
    data = loaded(config)
    assert (len(data.train), len(data.val), len(data.test)) == (48, 12, 9)
    assert sorted([*data.train.rows, *data.val.rows]) == list(range(60))
    assert np.bincount(data.val.labels).tolist() == [4, 4, 4]
    np.testing.assert_array_equal(loaded(config).val.rows, data.val.rows)
    other = loaded(config.model_copy(update={"seed": 1}))
    assert other.val.rows.tolist() != data.val.rows.tolist()
    assert data.record.classes == ("0", "1", "2")
    assert data.record.inputs[0].shape == (6, 5, 3)


def test_uncompressed_arrays_are_memory_mapped_and_compressed_ones_are_read(folder: Path) -> None:
    mapped = only(load_source("train.npz", folder).inputs)
    assert isinstance(mapped, np.memmap)
    with np.load(folder / "train.npz") as archive:
        np.testing.assert_array_equal(mapped, archive["inputs"])
        np.savez_compressed(folder / "small.npz", inputs=archive["inputs"], labels=archive["labels"])
    np.testing.assert_array_equal(only(load_source("small.npz", folder).inputs), mapped)


def test_an_image_folder_has_a_class_a_subfolder(tmp_path: Path) -> None:
    for i, name in enumerate(("cat", "dog")):
        (tmp_path / "train" / name).mkdir(parents=True)
        for j in range(3):
            Image.new("RGB", (8, 6), (i * 100, j, 7)).save(tmp_path / "train" / name / f"{j}.png")
    source = load_source("train", tmp_path)
    assert only(source.inputs).shape == (6, 6, 8, 3)
    assert source.classes == ("cat", "dog")
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert only(source.inputs)[4, 0, 0].tolist() == [100, 1, 7]
    assert only(load_source("train", tmp_path, Reading(resizing=Resizing(4, 4))).inputs).shape == (6, 4, 4, 3)
    Image.new("RGB", (9, 9)).save(tmp_path / "train" / "cat" / "x.png")
    with pytest.raises(ConfigError, match=r"x.png is 9x9.*data\.size"):
        load_source("train", tmp_path)
    (tmp_path / "train" / "cat" / "x.png").write_text("not an image")
    with pytest.raises(ConfigError, match=r"cat/x\.png is not a readable image"):
        load_source("train", tmp_path)


def test_a_function_beside_the_configuration_is_a_source(tmp_path: Path) -> None:
    (tmp_path / "my_digits_source.py").write_text(
        "import numpy as np\ndef load():\n    return np.zeros((4, 10, 2), 'float32'), np.array([0, 1, 0, 1])\n"
    )
    source = load_source("my_digits_source:load", tmp_path)
    assert only(source.inputs).shape == (4, 10, 2)
    with pytest.raises(ConfigError, match="has no 'lod'"):
        load_source("my_digits_source:lod", tmp_path)
    with pytest.raises(ConfigError, match="no module 'nowhere_to_be_found'"):
        load_source("nowhere_to_be_found:load", tmp_path)


def test_preprocessing_divides_uint8_and_puts_channels_first(folder: Path) -> None:
    import torch

    config = data_config(folder, mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 0.125])
    data = loaded(config)
    raw = only(data.train.inputs)[:4]
    expected = ((raw / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.25, 0.125]).transpose(0, 3, 1, 2)
    got = only(preprocessors(data.record, view_settings(config)))(torch.from_numpy(np.array(raw)))
    np.testing.assert_allclose(got.numpy(), expected, atol=2e-6)
    assert got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (
            np.zeros((9, 6, 5, 3), np.uint8),
            [0, 1, 2] * 2,
            r"data\.test: 9 inputs but labels of shape \(6,\); expected \(9,\): sample 6 has no label",
        ),
        (np.zeros((9, 6, 6, 3), np.uint8), [0, 1, 2] * 3, r"data\.test: samples are uint8\(6, 6, 3\)"),
        (np.zeros((9, 6, 5, 3), np.float32), [0, 1, 2] * 3, r"data\.test: samples are float32"),
        (np.zeros((9, 6, 5, 3), np.uint8), [0, 1, 3] * 3, r"data\.test: label 3 \(sample 2\) is out of range"),
        (np.zeros((9, 6, 5, 3), np.uint8), [0, 1, -1] * 3, r"data\.test: label -1 \(sample 2\) is below 0"),
        (
            np.zeros((9, 6, 5, 3), np.uint8),
            [0.0, 1.5, 2.0] * 3,
            r"data\.test: label 1\.5 \(sample 1\) is not a whole number",
        ),
        (np.zeros((0, 6, 5, 3), np.uint8), np.zeros(0, int), r"data\.test: contains no samples"),
        (np.zeros((9, 6, 5, 3, 1), np.uint8), [0, 1, 2] * 3, r"data\.test: samples are uint8\(6, 5, 3, 1\)"),
    ],
)
def test_data_that_does_not_fit_together_is_refused(
    folder: Path, inputs: np.ndarray, labels: list, message: str
) -> None:
    write(folder, "test.npz", inputs, labels)
    with pytest.raises(ConfigError, match=message):
        loaded(data_config(folder))


def test_other_unusable_data_is_refused(folder: Path) -> None:
    (folder / "broken.bin").touch()
    for key, value, message in (
        ("mean", [0.5], r"data\.mean: 1 values, but samples have 3"),
        ("train", "none.npz", r"none\.npz: no such file"),
        ("train", "broken.bin", "neither an .npz"),
    ):
        with pytest.raises(ConfigError, match=message):
            loaded(data_config(folder, **{key: value}))
    (folder / "empty").mkdir()
    with pytest.raises(ConfigError, match="folder empty holds no images"):
        loaded(data_config(folder, train="empty"))
    (folder / "broken.npz").write_bytes(b"PK nothing")
    with pytest.raises(ConfigError, match=r"broken\.npz is not a readable"):
        loaded(data_config(folder, train="broken.npz"))
    np.savez(folder / "odd.npz", x=np.zeros(3))
    with pytest.raises(ConfigError, match=r"odd\.npz has no array 'inputs', and none named 'input\.NAME'; it holds x"):
        loaded(data_config(folder, train="odd.npz"))
    np.savez(folder / "pickled.npz", inputs=np.array([{}], object), labels=np.zeros(1, int))
    with pytest.raises(ConfigError, match=r"pickled\.npz is not a readable"):
        loaded(data_config(folder, train="pickled.npz"))
    write(folder, "deep.npz", np.zeros((6, 6, 5, 3, 1), np.uint8), [0, 1] * 3)
    with pytest.raises(
        ConfigError, match=r"data\.train: inputs have shape \(6, 6, 5, 3, 1\); signal data is \(N, T, C\)"
    ):
        loaded(data_config(folder, train="deep.npz", test="deep.npz"))
    nan = np.full((6, 10, 2), np.nan, np.float32)
    write(folder, "nan.npz", nan, [0, 1] * 3)
    with pytest.raises(ConfigError, match="NaN"):
        loaded(data_config(folder, train="nan.npz", test="nan.npz"))


def test_the_fingerprint_follows_content_not_time(folder: Path) -> None:
    run = Run(folder / "run")

    def fingerprint_data(config: Config) -> str:
        return data_settings(sources_of(config, hash_file=run.file_hash)).fingerprint

    first = fingerprint_data(data_config(folder))
    (folder / "train.npz").touch()
    assert fingerprint_data(data_config(folder)) == first
    write(folder, "train.npz", np.zeros((60, 6, 5, 3), np.uint8), np.arange(60) % 3)
    assert fingerprint_data(data_config(folder)) != first
    assert fingerprint_data(data_config(folder, val_fraction=0.3)) != fingerprint_data(data_config(folder))


def test_a_file_is_not_hashed_again_by_the_next_command(folder: Path) -> None:
    path = folder / "large.bin"
    path.write_bytes(b"abc")
    run, status = Run(folder / "run"), path.stat()
    first = run.file_hash(path)
    run.save_hashes()
    path.write_bytes(b"xyz")  # which nothing but reading the file shows
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert Run(folder / "run").file_hash(path) == first
    assert Run(folder / "another").file_hash(path) != first
