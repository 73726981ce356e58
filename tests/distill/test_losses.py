"""Each loss against its paper's definition in plain numpy, value and gradient, and what must hold of it anyhow."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from scipy.stats import pearsonr, zscore
from torch.nn import functional

from edgedistill.config.training import (
    CLASS_LOSSES,
    FEATURE_LOSSES,
    LOGIT_LOSSES,
    VALUE_LOSSES,
    DistillConfig,
    TrainingConfig,
)
from edgedistill.losses.batch import Batch, OutputLoss
from edgedistill.losses.logits import CLASS_TERMS, VALUE_TERMS, teacher_term
from edgedistill.losses.terms import (
    FEATURE_TERMS,
    correlation,
    cosine,
    decoupled,
    dist,
    kd,
    ls,
    mse,
    standardize,
)
from edgedistill.tasks.table import find_task
from tests.support.gradients import differences, gradient, torched, value

Array = np.ndarray
RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(0, 3, (16, 10)), RNG.normal(0, 3, (16, 10))
LABELS = RNG.integers(0, 10, 16)
TEMPERATURES = [0.5, 1.0, 4.0, 20.0]


def configured(**keys: object) -> Callable[..., torch.Tensor]:
    """Return the term on logits that a configuration names, of student, teacher and labels."""
    term = on_logits(DistillConfig(**keys))
    return lambda student, teacher, labels: term(student, batch_of(student, labels, teacher))


def on_logits(plan: DistillConfig) -> OutputLoss:
    """Return the term of a plan; cosine is a term of values, all others are of classes."""
    return teacher_term(plan, (CLASS_TERMS | VALUE_TERMS)[plan.loss])


def distillation_loss(plan: DistillConfig) -> OutputLoss:
    """Return the loss of a plan on class numbers; that of cosine has values for labels."""
    return find_task("classification").distillation_loss(plan, None)


def batch_of(student: torch.Tensor, labels: torch.Tensor, teacher: torch.Tensor | None, **parts: torch.Tensor) -> Batch:
    return Batch({"input": student}, labels, teacher, **parts)


def dkd(  # the name and arguments of the paper
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, t: float, alpha: float, beta: float
) -> torch.Tensor:
    """Return the mean of alpha * TCKD + beta * NCKD."""
    target, other = decoupled(student, teacher, labels, t)
    return (alpha * target + beta * other).mean()


def kd_by_hand(student: Array, teacher: Array, t: float) -> float:
    p = softmax(teacher / t, 1)
    return t**2 * (p * (log_softmax(teacher / t, 1) - log_softmax(student / t, 1))).sum() / len(student)


def dkd_parts(student: Array, teacher: Array, t: float) -> tuple[Array, Array, Array]:
    """Return for each sample T^2 TCKD, T^2 NCKD (Zhao et al. 2022, equations 1 to 6), and the teacher's 1 - p_t."""
    rows = []
    for s, z, label in zip(student, teacher, LABELS, strict=True):
        q, p = softmax(s / t), softmax(z / t)
        binary = p[label] * np.log(p[label] / q[label]) + (1 - p[label]) * np.log((1 - p[label]) / (1 - q[label]))
        q_rest, p_rest = (np.delete(x, label) / np.delete(x, label).sum() for x in (q, p))
        rows.append((t**2 * binary, t**2 * (p_rest * np.log(p_rest / q_rest)).sum(), 1 - p[label]))
    target, other, rest = np.array(rows).T
    return target, other, rest


def dkd_by_hand(student: Array, teacher: Array, t: float, alpha: float, beta: float) -> float:
    target, other, _ = dkd_parts(student, teacher, t)
    return float((alpha * target + beta * other).mean())


def dist_by_hand(student: Array, teacher: Array, t: float) -> float:
    q, p = softmax(student / t, 1), softmax(teacher / t, 1)
    inter = np.mean([1 - pearsonr(a, b).statistic for a, b in zip(q, p, strict=True)])
    intra = np.mean([1 - pearsonr(a, b).statistic for a, b in zip(q.T, p.T, strict=True)])
    return float(t**2 * (inter + intra))


def ls_by_hand(student: Array, teacher: Array, t: float) -> float:
    return kd_by_hand(zscore(student, 1, ddof=1), zscore(teacher, 1, ddof=1), t)


@pytest.mark.parametrize("t", TEMPERATURES)
def test_kd_is_the_definition(t: float) -> None:
    assert value(kd, STUDENT, TEACHER, t) == pytest.approx(kd_by_hand(STUDENT, TEACHER, t), rel=1e-9)


