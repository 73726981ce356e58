"""Segmentation: masks, losses on class maps, and errors in labels."""

import math
from pathlib import Path

import maps
import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score, recall_score

from edgedistill.config.training import MAP_LOSSES, DistillConfig, TrainingConfig
from edgedistill.deploy.host_metrics import with_host_metric
from edgedistill.errors import ConfigError
from edgedistill.losses.batch import Batch
from edgedistill.losses.terms import cwd
from edgedistill.records.details import SegmentationDetails
from edgedistill.tasks.resampling import resampled_counts
from edgedistill.tasks.segmentation import TASK
from edgedistill.tasks.task import Labels

RNG = np.random.default_rng(0)
MAPS = torch.from_numpy(RNG.normal(size=(3, 4, 6, 8)).astype(np.float32))
MASKS = RNG.integers(0, 4, (3, 12, 16)).astype(np.uint8)


def labels(masks: np.ndarray, classes: tuple[str, ...] | None = None) -> list[Labels]:
    return [Labels("train", masks, classes), Labels("test", masks, classes)]


def test_classes_are_named_counted_and_checked() -> None:
    assert TASK.names(labels(MASKS), None, None) == ("0", "1", "2", "3")
    assert TASK.names(labels(MASKS, ("a", "b", "c", "d")), None, None) == ("a", "b", "c", "d")
    only = np.stack([np.full((4, 4), 0, np.uint8), np.full((4, 4), 255, np.uint8)])
    assert TASK.counts(only, 3).tolist() == [1, 0, 0]
    with pytest.raises(
        ConfigError, match=r"data\.train: masks hold class 3, but there are 2 classes, numbered 0 to 1; set data\.void"
    ):
        TASK.names(labels(MASKS), ("a", "b"), None)
    with pytest.raises(ConfigError, match="every pixel of every mask is void"):
        TASK.names(labels(np.full((2, 4, 4), 255, np.uint8)), None, None)
    with pytest.raises(ConfigError, match=r"labels are int64\(3, 12, 16\); expected masks, uint8 \(N, H, W\)"):
        TASK.read_labels(labels(MASKS.astype(np.int64)), None)


@pytest.mark.parametrize("loss", MAP_LOSSES)
def test_losses_have_a_gradient_and_a_teacher_of_another_resolution(loss: str) -> None:
    plan = DistillConfig(loss=loss, hard_weight=0.5)
    student = MAPS.clone().requires_grad_()
    batch = Batch({}, torch.from_numpy(MASKS), torch.nn.functional.interpolate(MAPS + 1, (3, 4)))
    value = TASK.distillation_loss(plan, None)(student, batch)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.isfinite()
    assert gradient.abs().max() > 0


def weighted(maps: torch.Tensor, masks: torch.Tensor) -> float:
    """Return the mean cross-entropy of pixels with the weights of ENet, section 5.2, class by class."""
    negative = -torch.log_softmax(maps.double(), 1).gather(1, masks.long()[:, None])[:, 0].numpy()
    chosen = [negative[masks.numpy() == number] for number in range(maps.shape[1])]
    weights = [1 / np.log(1.02 + len(one) / negative.size) for one in chosen]
    parts = [(weight * one.sum(), weight * len(one)) for weight, one in zip(weights, chosen, strict=True)]
    return sum(part[0] for part in parts) / sum(part[1] for part in parts)


