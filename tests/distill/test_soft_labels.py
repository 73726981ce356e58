from pathlib import Path

import numpy as np
import pytest
import torch

from edgedistill.data.augment import parse_augment
from edgedistill.data.dataset import Split
from edgedistill.data.preprocess import Preprocess
from edgedistill.data.settings import Normalization
from edgedistill.data.views import Views
from edgedistill.distill.cache import Cache
from edgedistill.distill.feed import TrainingFeed
from edgedistill.distill.predictors import Answer
from edgedistill.distill.soft_labels import SoftLabels, build_soft_labels, load_soft_labels, store_soft_labels
from edgedistill.errors import EdgedistillError
from edgedistill.losses.batch import Tensors
from edgedistill.records.base import FileRef
from edgedistill.records.stages import InputRecord, SoftLabelsRecord
from edgedistill.runtime.progress import Reporter
from edgedistill.stages.stage import Workspace
from tests.support.learning import only

QUIET = Reporter(quiet=True)
SAMPLES, CLASSES = 600, 3


@pytest.fixture
def views() -> Views:
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 256, (1000, 6, 6), np.uint8)
    rows = np.sort(rng.choice(1000, SAMPLES, replace=False))
    record = InputRecord(kind="image", dtype="uint8", shape=(6, 6))
    split = Split({"input": inputs}, rows, rng.integers(0, 3, SAMPLES))
    preprocess, plan = Preprocess(record, Normalization()), parse_augment(("crop:1", "flip"), (record,))
    return Views(split, {"input": preprocess}, plan.ops, 7)


class Teacher:
    """A fixed random projection that counts how often it is asked, and gives up when told to."""

    def __init__(self, give_up_after: int | None = None) -> None:
        self.weight = torch.randn(36, CLASSES, generator=torch.Generator().manual_seed(0))
        self.asked, self.give_up_after = 0, give_up_after

    def __call__(self, inputs: Tensors) -> Answer:
        if self.asked == self.give_up_after:
            raise KeyboardInterrupt
        self.asked += 1
        return Answer(only(inputs).flatten(1) @ self.weight, {})


def cache(folder: Path, fingerprint: str = "f", count: int = 2) -> Cache:
    folder.mkdir(exist_ok=True)
    (folder / "engine").write_text("torch")
    return Cache(folder, fingerprint, (count, SAMPLES, CLASSES))


def mapped(path: Path) -> SoftLabels:
    """Open a finished cache as a run does, by the record of its stage."""
    kept = FileRef(path=path.name, sha256="", bytes=0)
    record = SoftLabelsRecord(
        fingerprint="f", views=2, samples=SAMPLES, classes=CLASSES, logits=kept, engine="torch", parent="t"
    )
    return load_soft_labels(Workspace(path.parent, "f", QUIET, lambda _: kept), record)


def test_each_entry_is_the_teachers_answer_to_that_view(tmp_path: Path, views: Views) -> None:
    teacher = Teacher()
    soft = mapped(build_soft_labels(cache(tmp_path), teacher, views, QUIET))
    positions, shown = np.array([5, 400, 5, 17]), np.array([0, 1, 1, 0])
    inputs = views.batch(positions, shown)
    answer = soft.take(positions, shown, inputs)
    assert answer.classes is None
    np.testing.assert_allclose(answer.logits, teacher(inputs).main, rtol=2e-3, atol=1e-3)


def test_training_batches_carry_the_labels_of_their_own_views(tmp_path: Path, views: Views) -> None:
    teacher = Teacher()
    soft = mapped(build_soft_labels(cache(tmp_path, count=3), teacher, views, QUIET))
    feed = TrainingFeed(views, 64, soft, 3, 0)
    seen = []
    for number in range(3):
        for batch in feed.epoch(number):
            assert batch.teacher_logits is not None
            np.testing.assert_allclose(batch.teacher_logits, teacher(batch.inputs).main, rtol=2e-3, atol=1e-3)
            seen.append(batch.inputs)
    assert len(feed) == SAMPLES // 64
    positions = np.arange(SAMPLES)
    shown = np.stack([views.view_of(positions, number, 3) for number in range(3)])
    assert (np.sort(shown, 0) == np.arange(3)[:, None]).all()  # in three epochs each sample shows each view once
    assert 0.2 < (shown[0] == 0).mean() < 0.5  # and an epoch mixes them


def test_an_interrupted_cache_goes_on_and_ends_the_same(tmp_path: Path, views: Views) -> None:
    whole = build_soft_labels(cache(tmp_path / "whole"), Teacher(), views, QUIET)
    with pytest.raises(KeyboardInterrupt):
        build_soft_labels(cache(tmp_path / "broken"), Teacher(give_up_after=4), views, QUIET)
    second = Teacher()
    resumed = build_soft_labels(cache(tmp_path / "broken"), second, views, QUIET)
    assert second.asked == 2  # of six blocks, four were done
    assert resumed.read_bytes() == whole.read_bytes()


def test_another_fingerprint_is_never_replayed(tmp_path: Path, views: Views) -> None:
    build_soft_labels(cache(tmp_path, "one"), Teacher(), views, QUIET)
    again, other = Teacher(), Teacher()
    build_soft_labels(cache(tmp_path, "one"), again, views, QUIET)
    build_soft_labels(cache(tmp_path, "two"), other, views, QUIET)
    assert (again.asked, other.asked) == (0, 6)


def test_answers_that_cannot_be_kept_are_refused(tmp_path: Path, views: Views) -> None:
    for wrong, message in (
        (lambda x: x.flatten(1)[:, :3] * 1e9, "too large"),
        (lambda x: x[:, 0, 0, :2], "have shape"),
    ):
        ask = lambda inputs, wrong=wrong: Answer(wrong(only(inputs)), {})  # noqa: E731
        with pytest.raises(EdgedistillError, match=message):
            build_soft_labels(cache(tmp_path / message), ask, views, QUIET)
    with pytest.raises(EdgedistillError, match="not finite"):
        store_soft_labels(cache(tmp_path / "s", count=1), np.full((1, SAMPLES, CLASSES), np.nan))
