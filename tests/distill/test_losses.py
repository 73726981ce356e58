import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from torch.nn import functional

from edgedistill.config import DistillConfig
from edgedistill.distill.losses import distillation_loss, kd
from edgedistill.distill.training import Batch

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(0, 3, (16, 10)), RNG.normal(0, 3, (16, 10))


def reference(student: np.ndarray, teacher: np.ndarray, t: float) -> float:
    p = softmax(teacher / t, 1)
    return t**2 * (p * (log_softmax(teacher / t, 1) - log_softmax(student / t, 1))).sum() / len(student)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_kd_is_the_definition(temperature: float) -> None:
    got = kd(torch.from_numpy(STUDENT), torch.from_numpy(TEACHER), temperature)
    assert float(got) == pytest.approx(reference(STUDENT, TEACHER, temperature), rel=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_gradient_is_hintons(temperature: float) -> None:
    # Hinton et al. 2015, equation 2, times T^2: T (q - p) for each sample, over the batch.
    student = torch.from_numpy(STUDENT).requires_grad_()
    kd(student, torch.from_numpy(TEACHER), temperature).backward()
    expected = temperature * (softmax(STUDENT / temperature, 1) - softmax(TEACHER / temperature, 1)) / len(STUDENT)
    assert student.grad is not None
    np.testing.assert_allclose(student.grad.numpy(), expected, atol=1e-12)


def test_at_high_temperature_kd_matches_centred_logits() -> None:
    # Hinton et al. 2015, equation 4: for T -> infinity the loss tends to half the mean square of centred differences.
    centred = (STUDENT - STUDENT.mean(1, keepdims=True)) - (TEACHER - TEACHER.mean(1, keepdims=True))
    got = kd(torch.from_numpy(STUDENT), torch.from_numpy(TEACHER), 1e4)
    assert float(got) == pytest.approx((centred**2).sum(1).mean() / (2 * STUDENT.shape[1]), rel=1e-3)


@given(st.floats(0.5, 20), st.floats(-50, 50), st.integers(1, 8))
def test_identical_logits_cost_nothing_and_shifts_do_not_matter(temperature: float, shift: float, rows: int) -> None:
    teacher = torch.from_numpy(TEACHER[:rows])
    assert float(kd(teacher + shift, teacher, temperature)) == pytest.approx(0, abs=1e-9)


def test_the_batch_is_averaged() -> None:
    one = kd(torch.from_numpy(STUDENT), torch.from_numpy(TEACHER), 4.0)
    twice = kd(torch.from_numpy(np.tile(STUDENT, (2, 1))), torch.from_numpy(np.tile(TEACHER, (2, 1))), 4.0)
    assert float(one) == pytest.approx(float(twice))


def test_the_configured_loss_weighs_labels_and_teacher() -> None:
    labels = torch.from_numpy(RNG.integers(0, 10, 16))
    student, teacher = torch.from_numpy(STUDENT), torch.from_numpy(TEACHER)
    for weight in (0.0, 0.3, 1.0):
        plan = DistillConfig(temperature=3.0, hard_weight=weight, label_smoothing=0.1)
        got = distillation_loss(plan)(student, Batch(student, labels, teacher))
        hard = functional.cross_entropy(student, labels, label_smoothing=0.1)
        expected = weight * float(hard) + (1 - weight) * reference(STUDENT, TEACHER, 3.0)
        assert float(got) == pytest.approx(expected)
