"""Chance: what is noticed, and what is not taken for chance."""

import numpy as np
import pytest

from edgedistill.tasks.chance import chance_of, find_problem, is_constant
from edgedistill.tasks.table import find_task

RNG = np.random.default_rng(0)
CLASSES, VALUES = RNG.integers(0, 10, 300), RNG.normal(size=(300, 3))
LABELS = {
    "classification": CLASSES, "regression": VALUES, "embedding": VALUES + 2,
    "multi-label": (VALUES > 0.5).astype(np.float32),
}  # fmt: skip
SIGNAL = {name: np.eye(10)[CLASSES] if name == "classification" else labels for name, labels in LABELS.items()}


@pytest.mark.parametrize("name", LABELS)
def test_noise_is_chance_and_a_weak_model_is_not(name: str) -> None:
    task, labels, signal = find_task(name), LABELS[name], SIGNAL[name]
    noise = np.random.default_rng(1).normal(size=signal.shape)
    problem = find_problem(task, noise, labels)
    assert problem is not None
    assert problem.kind == "chance"
    assert problem.text.startswith(f"is no better than chance: {task.metric_title} ")
    weak = (signal + noise) / (2 if name == "regression" else 1)  # a regression model shrinks what it is unsure of
    assert find_problem(task, weak, labels) is None
    assert find_problem(task, np.tile(noise[:1], (300, 1)), labels).kind == "constant"
    noise[7, 1] = np.nan
    assert find_problem(task, noise, labels).text == "gives NaN or infinity for 0.3% of 300 samples"


def test_permuted_classes_are_below_chance() -> None:
    task = find_task("classification")
    assert find_problem(task, np.eye(10)[(CLASSES + 1) % 10], CLASSES).kind == "chance"
    assert find_problem(task, np.eye(10)[(CLASSES + 1) % 10], None) is None  # no labels, nothing to judge


def test_a_model_of_a_rare_class_is_not_at_chance_though_its_accuracy_is_that_of_the_frequent_class() -> None:
    task, labels = find_task("classification"), (np.arange(400) < 20).astype(np.int64)
    finds_half = np.where(np.arange(400) < 10, 1, 0)
    finds_half[-10:] = 1  # as many false alarms
    assert task.score(np.eye(2)[finds_half], labels) == 0.95 == task.score(np.eye(2)[0 * labels], labels)
    assert find_problem(task, np.eye(2)[finds_half], labels) is None
    answers = np.eye(2)[0 * labels] + 0.1 * np.random.default_rng(0).uniform(size=(400, 2))
    assert find_problem(task, answers, labels).kind == "chance"


def test_regression_worse_than_the_mean_is_chance_however_well_it_correlates() -> None:
    assert find_problem(find_task("regression"), VALUES + 5, VALUES).kind == "chance"


def test_small_sets_give_no_alarm() -> None:
    task, good = find_task("classification"), 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, 50)
        answers = np.where(rng.random(50) < 0.75, labels, 1 - labels)  # a model of 75 %
        good += find_problem(task, np.eye(2)[answers] + 1e-3 * rng.random((50, 2)), labels) is None
    assert good >= 99
    assert chance_of(task, np.eye(2)[[0, 1]], np.array([0, 1])) is None
    assert chance_of(task, np.eye(2)[np.arange(40) % 2], np.zeros(40, np.int64)) is None


def test_constant_means_up_to_rounding_and_never_one_sample() -> None:
    value = RNG.normal(size=(1, 4, 5)).astype(np.float32)
    same = np.repeat(value, 8, 0)
    assert is_constant(same)
    assert is_constant(np.nextafter(same, np.float32(10)) * (np.arange(8) % 2)[:, None, None] + same * (np.arange(8) % 2 == 0)[:, None, None])  # fmt: skip
    assert is_constant(np.zeros((8, 3)))
    assert not is_constant(same[:1])
    same[3, 2, 1] += 1e-3
    assert not is_constant(same)
    assert not is_constant(1e6 + np.arange(8.0)[:, None])  # a large offset is no constant