@pytest.mark.parametrize("t", [1.0, 4.0])
def test_kd_gradient_is_hintons(t: float) -> None:
    # Hinton et al. 2015, equation 2, times T^2: T (q - p) for each sample, over the batch.
    expected = t * (softmax(STUDENT / t, 1) - softmax(TEACHER / t, 1)) / len(STUDENT)
    np.testing.assert_allclose(gradient(kd, STUDENT, TEACHER, t), expected, atol=1e-12)


def test_at_high_temperature_kd_is_half_of_mse_of_centred_logits() -> None:
    # Hinton et al. 2015, equation 4.
    centred = [x - x.mean(1, keepdims=True) for x in (STUDENT, TEACHER)]
    assert value(kd, STUDENT, TEACHER, 1e4) == pytest.approx(value(mse, *centred) / 2, rel=1e-3)


@pytest.mark.parametrize("t", TEMPERATURES)
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 8.0), (1.0, 0.0), (0.0, 1.0), (0.5, 2.0)])
def test_dkd_is_the_definition(t: float, alpha: float, beta: float) -> None:
    (labels,) = torched(LABELS)
    expected = dkd_by_hand(STUDENT, TEACHER, t, alpha, beta)
    assert value(dkd, STUDENT, TEACHER, labels, t, alpha, beta) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("t", TEMPERATURES)
def test_dkd_is_kd_when_the_others_weigh_what_the_teacher_gives_them(t: float) -> None:
    # Zhao et al. 2022, equation 7: KD = TCKD + (1 - p_t) NCKD; sample by sample, as p_t differs.
    _, _, rest = dkd_parts(STUDENT, TEACHER, t)
    for i, beta in enumerate(rest):
        one = slice(i, i + 1)
        (label,) = torched(LABELS[one])
        got = value(dkd, STUDENT[one], TEACHER[one], label, t, 1.0, float(beta))
        assert got == pytest.approx(value(kd, STUDENT[one], TEACHER[one], t), rel=1e-9)


def test_dkd_gradients_are_differences_of_the_definition() -> None:
    (labels,) = torched(LABELS)
    expected = differences(lambda x: dkd_by_hand(x, TEACHER, 4.0, 1.0, 8.0), STUDENT)
    np.testing.assert_allclose(gradient(dkd, STUDENT, TEACHER, labels, 4.0, 1.0, 8.0), expected, atol=1e-7)


def test_dkd_of_a_teacher_that_is_sure_keeps_its_digits() -> None:
    # 1 - p_t is 0 in float32 at a gap of 40, and its logarithm is not.
    student, teacher = torch.zeros(1, 4), torch.tensor([[40.0, 3.0, 2.0, 1.0]])
    student.requires_grad_()
    loss = dkd(student, teacher, torch.tensor([0]), 1.0, 1.0, 1.0)
    loss.backward()
    p = softmax([3.0, 2.0, 1.0])
    assert float(loss.detach()) == pytest.approx(np.log(4) + (p * np.log(p * 3)).sum(), rel=1e-5)
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize(
    "t", [pytest.param(1.0, marks=pytest.mark.slow), 4.0, pytest.param(20.0, marks=pytest.mark.slow)]
)
def test_dist_is_one_less_pearsons_correlation_both_ways(t: float) -> None:
    assert value(dist, STUDENT, TEACHER, t) == pytest.approx(dist_by_hand(STUDENT, TEACHER, t), rel=1e-9)
    expected = differences(lambda x: dist_by_hand(x, TEACHER, t), STUDENT)
    np.testing.assert_allclose(gradient(dist, STUDENT, TEACHER, t), expected, atol=1e-6)


def test_correlation_of_what_is_constant_is_nothing_and_moves_nothing_else() -> None:
    a = torch.zeros(3, 5, dtype=torch.float64)
    b = torch.from_numpy(RNG.normal(size=(3, 5)))
    assert (correlation(a, b, 1) == 0).all()
    np.testing.assert_allclose(correlation(b, 3 * b + 2, 1), 1, rtol=1e-12)


@pytest.mark.parametrize("t", [0.5, 2.0, 4.0])
def test_ls_is_kd_of_z_scores(t: float) -> None:
    assert value(ls, STUDENT, TEACHER, t) == pytest.approx(ls_by_hand(STUDENT, TEACHER, t), rel=1e-6)
    expected = differences(lambda x: ls_by_hand(x, TEACHER, t), STUDENT)
    np.testing.assert_allclose(gradient(ls, STUDENT, TEACHER, t), expected, atol=1e-6)


@given(st.floats(0.1, 50), st.floats(-20, 20))
def test_ls_does_not_see_the_range_of_logits(scale: float, shift: float) -> None:
    assert value(ls, TEACHER * scale + shift, TEACHER, 2.0) == pytest.approx(0, abs=1e-10)


