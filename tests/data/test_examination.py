"""Data is examined before anything is built on it: what is wrong or odd is found, and honest data gives no warning."""

from pathlib import Path

import numpy as np

from edgedistill.data.dataset import load_dataset
from edgedistill.data.examination import examine
from edgedistill.data.settings import data_settings
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
    made["test"][10:40] = made["train"][110:140]
    save(tmp_path, "test", made["test"])
    (found,) = examined(tmp_path)
    assert (found.severity, found.subject) == ("warning", "data.test")
    assert found.text.startswith(
        "30 of 200 samples (15 %) are identical to training samples (for example sample 10 and sample 110, sample 11 and sample 111, "
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
        "50 of 200 samples (25 %) are nearly identical to training samples (for example sample 0 and sample 0, sample 1 and sample 2"
        in found.text
    )
