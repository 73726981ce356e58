from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState
from safetensors.torch import save_file
from torch import nn

from edgedistill.data.augment import parse_augment
from edgedistill.data.dataset import Split
from edgedistill.data.preprocess import Preprocess
from edgedistill.data.settings import Normalization
from edgedistill.data.views import Views
from edgedistill.distill.blocks import find_damage
from edgedistill.distill.cache import Cache
from edgedistill.distill.feed import TrainingFeed
from edgedistill.distill.loading import Ask, teacher_predictor
from edgedistill.distill.predictors import Answer
from edgedistill.distill.several_teachers import store_mean
from edgedistill.distill.soft_labels import SoftLabels, build_soft_labels, load_soft_labels, store_soft_labels
from edgedistill.errors import ConfigError
from edgedistill.losses.batch import Tensors
from edgedistill.records.base import FileRef
from edgedistill.records.stages import InputRecord, SoftLabelsRecord
from edgedistill.runtime import processes
from edgedistill.runtime.progress import Reporter
from edgedistill.stages.stage import Workspace
from edgedistill.tasks.table import find_task
from tests.support.damage import DAMAGES
from tests.support.learning import interface, model, only
from tests.support.listener import Listener

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


NAMES = ("logits.npy", "done.npy", "output-deep.npy", "engine", "manifest.json")


def interrupted(folder: Path, views: Views) -> Cache:
    """Return a cache with two outputs of which four of six blocks are done."""
    broken = cache(folder)
    with pytest.raises(KeyboardInterrupt):
        build_soft_labels(broken, with_deep(Teacher(give_up_after=4)), views, QUIET)
    return broken


def with_deep(teacher: Teacher) -> Ask:
    """Return a teacher with another output."""

    def ask(inputs: Tensors) -> Answer:
        main = teacher(inputs).main
        return Answer(main, {"deep": main * 2})

    return ask


@pytest.mark.parametrize("damage", sorted(DAMAGES))
@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_unfinished_cache_is_named_and_made_again(
    tmp_path: Path, views: Views, name: str, damage: str
) -> None:
    whole = build_soft_labels(cache(tmp_path / "whole"), with_deep(Teacher()), views, QUIET)
    broken, heard = interrupted(tmp_path / "broken", views), Listener()
    path = tmp_path / "broken" / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert not broken.is_complete(heard)
    assert len(heard.said) == 1
    assert f"soft labels: the cache {tmp_path / 'broken'} is damaged (" in heard.said[0]
    assert not broken.is_complete(heard)
    assert len(heard.said) == 1  # there is nothing left to say
    again = Teacher()
    assert (
        build_soft_labels(cache(tmp_path / "broken"), with_deep(again), views, QUIET).read_bytes() == whole.read_bytes()
    )
    assert again.asked == 6


@pytest.mark.parametrize("name", ["logits.npy", "output-deep.npy", "logits.sha256", "engine", "manifest.json"])
@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_a_damaged_complete_cache_is_named_and_made_again(tmp_path: Path, views: Views, name: str, damage: str) -> None:
    done, heard = cache(tmp_path), Listener()
    build_soft_labels(done, with_deep(Teacher()), views, QUIET)
    assert done.is_complete(heard)
    path = tmp_path / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert not done.is_complete(heard)
    assert len(heard.said) == 1


@pytest.mark.parametrize("name", ["logits.npy", "output-deep.npy", "done.npy"])
def test_a_changed_byte_of_an_unfinished_cache_is_found_or_changes_nothing(
    tmp_path: Path, views: Views, name: str
) -> None:
    broken = interrupted(tmp_path, views)
    path, entries = tmp_path / name, (np.dtype(np.float16), broken.shape)
    content, before = path.read_bytes(), np.load(path)
    for place in range(300):  # the header has 128 bytes
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x11]) + content[place + 1 :])
        if find_damage(tmp_path, entries, broken.output_files()) is None:
            np.testing.assert_array_equal(np.load(path), before)


