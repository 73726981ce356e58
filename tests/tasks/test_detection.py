"""Boxes: from labels and losses to detections, the same on host and device, and COCO's AP of a measurement."""

import json

import check
import metrics
import numpy as np
import pytest
import torch
from kit import EngineError

from edgedistill.config.training import DistillConfig, TrainingConfig
from edgedistill.deploy.host_metrics import with_host_metric
from edgedistill.errors import ConfigError
from edgedistill.losses.batch import Batch
from edgedistill.losses.cells import BINS, cells_of
from edgedistill.losses.detection import box_kd, class_kd, detection_loss
from edgedistill.records.details import DetectionDetails
from edgedistill.runtime.files import SEAL, is_unchanged
from edgedistill.tasks.detection import TASK
from edgedistill.tasks.matches import f1_at, matches_of
from edgedistill.tasks.resampling import interval
from edgedistill.tasks.task import Labels

SIZE, CLASSES = (64, 96), 3
COUNT = len(cells_of(*SIZE).strides)


def raw(seed=0, images=2):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(images, COUNT, CLASSES + 4 * BINS, generator=generator)


class Fixed(torch.nn.Module):
    """A detector with the same outputs for every input."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, x):
        return {"classes": self.outputs[..., :CLASSES], "boxes": self.outputs[..., CLASSES:]}


def exported(outputs):
    """Return the scores and boxes of an exported file, side by side."""
    with torch.no_grad():
        found = TASK.exported(Fixed(outputs), SIZE)(torch.zeros(1))
    return torch.cat([found[name] for name in TASK.exported_output.split("+")], 2).numpy()


def boxes_of(*rows, split="train", unused=1):
    filled = [[*row, 0, 0] for row in rows] + unused * [[-1, 0, 0, 0, 0, 0, 0]]
    return Labels(split, np.array([filled], np.float32), None)


def test_classes_are_named_by_the_data_the_configuration_or_their_numbers():
    train, test = boxes_of((2, 0, 0, 9, 9)), boxes_of((1, 0, 0, 9, 9), split="test")
    assert TASK.names([train, test], None, None) == ("0", "1", "2")
    assert TASK.names([train, test], ("a", "b", "c", "d"), None) == ("a", "b", "c", "d")
    assert TASK.names([train._replace(classes=("x", "y", "z")), test], None, None) == ("x", "y", "z")
    with pytest.raises(ConfigError, match=r"data\.test: a box has class 5, but there are 3 classes"):
        TASK.names([train, boxes_of((5, 0, 0, 9, 9), split="test")], None, None)
    with pytest.raises(ConfigError, match=r"data\.train: no image has a box"):
        TASK.names([boxes_of()], None, None)
    with pytest.raises(ConfigError, match=r"data\.train: labels are int64\(4,\); expected boxes"):
        TASK.read_labels([Labels("train", np.arange(4), None)], None)
    assert TASK.counts(boxes_of((2, 0, 0, 9, 9), (2, 5, 5, 9, 9)).values, 3).tolist() == [0, 0, 1]


def test_losses_are_those_of_the_batch_s_size_and_weighted():
    values, teacher = raw().requires_grad_(), raw(1)
    assert TASK.fits(tuple(values.shape[1:]), CLASSES, SIZE)
    assert not TASK.fits(tuple(values.shape[1:]), CLASSES + 1, SIZE)
    labels = TASK.example_labels(values)
    batch = Batch({"input": torch.zeros(2, 3, *SIZE)}, labels, teacher)
    on_labels = detection_loss(values, labels, SIZE, CLASSES)
    assert TASK.label_loss(TrainingConfig())(values, batch).item() == on_labels.item()
    plan = DistillConfig(hard_weight=0.25, temperature=2.0)
    found = TASK.distillation_loss(plan, None)(values, batch)
    wanted = 0.25 * on_labels + 0.75 * (class_kd(values, teacher, CLASSES) + box_kd(values, teacher, CLASSES, 2.0))
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
    found.backward()
    assert values.grad.isfinite().all()
    own = TASK.distillation_loss(
        plan, lambda student, teacher, labels: (student - teacher).abs().mean() + labels.mean()
    )
    assert own(values, batch).isfinite()


def test_a_file_has_the_detections_of_the_model_and_so_has_the_device():
    values = raw()
    answers = TASK.answers(values.numpy(), SIZE, CLASSES)
    file = exported(values)
    assert (file[..., CLASSES:] >= 0).all()
    assert (file[..., CLASSES:] <= [96, 64, 96, 64]).all()
    np.testing.assert_allclose(TASK.answers(file, SIZE, CLASSES), answers, atol=1e-4)
    assert ((answers[..., 0] >= 0).sum(1) > 50).all()
    assert not TASK.invalid(answers).any()
    np.testing.assert_array_equal(metrics.kept("coco_ap", file[:, None], "kit"), TASK.answers(file, SIZE, CLASSES))
    other = raw(3).numpy()
    agreement = TASK.agreement(TASK.answers(other, SIZE, CLASSES), answers)
    assert metrics.agreement("coco_ap", exported(raw(3)), file, "kit") == pytest.approx(agreement)
    assert 0 < agreement < 0.9
    with pytest.raises(EngineError, match=r"kit: coco_ap needs scores and boxes \(N, A, C \+ 4\); .* \(2, 5\)"):
        metrics.kept("coco_ap", np.zeros((2, 5)), "kit")


def test_outputs_that_are_not_finite_are_invalid():
    values = raw()
    values[1, 5] = torch.nan
    answers = TASK.answers(values.numpy(), SIZE, CLASSES)
    assert TASK.invalid(answers).all(1).tolist() == [False, True]


def test_detections_of_the_labels_are_perfect():
    labels = np.concatenate(
        [boxes_of((2, 0, 0, 9, 9), (0, 30, 5, 60, 40)).values, boxes_of((1, 5, 5, 20, 20), unused=2).values]
    )
    answers = np.concatenate([labels[..., :1], np.full((2, 3, 1), 0.9, np.float32), labels[..., 1:5]], 2)
    assert TASK.score(answers, labels) == pytest.approx(1)
    assert TASK.score(answers[::-1], labels) == 0
    assert TASK.agreement(answers, answers) == 1


def test_the_host_completes_a_measurement_by_the_metric_that_devices_lack(tmp_path):
    outputs = exported(raw(images=4))[:, None]
    labels = np.repeat(boxes_of((0, 0, 0, 40, 40), (1, 30, 5, 60, 40)).values, 4, 0)
    criteria = check.Criteria("kit", "coco_ap", None, "scores+boxes", 0.0, {})
    named = {"scores": outputs[..., :CLASSES], "boxes": outputs[..., CLASSES:]}
    found, arrays = check.compare(named, {"labels": labels}, criteria)
    assert found["accuracy"] is None
    assert found["reasons"]["accuracy"].startswith("edgedistill computes coco_ap on the host")
    file = tmp_path / "pc.json"
    table = {"accuracy": None, "reasons": found["reasons"], "samples": "pc.npz"}
    assert with_host_metric(file, "coco_ap", table) is table  # there are no raw samples
    np.savez(tmp_path / "pc.npz", **arrays)
    completed = with_host_metric(file, "coco_ap", table)
    written = json.loads(file.read_text())
    assert is_unchanged(written)
    assert {key: value for key, value in written.items() if key != SEAL} == json.loads(json.dumps(completed))
    accuracy = completed["accuracy"]
    assert accuracy["value"] == TASK.score(arrays["outputs"], labels)
    with np.load(tmp_path / "pc.npz") as stored:
        np.testing.assert_array_equal(stored["outputs"], arrays["outputs"])
        assert interval(accuracy["value"], stored["resampled"]) == pytest.approx(tuple(accuracy["ci95"]), abs=1e-9)
        matches = matches_of(stored["outputs"], stored["labels"], stored["matched"])
    details = DetectionDetails.model_validate(completed["details"])
    assert f1_at(matches, CLASSES, details.threshold.value) == pytest.approx(details.f1.value)
    assert [one.boxes for one in details.classes] == [4, 4, 0]
    assert details.classes[2].ap is None
    assert [one.boxes for one in details.sizes] == [8, 0, 0]
    assert accuracy["ci95"][0] <= accuracy["value"] <= accuracy["ci95"][1]
    assert (accuracy["metric"], accuracy["n"]) == ("coco_ap", 4)
    assert "accuracy" not in completed["reasons"]
    assert with_host_metric(file, "top1", table) is table