def test_standardizing_twice_is_once_and_equal_logits_give_nothing() -> None:
    (x,) = torched(STUDENT)
    np.testing.assert_allclose(standardize(standardize(x)), standardize(x), atol=1e-6)
    flat = torch.ones(2, 4, requires_grad=True)
    standardize(flat).square().sum().backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_a_student_whose_head_starts_at_zero_is_pulled_and_not_thrown(name: str) -> None:
    term = configured(loss=name)
    got = gradient(term, np.zeros_like(STUDENT), TEACHER, torched(LABELS)[0])
    assert 0.01 < np.linalg.norm(got) < 3000  # with the usual 1e-8 and 1e-7: above 100,000


def test_mse_is_the_definition() -> None:
    assert value(mse, STUDENT, TEACHER) == pytest.approx(((STUDENT - TEACHER) ** 2).mean(), rel=1e-12)
    expected = 2 * (STUDENT - TEACHER) / STUDENT.size
    np.testing.assert_allclose(gradient(mse, STUDENT, TEACHER), expected, atol=1e-14)


def cosine_by_hand(student: Array, teacher: Array) -> float:
    lengths = np.linalg.norm(student, axis=1) * np.linalg.norm(teacher, axis=1)
    return float((1 - (student * teacher).sum(1) / lengths).mean())


def test_cosine_is_torchs_and_the_definition() -> None:
    student, teacher = torched(STUDENT, TEACHER)
    theirs = (1 - functional.cosine_similarity(student, teacher)).mean()
    assert value(cosine, STUDENT, TEACHER) == pytest.approx(float(theirs), rel=1e-12)
    assert value(cosine, STUDENT, TEACHER) == pytest.approx(cosine_by_hand(STUDENT, TEACHER), rel=1e-12)
    expected = differences(lambda x: cosine_by_hand(x, TEACHER), STUDENT)
    np.testing.assert_allclose(gradient(cosine, STUDENT, TEACHER), expected, atol=1e-9)


@given(st.floats(0.01, 100))
def test_cosine_does_not_see_lengths(scale: float) -> None:
    assert value(cosine, scale * STUDENT, TEACHER) == pytest.approx(value(cosine, STUDENT, TEACHER))
    assert value(cosine, -scale * TEACHER, TEACHER) == pytest.approx(2)
    assert (gradient(cosine, scale * STUDENT, TEACHER) * STUDENT).sum(1) == pytest.approx(0, abs=1e-9)


LOGIT_CASES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    name: lambda x, y, name=name: configured(loss=name)(x, y, torched(LABELS)[0][: len(x)]) for name in LOGIT_LOSSES
}


@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_the_teachers_own_logits_cost_nothing_and_pull_nowhere(name: str) -> None:
    assert value(LOGIT_CASES[name], TEACHER, TEACHER) == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(gradient(LOGIT_CASES[name], TEACHER, TEACHER), 0, atol=1e-7)


@pytest.mark.parametrize("name", ["kd", "dkd", "dist", "ls"])
@given(shift=st.floats(-50, 50))
def test_a_shift_of_logits_does_not_matter(name: str, shift: float) -> None:
    shifted = value(LOGIT_CASES[name], STUDENT + shift, TEACHER - shift)
    assert shifted == pytest.approx(value(LOGIT_CASES[name], STUDENT, TEACHER), rel=1e-6)


@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_the_order_of_a_batch_does_not_matter_and_its_size_is_averaged(name: str) -> None:
    term = configured(loss=name)
    once = float(term(*torched(STUDENT, TEACHER, LABELS)))
    order = RNG.permutation(16)
    assert float(term(*torched(STUDENT[order], TEACHER[order], LABELS[order]))) == pytest.approx(once)
    twice = [np.concatenate([x, x]) for x in (STUDENT, TEACHER, LABELS)]
    assert float(term(*torched(*twice))) == pytest.approx(once)


@pytest.mark.parametrize("name", ["kd", "dkd", "dist", "ls"])
def test_the_temperature_does_not_set_the_scale(name: str) -> None:
    """Without T^2, gradients at T = 1000 would be a hundredth of those at T = 100."""
    (labels,) = torched(LABELS)
    sizes = []
    for t in (100.0, 1000.0):
        term = configured(loss=name, temperature=t)
        sizes.append(np.abs(gradient(term, STUDENT, TEACHER, labels)).max())
    if name == "dist":  # a correlation does not shrink with T, so its factor does not cancel
        assert sizes[1] / sizes[0] == pytest.approx(100, rel=0.05)
    else:
        assert sizes[1] == pytest.approx(sizes[0], rel=0.05)


