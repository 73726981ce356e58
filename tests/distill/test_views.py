"""The number of views that are cached: without augmentation all views of a sample are identical."""

from pathlib import Path

import numpy as np
import pytest

from edgedistill.kits.kits import find_kits
from edgedistill.pipeline.pipeline import Pipeline, Plan, run_pipeline
from edgedistill.records.stages import SoftLabelsRecord, StudentRecord
from edgedistill.runtime.folder import Run
from edgedistill.runtime.progress import Reporter
from tests.support.learning import config_of
from tests.support.listener import Listener

SAID = "distill.views: 3 identical views without data.augment; 1 is used"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with signals of two classes and an empty cache."""
    monkeypatch.setenv("EDGEDISTILL_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 150)
    signals = (rng.normal(size=(150, 16, 1)) + labels[:, None, None]).astype(np.float32)
    for name, rows in (("train", slice(0, 120)), ("test", slice(120, None))):
        np.savez(tmp_path / f"{name}.npz", inputs=signals[rows], labels=labels[rows])
    return tmp_path


def distil(folder: Path, views: int, augment: tuple[str, ...], heard: Reporter) -> Pipeline:
    training = {"epochs": 2, "batch_size": 16, "optimizer": "adamw", "lr": 0.01, "precision": "fp32"}
    config = config_of(
        folder, data={"train": "train.npz", "test": "test.npz", "augment": augment},
        teacher={"model": "zoo:cnn1d", "engine": "torch"} | training, student={"model": "zoo:cnn1d", "width": 0.5},
        distill={"views": views} | training, target=[{"name": "pc", "kit": "ort"}],
    )  # fmt: skip
    run = Run(folder / f"run-{views}-{len(augment)}")
    return run_pipeline(config, run, find_kits(()), heard, Plan(until="distill"))


def test_identical_views_are_computed_once_and_the_student_is_the_same(folder: Path) -> None:
    heard = Listener()
    several, single = (distil(folder, views, (), heard) for views in (3, 1))
    assert heard.said.count(SAID) == 1
    assert "soft labels: taken from the cache" in heard.said  # one view has the same key as three identical ones
    assert several.records[SoftLabelsRecord].views == 1
    students = [pipeline.records[StudentRecord].student for pipeline in (several, single)]
    assert students[0].file.sha256 == students[1].file.sha256


def test_augmented_views_are_all_computed(folder: Path) -> None:
    heard = Listener()
    assert distil(folder, 3, ("noise:0.1",), heard).records[SoftLabelsRecord].views == 3
    assert SAID not in heard.said
