"""Several labels for a sample: the metric, the losses, the checks and the scores."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import average_precision_score
from torch.nn import functional

from edgedistill.config.training import DistillConfig, TrainingConfig
from edgedistill.data.settings import view_settings
from edgedistill.errors import ConfigError
from edgedistill.export.baked import Baking
from edgedistill.losses.batch import Batch
from edgedistill.losses.terms import binary_kd
from edgedistill.tasks.table import find_task
from edgedistill.tasks.task import Labels
from tests.support.learning import checked, config_of, loaded

TASK = find_task("multi-label")
RNG = np.random.default_rng(0)
LABELS = (RNG.uniform(size=(60, 4)) < 0.4).astype(np.int64)
STUDENT, TEACHER = RNG.normal(LABELS, 1.0), RNG.normal(LABELS, 0.5)


def test_the_metric_is_scikit_learns_and_the_mean_over_labels() -> None:
    each = [average_precision_score(LABELS[:, i], STUDENT[:, i]) for i in range(4)]
    assert TASK.score(STUDENT, LABELS) == pytest.approx(np.mean(each), rel=1e-12)
    # By hand: ranked, the labels are 1 0 1 0, so that precision is 1 and 2/3 where recall rises.
    outputs, labels = np.array([[4.0], [3.0], [2.0], [1.0]]), np.array([[1], [0], [1], [0]])
    assert TASK.score(outputs, labels) == pytest.approx((1 + 2 / 3) / 2)


def test_labels_that_no_sample_has_are_left_out_of_the_metric() -> None:
    labels = LABELS.copy()
    labels[:, 2] = 0
    rest = [0, 1, 3]
    assert TASK.score(STUDENT, labels) == pytest.approx(TASK.score(STUDENT[:, rest], labels[:, rest]))
    assert TASK.score(STUDENT, 0 * labels) == 0


@given(st.floats(0.01, 100), st.floats(-10, 10))
def test_the_metric_is_of_ranks_alone(scale: float, shift: float) -> None:
    assert TASK.score(np.round(STUDENT, 3) * scale + shift, LABELS) == pytest.approx(
        TASK.score(np.round(STUDENT, 3), LABELS)
    )


def test_agreement_is_of_answers_label_by_label() -> None:
    ours, theirs = np.array([[1.0, -2.0], [0.5, -0.1]]), np.array([[3.0, 0.1], [-1.0, -7.0]])
    assert TASK.agreement(ours, theirs) == 0.5
    assert TASK.threshold == 0.0


def test_scores_are_the_sigmoid() -> None:
    np.testing.assert_allclose(TASK.scores(STUDENT), 1 / (1 + np.exp(-STUDENT)), rtol=1e-12)
    assert not TASK.is_proportion


def batch_of(student: torch.Tensor, teacher: torch.Tensor | None = None, **parts: torch.Tensor) -> Batch:
    return Batch({"input": student}, torch.from_numpy(TASK.collate(LABELS)).double(), teacher, **parts)


def test_the_loss_on_labels_is_torchs_binary_cross_entropy() -> None:
    student = torch.from_numpy(STUDENT)
    got = TASK.label_loss(TrainingConfig())(student, batch_of(student))
    assert float(got) == pytest.approx(
        float(functional.binary_cross_entropy(student.sigmoid(), torch.from_numpy(LABELS).double()))
    )
    p = expit(STUDENT)
    assert float(got) == pytest.approx(-(LABELS * np.log(p) + (1 - LABELS) * np.log(1 - p)).mean())


def test_mixed_inputs_have_mixed_labels() -> None:
    student, partners = torch.from_numpy(STUDENT), torch.from_numpy(LABELS[::-1].astype(np.float64))
    share = torch.from_numpy(RNG.uniform(size=60))
    mixed = share[:, None] * torch.from_numpy(LABELS) + (1 - share[:, None]) * partners
    got = TASK.label_loss(TrainingConfig())(student, batch_of(student, partner_labels=partners, share=share))
    assert float(got) == pytest.approx(float(functional.binary_cross_entropy_with_logits(student, mixed)))


def binary_kd_by_hand(student: np.ndarray, teacher: np.ndarray, t: float) -> float:
    p, q = expit(teacher / t), expit(student / t)
    return float(t**2 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean())


@pytest.mark.parametrize("t", [0.5, 1.0, 4.0, 20.0])
def test_the_term_is_the_divergence_of_each_label(t: float) -> None:
    student, teacher = torch.from_numpy(STUDENT).requires_grad_(), torch.from_numpy(TEACHER)
    value = binary_kd(student, teacher, t)
    assert float(value.detach()) == pytest.approx(binary_kd_by_hand(STUDENT, TEACHER, t), rel=1e-9)
    value.backward()  # T (q - p) for each label, as Hinton's for each class, over samples and labels
    expected = t * (expit(STUDENT / t) - expit(TEACHER / t)) / STUDENT.size
    np.testing.assert_allclose(student.grad, expected, atol=1e-12)
    assert float(binary_kd(teacher, teacher, t)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    ("loss", "term"), [("kd", binary_kd_by_hand(STUDENT, TEACHER, 4)), ("mse", ((STUDENT - TEACHER) ** 2).mean())]
)
def test_the_configured_loss_weighs_labels_and_teacher(loss: str, term: float, weight: float) -> None:
    student, teacher = torch.from_numpy(STUDENT), torch.from_numpy(TEACHER)
    plan, batch = DistillConfig(loss=loss, hard_weight=weight), batch_of(student, teacher)
    hard = float(TASK.label_loss(plan)(student, batch))
    got = float(TASK.distillation_loss(plan, None)(student, batch))
    assert got == pytest.approx(weight * hard + (1 - weight) * term, rel=1e-6)


@pytest.mark.parametrize(
    ("split", "labels", "message"),
    [
        ("train", np.arange(60) % 3, r"^data\.train: labels are int64\(60,\); expected 0 or 1 for each label, \(N, labels\)$"),
        ("train", LABELS * 2, r"^data\.train: labels are int64\(60, 4\); expected 0 or 1"),
        ("train", LABELS * 0.5, r"^data\.train: labels are float64\(60, 4\); expected 0 or 1"),
        ("test", LABELS[:, :3], r"^data\.test: 3 values per label, but training labels have 4$"),
        ("train", LABELS * [1, 0, 1, 1], r"^data\.train: label '1' is the same in every sample and cannot be learned; remove the label$"),
        ("train", LABELS | [0, 0, 0, 1], r"^data\.train: label '3' is the same in every sample"),
    ],
)  # fmt: skip
def test_labels_that_are_none_are_refused(split: str, labels: np.ndarray, message: str) -> None:
    given = {"train": LABELS, "test": LABELS} | {split: labels}
    with pytest.raises(ConfigError, match=message):
        TASK.names([Labels(name, values, None) for name, values in given.items()], None, None)


def test_files_with_scores_agree_where_labels_apply_and_not_where_scores_are_positive(tmp_path) -> None:
    np.savez(tmp_path / "train.npz", inputs=np.eye(60, 64, dtype=np.uint8).reshape(-1, 8, 8), labels=LABELS)
    config = config_of(tmp_path, data={"train": "train.npz", "test": "train.npz", "task": "multi-label"})
    record, views = loaded(config).record, view_settings(config)
    for bake, form in (((), np.asarray), (("scores",), TASK.scores)):
        baking = Baking(record, views, bake)
        assert baking.agreement(form(STUDENT), form(STUDENT), (), 4) == 1
        assert baking.agreement(form(-STUDENT), form(STUDENT), (), 4) == 0


def test_a_split_without_any_label_is_refused_before_training(tmp_path) -> None:
    inputs = np.eye(60, 64, dtype=np.uint8).reshape(-1, 8, 8)
    np.savez(tmp_path / "train.npz", inputs=inputs, labels=LABELS)
    np.savez(tmp_path / "test.npz", inputs=inputs, labels=0 * LABELS)
    with pytest.raises(ConfigError, match=r"^data\.test: no label applies to any of its 60 samples, so that mean AP"):
        loaded(config_of(tmp_path, data={"train": "train.npz", "test": "test.npz", "task": "multi-label"}))


def test_names_are_those_of_the_configuration_or_of_the_file(tmp_path) -> None:
    labels = [Labels("train", LABELS, ("a", "b", "c", "d")), Labels("test", LABELS[:5], None)]
    assert TASK.names(labels, None, None) == ("a", "b", "c", "d")
    assert TASK.names(labels, tuple("wxyz"), None) == tuple("wxyz")
    with pytest.raises(ConfigError, match=r"^data\.classes: 1 names, but labels have 4 value\(s\)$"):
        TASK.names(labels, ("w",), None)
    np.savez(tmp_path / "train.npz", inputs=np.eye(60, 64, dtype=np.uint8).reshape(-1, 8, 8), labels=LABELS)
    keys = {"train": "train.npz", "test": "train.npz", "task": "multi-label"}
    dataset = loaded(config_of(tmp_path, data=keys))
    assert (dataset.train.labels.dtype, dataset.train.labels.shape) == (np.float32, (54, 4))
    assert dataset.record.classes == tuple("0123")


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"distill": {"loss": "dkd"}}, r"^distill\.loss: 'dkd' does not fit data\.task 'multi-label'; set loss = 'kd' or 'mse'$"),
        ({"distill": {"label_smoothing": 0.1}}, r"^label_smoothing: only applies to classification, but data\.task is 'multi-label'"),
        ({"distill": {"top_k": 5}}, r"^distill\.top_k: only applies to classification and detection, but data\.task is 'multi-label'"),
    ],
)  # fmt: skip
def test_keys_that_are_for_classes_are_refused(tmp_path, tables: dict, message: str) -> None:
    data = {"train": "train.npz", "test": "train.npz", "task": "multi-label"}
    with pytest.raises(ConfigError, match=message):
        checked(config_of(tmp_path, data=data, **{"target": [{"name": "pc", "kit": "ort"}]} | tables))