def test_rare_classes_weigh_more() -> None:
    masks = torch.zeros(1, 6, 8, dtype=torch.uint8)
    masks[0, 0, 0] = 1
    maps = torch.zeros(1, 4, 6, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(TASK.label_loss(TrainingConfig())(maps, Batch({}, masks)), maps)
    assert gradient[0, 1, 0, 0] / gradient[0, 0, 5, 5] > 10


def test_void_pixels_count_for_nothing_and_a_batch_of_them_costs_nothing() -> None:
    loss = TASK.label_loss(TrainingConfig())
    masks = torch.from_numpy(MASKS)
    half = masks.clone()
    half[:, :6] = 255
    resized = torch.nn.functional.interpolate(MAPS, (12, 16), mode="bilinear")
    wanted = weighted(resized[:, :, 6:], masks[:, 6:])
    assert float(loss(MAPS, Batch({}, half))) == pytest.approx(float(wanted), rel=1e-5)
    assert float(loss(MAPS, Batch({}, torch.full_like(masks, 255)))) == 0


@pytest.mark.parametrize("every", [2, 3])
def test_of_large_masks_the_loss_reads_every_nth_pixel(every: int) -> None:
    masks = torch.from_numpy(RNG.integers(0, 4, (3, 6 * 2 * every + 1, 8 * 2 * every)).astype(np.uint8))
    whole = torch.nn.functional.interpolate(MAPS, tuple(masks.shape[1:]), mode="bilinear", align_corners=False)
    some = (slice(every // 2, None, every),) * 2
    wanted = weighted(whole[:, :, some[0], some[1]], masks[:, some[0], some[1]])
    maps = MAPS.clone().requires_grad_()
    value = TASK.label_loss(TrainingConfig())(maps, Batch({}, masks))
    assert float(value.detach()) == pytest.approx(float(wanted), rel=1e-5)
    (gradient,) = torch.autograd.grad(value, maps)
    assert (gradient != 0).all()  # no place of the maps is left out


def test_channel_wise_distillation_is_the_papers_formula() -> None:
    student, teacher, temperature = MAPS, MAPS.flip(0), 3.0
    total = 0.0
    for ours, theirs in zip(student.flatten(0, 1), teacher.flatten(0, 1), strict=True):
        p, q = (np.exp(x.numpy().ravel() / temperature) for x in (theirs, ours))
        p, q = p / p.sum(), q / q.sum()
        total += float((p * np.log(p / q)).sum())
    wanted = temperature**2 / student.shape[1] * total / student.shape[0]
    assert float(cwd(student, teacher, temperature)) == pytest.approx(wanted, rel=1e-4)


def test_the_metric_of_the_masks_themselves_is_perfect_and_without_labels_unknown() -> None:
    assert TASK.score(MASKS, MASKS) == 1
    assert TASK.agreement(MASKS, MASKS) == 1
    assert math.isnan(TASK.score(MASKS, np.full_like(MASKS, 255)))
    assert TASK.fits((4, 6, 8), 4, (12, 16))
    assert not TASK.fits((6, 8), 4, (12, 16))


def test_the_details_of_a_measurement_are_those_of_scikit_learn(tmp_path: Path) -> None:
    masks = MASKS.copy()
    masks[0, :3] = 255
    masks[masks == 3] = 0
    np.savez(tmp_path / "pc.npz", outputs=MAPS.numpy()[:, None], labels=masks)
    table = {"accuracy": {"value": 0.5}, "reasons": {}}
    completed = with_host_metric(tmp_path / "pc.json", "miou", table)
    details = SegmentationDetails.model_validate(completed["details"])
    answers, known = TASK.answers(MAPS.numpy(), (12, 16), 4), masks != 255
    wanted = jaccard_score(masks[known], answers[known], average=None, labels=[0, 1, 2])
    assert [one.iou.value for one in details.classes[:3]] == pytest.approx(wanted)
    assert details.classes[3].iou is None
    assert details.pixel_accuracy.value == pytest.approx((masks == answers)[known].mean())
    recall = recall_score(masks[known], answers[known], average=None, labels=[0, 1, 2])
    assert [one.recall.value for one in details.classes[:3]] == pytest.approx(recall)
    assert sum(one.pixels for one in details.classes) == known.sum()
    for one in details.classes[:3]:
        assert one.iou.ci95[0] <= one.iou.value <= one.iou.ci95[1]
    with np.load(tmp_path / "pc.npz") as stored:
        np.testing.assert_array_equal(stored["confusions"], maps.confusions(MAPS.numpy(), masks))
        first = resampled_counts(3)[0]
        assert stored["resampled"][0] == maps.mean_iou((first[:, None, None] * stored["confusions"]).sum(0))