def test_an_unfinished_cache_that_is_whole_goes_on(tmp_path: Path, views: Views) -> None:
    broken, heard, second = interrupted(tmp_path, views), Listener(), Teacher()
    assert not broken.is_complete(heard)
    assert heard.said == []
    build_soft_labels(broken, with_deep(second), views, QUIET)
    assert second.asked == 2
    assert broken.is_complete(heard)


def test_another_fingerprint_is_never_replayed(tmp_path: Path, views: Views) -> None:
    build_soft_labels(cache(tmp_path, "one"), Teacher(), views, QUIET)
    again, other = Teacher(), Teacher()
    build_soft_labels(cache(tmp_path, "one"), again, views, QUIET)
    build_soft_labels(cache(tmp_path, "two"), other, views, QUIET)
    assert (again.asked, other.asked) == (0, 6)


def test_answers_that_cannot_be_kept_are_refused(tmp_path: Path, views: Views) -> None:
    for wrong, message in (
        (lambda x: x.flatten(1)[:, :3] * 1e9, r"reach .* but are stored in float16, up to 65,504"),
        (lambda x: x[:, 0, 0, :2], "have shape"),
    ):
        ask = lambda inputs, wrong=wrong: Answer(wrong(only(inputs)), {})  # noqa: E731
        with pytest.raises(ConfigError, match=message):
            build_soft_labels(cache(tmp_path / message), ask, views, QUIET)
    with pytest.raises(ConfigError, match="not finite"):
        store_soft_labels(cache(tmp_path / "s", count=1), np.full((1, SAMPLES, CLASSES), np.nan))


def test_values_of_any_unit_are_stored_in_float32(tmp_path: Path) -> None:
    pressures = np.linspace(101325, 101327, SAMPLES * CLASSES, dtype=np.float32).reshape(1, SAMPLES, CLASSES)
    with pytest.raises(ConfigError, match=r"logits reach 101,327, but are stored in float16"):
        store_soft_labels(cache(tmp_path / "half", count=1), pressures)
    whole = replace(cache(tmp_path / "whole", count=1), number="float32")
    np.testing.assert_array_equal(np.load(store_soft_labels(whole, pressures)), pressures)
    assert whole.is_complete(QUIET)
    assert [find_task(name).has_units for name in ("regression", "embedding", "classification")] == [True, False, False]


def test_the_mean_of_caches_has_the_other_outputs_of_one_shape(tmp_path: Path) -> None:
    parts = [cache(tmp_path / name, count=1) for name in ("one", "other", "mean")]
    for part, width in zip(parts[:2], (3, 4), strict=True):
        store_soft_labels(part, np.full((1, SAMPLES, CLASSES), width))
        part.open_outputs({"box": (2,), "vector": (width,)})["box"][:] = width
    store_mean(parts[2], parts[:2], [1.0, 3.0])
    assert [path.name for path in parts[2].output_files()] == ["output-box.npy"]
    assert (np.load(parts[2].output_files()[0]) == 3.75).all()


MOVED = """
import torch
from torch import nn
class Net(nn.Linear):
    def to(self, *device, **layout):
        self.places = [*getattr(self, "places", []), *device]
        return super().to(*device, **layout)
    def forward(self, x):
        return super().forward(x) + (self.places == [torch.device("cpu")])
def net(classes):
    return Net(16, classes)
"""
"""A teacher whose answers are larger by 1 if it was moved, once, to the device on which this machine trains."""


def test_a_teacher_computes_where_accelerate_trains(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(MOVED)
    state = nn.Linear(16, 3).state_dict()
    save_file(state, tmp_path / "net.safetensors")
    source, face, inputs = model("nets:net", folder=tmp_path), interface("features", (16,), 3), torch.ones(2, 16)
    answer = only(teacher_predictor(source, face, 0, tmp_path / "net.safetensors", "fp32")({"input": inputs}))
    torch.testing.assert_close(answer, nn.functional.linear(inputs, state["weight"], state["bias"]) + 1)
    assert processes.device() == PartialState().device
