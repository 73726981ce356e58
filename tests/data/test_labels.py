"""Labels of classes as data sets have them: columns, whole floats, names, and numbers with gaps."""

from pathlib import Path

import numpy as np
import pytest

from edgedistill.data.dataset import Dataset
from edgedistill.data.profile import profile_data
from edgedistill.errors import ConfigError
from tests.support.learning import checked, config_of, loaded

COUNT = 48
INPUTS = np.eye(COUNT, 64, dtype=np.uint8).reshape(-1, 8, 8)
FOUR = np.arange(COUNT) % 4


def write(folder: Path, train: object, test: object = None, **more: object) -> None:
    for name, labels in (("train", train), ("test", train if test is None else test)):
        np.savez(folder / f"{name}.npz", inputs=INPUTS, labels=np.asarray(labels), **more)


def data_of(folder: Path, train: object, test: object = None, **data: object) -> Dataset:
    write(folder, train, test)
    return loaded(config_of(folder, data={"train": "train.npz", "test": "test.npz"} | data))


@pytest.mark.parametrize("labels", [FOUR[:, None], FOUR.astype(float), FOUR.astype(np.uint64), FOUR[:, None] * 1.0])
def test_columns_and_whole_floats_are_classes(tmp_path: Path, labels: np.ndarray) -> None:
    data = data_of(tmp_path, labels)
    assert (data.record.classes, data.note) == (("0", "1", "2", "3"), None)
    assert (data.test.labels.dtype, data.test.labels.tolist()) == (np.int64, FOUR.tolist())


def test_truths_are_two_classes(tmp_path: Path) -> None:
    assert data_of(tmp_path, FOUR > 1).test.labels.tolist() == (FOUR > 1).tolist()


@pytest.mark.parametrize("kind", ["U", "S"])
def test_names_are_classes_in_alphabetical_order(tmp_path: Path, kind: str) -> None:
    names = np.array(["dog", "cat", "eel", "ant"])
    data = data_of(tmp_path, names[FOUR].astype(kind))
    assert (data.record.classes, data.note) == (("ant", "cat", "dog", "eel"), None)
    assert np.array(data.record.classes)[data.test.labels].tolist() == names[FOUR].tolist()
    with pytest.raises(ConfigError, match=r"^data\.test: no sample has the label 'eel', which the training set has"):
        data_of(tmp_path, names[FOUR], np.where(FOUR == 2, "cat", names[FOUR]))
    with pytest.raises(ConfigError, match=r"^data\.test: label 'fox' \(sample 2\) is none of the 4 classes, ant, cat"):
        data_of(tmp_path, names[FOUR], np.where(np.arange(COUNT) == 2, "fox", names[FOUR]))
    with pytest.raises(ConfigError, match=r"^data\.test: labels are numbers, but training labels are names"):
        data_of(tmp_path, names[FOUR], FOUR)


def test_names_in_the_configuration_give_the_order(tmp_path: Path) -> None:
    names = ["dog", "cat", "eel", "ant", "bee"]
    data = data_of(tmp_path, np.array(names)[FOUR], np.array(names)[FOUR % 2], classes=names)
    assert data.record.classes == tuple(names)
    assert data.test.labels.tolist() == (FOUR % 2).tolist()


@pytest.mark.parametrize(
    ("numbers", "listed"), [([1, 2, 3, 4], "1, 2, 3, 4"), ([0, 2, 3, 7], "0, 2, 3, 7"), ([5, 6, 7, 999_999], "5, 6, 7, 999999")]
)  # fmt: skip
def test_numbers_with_gaps_are_numbered_anew_and_it_is_said(tmp_path: Path, numbers: list[int], listed: str) -> None:
    data = data_of(tmp_path, np.array(numbers)[FOUR])
    assert data.record.classes == tuple(map(str, numbers))
    assert data.test.labels.tolist() == FOUR.tolist()
    assert data.note == (
        f"data: labels {listed} become classes 0 to 3; the original numbers are the names of the classes"
    )
    assert "; 4 classes with 12 samples each" in profile_data(tmp_path / "train.npz", tmp_path).summary
    with pytest.raises(ConfigError, match=r"^data\.test: label 1000 \(sample 5\) does not occur in the training set"):
        data_of(tmp_path, np.array(numbers)[FOUR], np.where(np.arange(COUNT) == 5, 1000, np.array(numbers)[FOUR]))


def test_names_keep_the_numbers(tmp_path: Path) -> None:
    data = data_of(tmp_path, FOUR + 1, classes=["none", "a", "b", "c", "d"])
    assert (data.note, data.test.labels.tolist()) == (None, (FOUR + 1).tolist())
    words = r"label 4 \(sample 3\) is out of range; there are 4 classes, numbered 0 to 3"
    with pytest.raises(ConfigError, match=words):
        data_of(tmp_path, FOUR + 1, classes=["a", "b", "c", "d"])


def test_a_teacher_of_other_classes_is_refused_with_the_reason(tmp_path: Path) -> None:
    write(tmp_path, FOUR + 1)
    np.save(tmp_path / "logits.npy", np.zeros((COUNT, 5), np.float32))
    tables = {"teacher": {"model": "logits.npy"}, "distill": {"views": 1}}
    words = r"logits\.npy has shape \(48, 5\); expected \(48, 4\) \(data: labels 1, 2, 3, 4 become classes 0 to 3; .*data\.classes"
    with pytest.raises(ConfigError, match=words):
        checked(config_of(tmp_path, **tables))
    np.save(tmp_path / "logits.npy", np.zeros((COUNT, 4), np.float32))
    checked(config_of(tmp_path, **tables))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (-1, r"label -1 \(sample 7\) is below 0"),
        (np.nan, r"label nan \(sample 7\) is not a number"),
        (np.inf, r"label inf \(sample 7\) is not a number"),
        (
            0.5,
            r"label 0\.5 \(sample 7\) is not a whole number; expected class numbers .* 'regression' if they are values",
        ),
        (1e9, r"label 1000000000\.0 \(sample 7\) is too large for a class"),
    ],
)
def test_labels_that_are_no_classes_are_named(tmp_path: Path, wrong: float, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"^data\.test: {words}"):
        data_of(tmp_path, FOUR, np.where(np.arange(COUNT) == 7, wrong, FOUR))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (FOUR[:20], r"expected \(48,\): sample 20 has no label"),
        (np.arange(50) % 4, r"expected \(48,\): label 48 has no sample"),
        (np.where(FOUR == 3, 10**9, FOUR), r"label 1000000000 \(sample 3\) is too large"),
        (np.where(FOUR == 3, "", "a"), r"label '' \(sample 3\) is empty"),
        (FOUR * 1j, "labels are complex128"),
    ],
)
def test_other_labels_are_named_too(tmp_path: Path, labels: np.ndarray, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        data_of(tmp_path, labels)


def test_init_takes_whole_floats_for_classes_unless_they_are_rare(tmp_path: Path) -> None:
    for labels, task in ((FOUR[:, None], None), (FOUR * 1.0, None), (np.arange(COUNT) * 1.0, "regression")):
        write(tmp_path, labels)
        assert profile_data(tmp_path / "train.npz", tmp_path).keys.get("task") == task
    write(tmp_path, np.array(["no", "yes"])[FOUR % 2])
    assert "2 classes with 24 samples each" in profile_data(tmp_path / "train.npz", tmp_path).summary
    write(tmp_path, FOUR, classes=["a", "b"])
    with pytest.raises(ConfigError, match=r"label 3 \(sample 3\) is out of range"):
        profile_data(tmp_path / "train.npz", tmp_path)
