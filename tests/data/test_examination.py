"""Data is examined before anything is built on it: what is wrong or odd is found, and honest data gives no warning."""

from pathlib import Path

import numpy as np
import pytest

from edgedistill.data.dataset import load_dataset
from edgedistill.data.examination import examine
from edgedistill.data.normalization import find_misfits
from edgedistill.data.settings import data_settings, view_settings
from edgedistill.data.sizes import find_coarse_limit
from edgedistill.records.finding import Finding
from tests.support.learning import config_of, sources_of

RNG = np.random.default_rng(0)
SPLITS = {"train": 600, "val": 200, "test": 200}


def examined(folder: Path, **data: object) -> tuple[Finding, ...]:
    config = config_of(folder, data={name: f"{name}.npz" for name in SPLITS} | data)
    return examine(load_dataset(data_settings(sources_of(config))))


def written(folder: Path) -> dict[str, np.ndarray]:
    """Write three splits of noisy waves in two classes, and return their inputs."""
    made = {}
    for name, count in SPLITS.items():
        labels, time = np.arange(count) % 2, np.linspace(0, 6, 64)
        made[name] = np.sin(time * (1 + labels[:, None])) + RNG.normal(0, 0.3, (count, 64))
        save(folder, name, made[name], labels)
    return made


def save(folder: Path, name: str, inputs: np.ndarray, labels: np.ndarray | None = None) -> None:
    np.savez(folder / f"{name}.npz", inputs=inputs, labels=np.arange(len(inputs)) % 2 if labels is None else labels)


def test_honest_data_gives_no_finding(tmp_path: Path) -> None:
    written(tmp_path)
    assert examined(tmp_path) == ()


def test_copies_of_training_samples_are_found(tmp_path: Path) -> None:
    made = written(tmp_path)
    made["test"][10:30], made["test"][30:40] = made["train"][110:130], made["val"][30:40]
    save(tmp_path, "test", made["test"])
    (found,) = examined(tmp_path)
    assert (found.severity, found.subject) == ("warning", "data.test")
    assert found.text.startswith(
        "30 of 200 samples (15 %) are identical to training or validation samples (for example sample 10 and sample 110, sample 11 and sample 111, "
    )


def test_identical_samples_of_different_classes_are_found(tmp_path: Path) -> None:
    made = written(tmp_path)
    made["train"][[5, 8]] = made["train"][2]
    save(tmp_path, "train", made["train"])
    (found,) = examined(tmp_path)
    assert found.severity == "note"
    assert "3 of 600 samples have identical copies with other labels (for example sample 5 is '1' and" in found.text


def test_pictures_saved_again_are_found_and_other_pictures_are_not(tmp_path: Path) -> None:
    def pictures(count: int) -> np.ndarray:
        coarse = RNG.integers(0, 200, (count, 6, 6, 3))
        return coarse.repeat(4, 1).repeat(4, 2).astype(np.uint8) + RNG.integers(0, 20, (count, 24, 24, 3), np.uint8)

    made = {name: pictures(count) for name, count in SPLITS.items()}
    again = made["train"][::2][:50].astype(int) * 9 // 8 + RNG.integers(0, 8, (50, 24, 24, 3))  # brighter, with noise
    for name, inputs in made.items():
        save(tmp_path, name, inputs)
    assert examined(tmp_path) == ()
    save(tmp_path, "test", np.concatenate([again.clip(0, 255).astype(np.uint8), made["test"][50:]]))
    (found,) = examined(tmp_path)
    assert (
        "50 of 200 samples (25 %) are nearly identical to training or validation samples (for example sample 0 and sample 0, sample 1 and sample 2"
        in found.text
    )


def texts(folder: Path, **data: object) -> list[str]:
    return [str(one) for one in examined(folder, **data)]


def test_missing_and_rare_classes_are_found(tmp_path: Path) -> None:
    made = written(tmp_path)
    save(tmp_path, "train", made["train"], np.r_[np.arange(592) % 2, [2] * 8])
    save(tmp_path, "val", made["val"], np.r_[np.arange(199) % 2, 3])
    found = texts(tmp_path, classes=["a", "b", "c", "d", "e"])
    assert found == [
        "warning: data.train: no sample has class 'd', but validation or test samples have; add training samples",
        "warning: data.train: few samples to learn from: class 'c' (8); add samples, at least 10 of each class",
        "warning: data.val: no sample has class 'c', so its answers are not measured; add samples",
        "warning: data.test: no sample has class 'c', so its answers are not measured; add samples",
        "note: data.classes: no sample of any split has class 'e'",
    ]


def test_small_splits_are_found_with_the_number_that_would_do(tmp_path: Path) -> None:
    made = written(tmp_path)
    for name in ("val", "test"):
        save(tmp_path, name, made[name][:50])
    small, coarse = texts(tmp_path)
    assert small.startswith(
        "warning: data.val: has 50 validation samples: two epochs can only be told apart if their accuracies differ by 6 points"
    )
    assert small.endswith("77 samples reduce this to 5 points, 1,921 samples to 1 point")
    assert coarse.startswith(
        "warning: data.test: has 50 test samples: an accuracy of 90 % is only known to within 8 points"
    )
    (warned,), (noted,), resolved = (list(find_coarse_limit(n, 0.5)) for n in (100, 400, 1600))
    assert (warned.severity, noted.severity, resolved) == ("warning", "note", [])
    assert (
        "a single one of the 100 validation samples is worth 1 points, more than max_drop 0.5; use about 1,537 validation samples"
        in warned.text
    )


def test_values_that_teach_nothing_are_found(tmp_path: Path) -> None:
    pictures = {name: RNG.integers(0, 256, (count, 16, 16, 3), np.uint8) for name, count in SPLITS.items()}
    pictures["train"][::2] = pictures["train"][0]
    pictures["test"][[3, 9]] = 7
    for inputs in pictures.values():
        inputs[..., 2] = 7
    for name, inputs in pictures.items():
        save(tmp_path, name, inputs)
    uniform, channel, black = (
        next(text for text in texts(tmp_path) if part in text) for part in ("class '0'", "channels", "one value")
    )
    assert uniform == "warning: data.train: all 300 samples of class '0' are identical; check how the data was made"
    assert channel.startswith("warning: data.train: 1 of 3 channels are the same in all samples: 2 (7); remove them")
    assert black.startswith("warning: data.test: 2 of 200 samples (1 %) hold one value everywhere")
    assert "(for example sample 3, sample 9)" in black


@pytest.mark.parametrize(
    ("dtype", "keys", "words"),
    [
        ("float32", {"mean": [0.485], "std": [0.229]}, "have mean and std that do not fit: models get values around 5"),
        ("float32", {}, "are not normalised: models get values around 1"),
        ("float32", {"std": [1.0]}, ""),
        ("float32", {"mean": [127.0], "std": [74.0]}, ""),
        ("uint8", {"mean": [0.5], "std": [0.29]}, ""),
        ("uint8", {}, ""),
    ],
)
def test_normalization_that_does_not_fit_is_found(
    tmp_path: Path, dtype: str, keys: dict[str, object], words: str
) -> None:
    for name in SPLITS:
        save(tmp_path, name, RNG.integers(0, 256, (40, 16, 16)).astype(dtype))
    config = config_of(tmp_path, data={name: f"{name}.npz" for name in SPLITS} | {"kind": "image"} | keys)
    found = list(find_misfits(load_dataset(data_settings(sources_of(config))), view_settings(config)))
    assert [words in one.text for one in found] == ([True] if words else [])
    assert all("set mean = [12" in one.text and "std = [7" in one.text for one in found)