def test_the_tables_hold_every_loss_of_the_configuration() -> None:
    assert (tuple(CLASS_TERMS), tuple(VALUE_TERMS)) == (CLASS_LOSSES, VALUE_LOSSES)
    assert set(CLASS_LOSSES) | set(VALUE_LOSSES) == set(LOGIT_LOSSES)
    assert tuple(FEATURE_TERMS) == FEATURE_LOSSES


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"temperature": 3.0}, kd_by_hand(STUDENT, TEACHER, 3)),
        ({"temperature": 3.0, "standardize": True}, ls_by_hand(STUDENT, TEACHER, 3)),
        ({"temperature": 3.0, "loss": "ls"}, ls_by_hand(STUDENT, TEACHER, 3)),
        ({"temperature": 3.0, "loss": "dist"}, dist_by_hand(STUDENT, TEACHER, 3)),
        ({"temperature": 3.0, "loss": "dkd", "dkd_beta": 8.0}, dkd_by_hand(STUDENT, TEACHER, 3, 1, 8)),
        (
            {"temperature": 3.0, "loss": "dkd", "standardize": True, "dkd_alpha": 0.5},
            dkd_by_hand(zscore(STUDENT, 1, ddof=1), zscore(TEACHER, 1, ddof=1), 3, 0.5, 2),
        ),
        ({"loss": "mse"}, ((STUDENT - TEACHER) ** 2).mean()),
    ],
)
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_configured_loss_weighs_labels_and_teacher(keys: dict, expected: float, weight: float) -> None:
    student, teacher, labels = torched(STUDENT, TEACHER, LABELS)
    plan = DistillConfig(hard_weight=weight, label_smoothing=0.1, **keys)
    hard = functional.cross_entropy(student, labels, label_smoothing=0.1)
    got = distillation_loss(plan)(student, batch_of(student, labels, teacher))
    assert float(got) == pytest.approx(weight * float(hard) + (1 - weight) * expected, rel=1e-6)


PARTNERS, SHARE = RNG.integers(0, 10, 16), RNG.random(16)


def mixed(student: torch.Tensor, labels: Array, partners: Array, teacher: torch.Tensor | None = None) -> Batch:
    ours, theirs, share = torched(labels, partners, SHARE)
    return batch_of(student, ours, teacher, partner_labels=theirs, share=share)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_mixed_input_has_both_labels_by_their_shares(smoothing: float) -> None:
    """As torch's own cross-entropy with probabilities for labels has it."""
    (student,) = torched(STUDENT)
    shares = SHARE[:, None] * np.eye(10)[LABELS] + (1 - SHARE[:, None]) * np.eye(10)[PARTNERS]
    expected = functional.cross_entropy(student, *torched(shares), label_smoothing=smoothing)
    got = find_task("classification").label_loss(TrainingConfig(label_smoothing=smoothing))(
        student, mixed(student, LABELS, PARTNERS)
    )
    assert float(got) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_mixing_a_sample_with_its_like_changes_nothing(name: str) -> None:
    plan = DistillConfig(loss=name, hard_weight=0.3)
    student, teacher, labels = torched(STUDENT, TEACHER, LABELS)
    plain = distillation_loss(plan)(student, batch_of(student, labels, teacher))
    assert float(distillation_loss(plan)(student, mixed(student, LABELS, LABELS, teacher))) == pytest.approx(
        float(plain)
    )


def test_dkd_decouples_a_mixed_input_by_either_class() -> None:
    student, teacher = torched(STUDENT, TEACHER)
    got = on_logits(DistillConfig(loss="dkd"))(student, mixed(student, LABELS, PARTNERS, teacher))
    each = [
        share * value(dkd, s[None], z[None], torch.tensor([a]), 4.0, 1.0, 2.0)
        + (1 - share) * value(dkd, s[None], z[None], torch.tensor([b]), 4.0, 1.0, 2.0)
        for s, z, a, b, share in zip(STUDENT, TEACHER, LABELS, PARTNERS, SHARE, strict=True)
    ]
    assert float(got) == pytest.approx(np.mean(each), rel=1e-9)


@pytest.mark.parametrize(("name", "by_hand"), [("mse", lambda a, b: ((a - b) ** 2).mean()), ("cosine", cosine_by_hand)])
def test_values_mix_as_inputs_do(name: str, by_hand: Callable[[Array, Array], float]) -> None:
    (student,) = torched(STUDENT)
    values, others = RNG.normal(size=(2, 16, 10))
    expected = by_hand(STUDENT, SHARE[:, None] * values + (1 - SHARE[:, None]) * others)
    got = find_task("embedding").label_loss(DistillConfig(loss=name))(student, mixed(student, values, others))
    assert float(got) == pytest.approx(expected, rel=1e-9)
    plain = find_task("regression").label_loss(TrainingConfig())
    assert float(plain(student, batch_of(student, torched(values)[0], None))) == pytest.approx(
        ((STUDENT - values) ** 2).mean()
    )
