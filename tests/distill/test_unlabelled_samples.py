"""Samples without labels beside labelled ones: what takes part in which loss, and that they are never mixed up."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from edgedistill.config.training import DistillConfig
from edgedistill.data.augment import parse_augment
from edgedistill.data.dataset import Split, load_dataset
from edgedistill.data.examination import examine
from edgedistill.data.preprocess import Preprocess
from edgedistill.data.settings import Normalization, data_settings
from edgedistill.data.views import Views
from edgedistill.distill.feed import ContinuedFeed, TrainingFeed, mixed_order
from edgedistill.errors import ConfigError
from edgedistill.kits.kits import find_kits
from edgedistill.losses.batch import Batch
from edgedistill.losses.labels import mixed_classes
from edgedistill.pipeline.pipeline import Plan, run_pipeline
from edgedistill.records.stages import InputRecord
from edgedistill.runtime.folder import Run
from edgedistill.runtime.progress import Reporter
from edgedistill.tasks.table import find_task
from tests.support.command import edgedistill
from tests.support.learning import checked, config_of, sources_of
from tests.support.small_onnx import text_model

RNG = np.random.default_rng(0)
RECORD = InputRecord(kind="image", dtype="uint8", shape=(16, 16, 3))
KNOWN, OTHERS = 6, 20


def views_of(augment: tuple[str, ...], labels: np.ndarray) -> Views:
    """Return views of pictures of one grey level each: dark ones with labels, and bright ones without."""
    levels = np.concatenate([np.arange(KNOWN), 200 + np.arange(OTHERS)]).astype(np.uint8)
    pictures = np.broadcast_to(levels[:, None, None, None], (len(levels), 16, 16, 3))
    split = Split({"input": pictures}, np.arange(len(levels)), labels, unlabelled=OTHERS)
    plan = parse_augment(augment, (RECORD,), is_dense=labels.ndim == 3)
    plain = {"input": Preprocess(RECORD, Normalization())}
    return Views(split, plain, plan.ops, 3, plan.mixup, plan.moves, padding=0)


def boxes() -> np.ndarray:
    labels = np.zeros((KNOWN + OTHERS, 1, 7), np.float32)
    labels[:, 0, 1:6] = (2, 2, 14, 14, 144)
    labels[KNOWN:, :, 0] = -1
    return labels


def test_samples_with_labels_are_spread_evenly() -> None:
    order = mixed_order(np.random.default_rng(0), 30, 270)
    assert np.array_equal(np.sort(order), np.arange(300))
    shares = (order.reshape(-1, 20) < 30).sum(1)
    assert shares.min() >= 1
    assert shares.max() <= 3
    plain = np.random.default_rng(5).permutation(40)
    assert np.array_equal(mixed_order(np.random.default_rng(5), 40, 0), plain)


@pytest.mark.parametrize("augment", ["mixup:0.4", "mosaic:1"])
def test_samples_with_and_without_labels_are_not_mixed(augment: str) -> None:
    views = views_of((augment,), boxes() if augment == "mosaic:1" else np.arange(KNOWN + OTHERS) % 3)
    positions = np.arange(KNOWN + OTHERS).repeat(50)
    seen = views.batch(positions, np.arange(len(positions)))["input"].flatten(1) * 255
    dark, bright = seen[positions < KNOWN], seen[positions >= KNOWN]
    assert dark.max() <= KNOWN
    assert bright[bright > 0].min() >= 200 - 1e-3  # 0 is the border of a mosaic
    assert (dark.amin(1) != dark.amax(1)).any() == (augment == "mosaic:1")
    assert len(np.unique(dark.numpy())) > (20 if augment == "mixup:0.4" else 3)


def test_a_continued_feed_goes_through_the_epochs_of_a_short_one() -> None:
    views = views_of((), np.arange(KNOWN + OTHERS) % 3)
    feed = TrainingFeed(views, 10, None, 0, 0)
    assert len(feed) == 2
    long = ContinuedFeed(feed, 5)
    seen = [batch.labels.tolist() for number in range(3) for batch in long.epoch(number)]
    assert seen == [batch.labels.tolist() for number in range(8) for batch in feed.epoch(number)][:15]
    shown = next(iter(feed.epoch(0)))
    assert shown.is_labelled is not None
    assert shown.is_labelled.sum() in (2, 3)  # 10 of 26 samples, of which 6 have labels


@pytest.mark.parametrize("task", ["classification", "multi-label", "regression", "segmentation", "detection"])
def test_the_loss_on_labels_is_that_of_the_samples_with_labels(task: str) -> None:
    kind, generator = find_task(task), torch.Generator().manual_seed(0)
    shape = {"segmentation": (3, 4, 4), "detection": (21, 3 + 32)}.get(task, (3,))
    student, teacher = torch.randn(2, 8, *shape, generator=generator)
    known = kind.example_labels(torch.randn(3, *shape, generator=generator))
    none = torch.from_numpy(np.array(kind.no_labels(known.numpy(), 5)))
    inputs = {"input": torch.zeros(8, 3, 32, 32)}
    order = torch.tensor([0, 3, 4, 1, 5, 6, 2, 7])
    labels, is_labelled = torch.cat([known, none])[order], (torch.arange(8) < 3)[order]
    plan = DistillConfig(hard_weight=0.3, loss=kind.losses[0])
    batch = Batch(inputs, labels, teacher, is_labelled=is_labelled)
    got = kind.distillation_loss(plan, None)(student, batch)
    soft = kind.distillation_loss(plan.model_copy(update={"hard_weight": 0.0}), None)(student, batch)
    rows = is_labelled.nonzero()[:, 0]
    hard = kind.label_loss(plan)(student[rows], Batch({"input": inputs["input"][rows]}, known))
    torch.testing.assert_close(got, 0.7 * soft + 0.3 * hard)
    without = batch._replace(is_labelled=torch.zeros(8, dtype=torch.bool))
    torch.testing.assert_close(kind.distillation_loss(plan, None)(student, without), 0.7 * soft)


def test_an_own_loss_sees_no_class_where_there_is_no_label() -> None:
    batch = Batch({}, torch.tensor([1, -100]), partner_labels=torch.tensor([2, -100]), share=torch.tensor([0.25, 0.5]))
    assert mixed_classes(batch, 3).tolist() == [[0.0, 0.25, 0.75], [0.0, 0.0, 0.0]]


def folder_of(path: Path) -> np.ndarray:
    """Write splits of noise, and loose pictures without labels in folders that are no classes; return the latter."""
    for split, count in (("train", 12), ("val", 6), ("test", 6)):
        pixels = RNG.integers(0, 256, (count, 16, 16, 3), np.uint8)
        np.savez(path / f"{split}.npz", inputs=pixels, labels=np.arange(count) % 2)
    loose = RNG.integers(0, 256, (9, 16, 16, 3), np.uint8)
    for number, pixels in enumerate(loose):
        place = path / "more" / ("" if number % 2 else "day") / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place)
    return loose


DATA = {"train": "train.npz", "val": "val.npz", "test": "test.npz", "unlabelled": "more"}


def test_pictures_of_a_folder_come_after_the_training_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDISTILL_CACHE", str(tmp_path / "cache"))
    loose = folder_of(tmp_path)
    dataset = load_dataset(data_settings(sources_of(config_of(tmp_path, data=DATA))))
    whole = dataset.distilled
    assert (dataset.record.train, dataset.record.unlabelled, len(whole), whole.unlabelled) == (12, 9, 21, 9)
    in_order = [1, 3, 5, 7, 0, 2, 4, 6, 8]
    assert np.array_equal(whole.inputs["input"][whole.rows[12:]], loose[in_order])
    assert whole.labels[:].tolist() == [0, 1] * 6 + [-100] * 9
    (note,) = (one.text for one in examine(dataset) if one.subject == "data.unlabelled")
    assert note.startswith("9 samples without labels beside 12 training samples: ")


def test_overlap_with_validation_and_test_samples_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDISTILL_CACHE", str(tmp_path / "cache"))
    folder_of(tmp_path)
    test = np.load(tmp_path / "test.npz")["inputs"]
    Image.fromarray(test[4]).save(tmp_path / "more" / "copy.png")
    Image.fromarray(np.where(test[2] < 255, test[2] + 1, 255).astype(np.uint8)).save(tmp_path / "more" / "near.png")
    found = [
        (one.severity, one.text)
        for one in examine(load_dataset(data_settings(sources_of(config_of(tmp_path, data=DATA)))))
        if one.subject == "data.unlabelled"
    ]
    assert [severity for severity, _ in found] == ["error", "warning", "note"]
    assert found[0][1].startswith(
        "1 of 11 samples are identical to validation or test samples (for example copy.png and sample 4)"
    )
    assert found[1][1].startswith("1 of 11 samples (9.09 %) are nearly identical to validation or test samples")


ROWS = "a row for each of the 12 samples of data.train, in their order, and then one for each of the 9 samples of data.unlabelled"
WEIGHT = RNG.standard_normal((2, 768)).astype(np.float32)


def write_teachers(folder: Path) -> None:
    """Write one linear classifier of pictures (16, 16, 3) as a function with weights, an ONNX file, and a file of its outputs."""
    (folder / "own.py").write_text(
        "from torch import nn\ndef linear():\n    return nn.Sequential(nn.Flatten(), nn.Linear(768, 2, bias=False))\n"
    )
    torch.save({"1.weight": torch.from_numpy(WEIGHT)}, folder / "linear.pt")
    graph = "(float[N, 3, 16, 16] x) => (float[N, 2] logits) { flat = Flatten (x) logits = MatMul (flat, w) }"
    onnx.save(text_model(graph, w=WEIGHT.T.copy()), folder / "linear.onnx")
    np.save(
        folder / "linear.npy",
        outputs_of(np.concatenate([np.load(folder / "train.npz")["inputs"], np.load(folder / "more.npz")["inputs"]])),
    )


def outputs_of(pictures: np.ndarray) -> np.ndarray:
    return (pictures.transpose(0, 3, 1, 2).reshape(len(pictures), -1) / np.float32(255)) @ WEIGHT.T


@pytest.mark.parametrize(
    "teacher",
    [
        {"model": "own:linear", "weights": "linear.pt", "engine": "torch", "precision": "fp32"},
        {"model": "linear.onnx"},
        {"model": "linear.npy"},
    ],
)
def test_soft_labels_have_the_training_samples_and_then_those_without_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher: dict[str, str]
) -> None:
    monkeypatch.setenv("EDGEDISTILL_CACHE", str(tmp_path / "cache"))
    loose = folder_of(tmp_path)
    np.savez(tmp_path / "more.npz", inputs=loose)
    write_teachers(tmp_path)
    data = DATA | {"unlabelled": "more.npz"}
    config = config_of(tmp_path, data=data, teacher=teacher, distill={"views": 1})
    run_pipeline(config, Run(tmp_path / "run"), find_kits(()), Reporter(quiet=True), Plan("soft_labels"))
    kept = np.load(tmp_path / "run" / "soft_labels" / "logits.npy")
    expected = outputs_of(np.concatenate([np.load(tmp_path / "train.npz")["inputs"], loose]))
    assert kept.shape == (1, 21, 2)
    np.testing.assert_allclose(kept[0], expected, rtol=2e-3, atol=0.02)  # float16


def test_what_cannot_be_used_without_labels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDISTILL_CACHE", str(tmp_path / "cache"))
    folder_of(tmp_path)
    with pytest.raises(ConfigError, match=r"distill.loss: 'dkd' needs the label of each sample"):
        checked(config_of(tmp_path, data=DATA, distill={"loss": "dkd"}))
    np.save(tmp_path / "logits.npy", np.zeros((12, 2), np.float32))
    with pytest.raises(ConfigError, match=rf"logits\.npy has shape \(12, 2\); expected \(21, 2\): {ROWS}"):
        checked(config_of(tmp_path, data=DATA, teacher={"model": "logits.npy"}, distill={"views": 1}))
    for split in ("train", "val", "test"):
        np.savez(tmp_path / f"{split}.npz", inputs=np.load(tmp_path / f"{split}.npz")["inputs"])
    with pytest.raises(ConfigError, match=r"data.unlabelled: data.train has no labels either"):
        checked(config_of(tmp_path, data=DATA | {"task": "embedding", "dimensions": 4}, distill={"loss": "mse"}))


DIGITS = """
name = "few"
[data]
train = "few.npz"
val = "val.npz"
test = "test.npz"
unlabelled = "more.npz"
mean = [0.3]
std = [0.37]
[teacher]
model = "logits.npy"
[student]
model = "zoo:mlperf-resnet8"
width = 0.25
[distill]
batch_size = 64
views = 1
epochs = 8
control = true
[[target]]
name = "pc"
kit = "ort"
"""


@pytest.mark.slow
def test_samples_without_labels_help_a_student_with_few_labels(tmp_path: Path) -> None:
    digits = load_digits()
    pictures, classes = (digits.images * 15.9).astype(np.uint8), digits.target
    _, kept = np.unique(pictures.reshape(len(pictures), -1), axis=0, return_index=True)
    order = np.random.default_rng(0).permutation(np.sort(kept))
    few = np.concatenate([order[classes[order] == kind][:4] for kind in range(10)])
    val, test, more = np.split(np.setdiff1d(order, few, assume_unique=True), [150, 650])
    for name, rows in (("few", few), ("val", val), ("test", test), ("more", more)):
        np.savez(tmp_path / f"{name}.npz", inputs=pictures[rows], labels=classes[rows])
    everything = np.concatenate([few, more])
    right = 6 * np.eye(10)[classes[everything]]
    np.save(tmp_path / "logits.npy", right.astype(np.float32))
    (tmp_path / "few.toml").write_text(DIGITS)
    done = edgedistill("run", "few.toml", "--run-dir", "made", "--until", "export", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    stages = json.loads((tmp_path / "made" / "manifest.json").read_text())["stages"]
    (score,) = stages["export"]["record"]["scores"]
    assert score["student"] > score["control"] + 0.1
    assert stages["soft_labels"]["record"]["samples"] == len(everything)
    assert "the source has labels, which are not read" in done.stderr + done.stdout
