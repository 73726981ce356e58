"""What validation samples can tell about a drop: it holds, it exceeds the limit, or more samples are needed."""

import numpy as np
import pytest
from scipy import stats

from edgedistill.quantize.drops import Judge
from edgedistill.tasks.paired import paired_drop_of
from edgedistill.tasks.table import find_task


def judged(n: int, only_float: int, only_int8: int, *, wrong: int = 0, limit: float = 0.5):
    """Judge two classifiers of `n` samples: the samples that only one gets right, and those that both get wrong."""
    labels = np.arange(n) % 5
    right = np.eye(5, dtype=np.float32)[labels]
    floats, int8 = right.copy(), right.copy()
    off = lambda rows: np.roll(right[rows], 1, axis=1)  # noqa: E731 - the scores of another class
    int8[:only_float] = off(slice(only_float))
    floats[only_float : only_float + only_int8] = off(slice(only_float, only_float + only_int8))
    floats[n - wrong :] = int8[n - wrong :] = off(slice(n - wrong, n))
    judge = Judge(find_task("classification"), floats, labels, limit)
    drop = judge.drop_of(int8)
    return drop, judge.accepts(drop)


def test_half_a_point_of_120_samples_is_less_than_one_sample():
    drop, accepted = judged(120, 1, 0, wrong=20)
    assert drop.points == pytest.approx(100 / 120)
    assert (drop.verdict, drop.samples, accepted) == ("cannot tell", 120, True)
    assert "120 samples cannot tell whether that is within max_drop 0.5, about" in drop.describe(0.5)
    assert not judged(120, 2, 0, wrong=20)[1], "two samples are more than a limit of half a point"


@pytest.mark.parametrize(
    ("counts", "limit", "verdict", "accepted"),
    [
        ((5000, 10, 10), 0.5, "holds", True),
        ((5000, 60, 50), 0.5, "cannot tell", True),
        ((5000, 80, 50), 0.5, "cannot tell", False),
        ((5000, 90, 30), 0.5, "exceeds", False),
        ((300, 0, 0), 0.5, "cannot tell", True),
        ((2000, 0, 0), 0.5, "holds", True),
    ],
)
def test_the_verdict_is_what_the_interval_shows_and_the_measured_drop_decides(counts, limit, verdict, accepted):
    drop, accepts = judged(*counts, wrong=counts[0] // 10, limit=limit)
    assert (drop.verdict, accepts) == (verdict, accepted)
    assert (drop.needed is None) == (verdict != "cannot tell")


def test_as_many_samples_as_are_named_would_tell():
    drop, _ = judged(500, 4, 3, wrong=50)
    assert drop.needed > 500
    factor = -(-drop.needed // 500) + 1
    assert judged(500 * factor, 4 * factor, 3 * factor, wrong=50 * factor)[0].verdict == "holds"
    at_the_limit, _ = judged(1000, 5, 0)
    assert at_the_limit.needed is None
    assert "no number of samples would" in at_the_limit.describe(0.5)


@pytest.mark.parametrize("samples", [1, 7, 400])
def test_another_metric_has_an_interval_of_the_same_samples(samples):
    rng = np.random.default_rng(0)
    labels = rng.normal(size=(samples, 2)).astype(np.float32)
    floats = labels + rng.normal(0, 0.3, labels.shape)
    judge = Judge(find_task("regression"), floats, labels, 0.5)
    same, worse = judge.drop_of(floats), judge.drop_of(floats + rng.normal(0, 0.6, labels.shape))
    assert same.points == 0
    if samples == 400:
        assert (same.interval, same.verdict) == ((0, 0), "holds")
        assert (worse.verdict, judge.accepts(worse)) == ("exceeds", False)
        assert worse.interval[0] < worse.points < worse.interval[1]


def test_the_interval_of_pairs_of_sentences_has_the_width_of_the_drops_that_vary() -> None:
    task, rng, drops, errors = find_task("sentence-embedding"), np.random.default_rng(0), [], []
    for _ in range(60):
        vectors = rng.normal(size=(300, 8))
        vectors[1::2] += vectors[::2] * rng.uniform(0, 3, (150, 1))
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        scores = (unit[::2] * unit[1::2]).sum(1) + rng.normal(0, 0.2, 150)
        labels = np.stack([np.arange(300) // 2, np.repeat(scores, 2)], 1)
        noisy = vectors + rng.normal(0, 0.5, vectors.shape)
        found = paired_drop_of(task, vectors, noisy, labels)
        drops.append(found.points)
        errors.append((found.interval[1] - found.points) / stats.t.ppf(0.975, 19))
    assert 0.75 < np.mean(errors) / np.std(drops) < 1.25
    assert Judge(task, vectors, labels, 0.5).drop_of(noisy).samples == 150
