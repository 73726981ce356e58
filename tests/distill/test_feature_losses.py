"""Each loss on features against its paper's definition in plain numpy, value and gradient, and what must hold of it anyhow."""

import itertools

import numpy as np
import pytest

from edgedistill.config.training import FEATURE_LOSSES, DistillConfig
from edgedistill.losses.terms import FEATURE_TERMS, at, hint, rkd
from tests.support.gradients import differences, gradient, value

Array = np.ndarray
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(5, 6, 4, 4)), RNG.normal(size=(5, 6, 4, 4))


def attention(feature: Array) -> Array:
    maps = (feature**2).sum(1).reshape(len(feature), -1)
    return maps / np.linalg.norm(maps, axis=1, keepdims=True)


def at_by_hand(student: Array, teacher: Array) -> float:
    return float(((attention(student) - attention(teacher)) ** 2).sum(1).mean())


def huber(a: float, b: float) -> float:
    return 0.5 * (a - b) ** 2 if abs(a - b) <= 1 else abs(a - b) - 0.5


def rkd_by_hand(student: Array, teacher: Array) -> float:
    """Park et al. 2019, equations 5 to 9, in loops."""
    count = len(student)
    pairs = [(i, j) for i in range(count) for j in range(count)]

    def relations(x: Array) -> tuple[dict, dict]:
        distance = {(i, j): float(np.linalg.norm(x[i] - x[j])) for i, j in pairs}
        mean = np.mean([distance[i, j] for i, j in pairs if i != j])
        angle = {}
        for i, j, k in itertools.product(range(count), repeat=3):
            a, b = x[i] - x[j], x[k] - x[j]
            angle[i, j, k] = 0.0 if j in (i, k) else float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
        return {pair: found / mean for pair, found in distance.items()}, angle

    ours, theirs = relations(student), relations(teacher)
    distances, angles = (np.mean([huber(s[key], t[key]) for key in t]) for s, t in zip(ours, theirs, strict=True))
    return float(25 * distances + 50 * angles)


def test_at_is_the_distance_of_normalised_maps() -> None:
    assert value(at, *FEATURES) == pytest.approx(at_by_hand(*FEATURES), rel=1e-12)
    expected = differences(lambda x: at_by_hand(x, FEATURES[1]), FEATURES[0])
    np.testing.assert_allclose(gradient(at, *FEATURES), expected, atol=1e-9)


def test_at_does_not_see_the_scale_of_a_feature_nor_the_order_of_its_channels() -> None:
    student, teacher = FEATURES
    assert value(at, 7 * student[:, ::-1], teacher) == pytest.approx(value(at, student, teacher))
    assert value(at, np.concatenate([teacher, teacher], 1), teacher) == pytest.approx(0, abs=1e-15)


def test_rkd_is_the_definition() -> None:
    student, teacher = RNG.normal(size=(6, 3)), RNG.normal(0, 5, (6, 8))
    assert value(rkd, student, teacher) == pytest.approx(rkd_by_hand(student, teacher), rel=1e-9)
    expected = differences(lambda x: rkd_by_hand(x, teacher), student)
    np.testing.assert_allclose(gradient(rkd, student, teacher), expected, atol=1e-7)


def test_rkd_sees_relations_alone_and_averages_positions() -> None:
    student, teacher = FEATURES
    turned = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
    moved = 3 * np.einsum("bchw,cd->bdhw", teacher, turned) + 2
    assert value(rkd, moved, teacher) == pytest.approx(0, abs=1e-9)
    assert value(rkd, student, teacher) == pytest.approx(rkd_by_hand(student.mean((2, 3)), teacher.mean((2, 3))))


def test_rkd_of_samples_that_are_alike_has_a_gradient() -> None:
    student, teacher = np.zeros((4, 3)), RNG.normal(size=(4, 3))
    student[3] = 1
    got = gradient(rkd, student, teacher)
    assert np.isfinite(got).all()
    assert np.abs(got).max() < 1000
    assert np.isfinite(gradient(rkd, np.zeros((4, 3)), teacher)).all()
    assert value(rkd, student[:1], teacher[:1]) == 0


def test_hint_is_the_mean_square() -> None:
    student, teacher = FEATURES
    assert value(hint, student, teacher) == pytest.approx(((student - teacher) ** 2).mean(), rel=1e-12)
    np.testing.assert_allclose(gradient(hint, student, teacher), 2 * (student - teacher) / student.size, atol=1e-15)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_features_of_other_sizes_meet_at_the_smaller(axes: int) -> None:
    large, small = RNG.normal(size=(5, 6, *(4,) * axes)), RNG.normal(size=(5, 6, *(2,) * axes))
    pooled = large.reshape(5, 6, *(2, 2) * axes).mean(tuple(range(3, 3 + 2 * axes, 2)))
    assert value(hint, large, small) == pytest.approx(((pooled - small) ** 2).mean())
    assert value(hint, small, large) == pytest.approx(((pooled - small) ** 2).mean())
    assert value(at, np.repeat(small, 2, 2), small) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("name", FEATURE_LOSSES)
def test_feature_losses_of_the_teachers_own_features_are_nothing_and_batches_are_averaged(name: str) -> None:
    term, (student, teacher) = FEATURE_TERMS[name], FEATURES
    own = {"relation_heads": 3} if name == "relations" else {}
    rest = DistillConfig(loss=name, temperature=2.0, views=0, student_layers=("a",), teacher_layers=("b",), **own), None
    assert value(term, teacher, teacher, *rest) == pytest.approx(0, abs=1e-12)
    order = RNG.permutation(5)
    assert value(term, student[order], teacher[order], *rest) == pytest.approx(value(term, student, teacher, *rest))
    if name != "rkd":  # a batch twice over has pairs at no distance, which the mean of distances counts
        twice = [np.concatenate([x, x]) for x in FEATURES]
        assert value(term, *twice, *rest) == pytest.approx(value(term, student, teacher, *rest))
