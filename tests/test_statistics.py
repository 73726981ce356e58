import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from edgedistill.statistics import (
    Pairs,
    accuracy_drop,
    correctness_correlation,
    ratio_of_means,
    speedup,
    speedup_of,
    wilson,
)
from tests.support.compare_builders import INT8, STUDENT, TEACHER, Fake, measurement

p50s = st.lists(st.floats(1e3, 1e9), min_size=3, max_size=12)


@pytest.mark.parametrize(
    ("before", "after", "trim"),
    [
        ([240.0, 243.0, 239.0, 251.0, 244.0], [120.0, 118.0, 125.0, 121.0, 122.0, 190.0], 0.2),
        ([240.0, 243.0, 239.0, 251.0, 244.0] * 3, [250.0, 248.0, 255.0, 251.0, 252.0, 390.0, 247.0] * 2, 0.2),
        ([240.0, 243.0, 239.0, 251.0], [120.0, 118.0, 125.0], 0.0),
    ],
)
def test_speedup_matches_scipys_interval_of_trimmed_means_on_logs(before, after, trim):
    expected = scipy_stats.ttest_ind(np.log(before), np.log(after), equal_var=False, trim=trim)
    means = [scipy_stats.trim_mean(np.log(values), trim) for values in (before, after)]
    difference = means[0] - means[1]
    margin = scipy_stats.t.ppf(0.975, expected.df) * difference / expected.statistic
    found = speedup_of(before, after)
    assert found.value == pytest.approx(math.exp(difference))
    assert found.ci95 == pytest.approx((math.exp(difference - abs(margin)), math.exp(difference + abs(margin))))
    assert found.processes == (len(before), len(after))


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ([100, 101, 99], [50, 51, 49], "faster"),
        ([50, 51, 49], [100, 101, 99], "slower"),
        ([100.0, 100.1, 99.9], [98.0, 98.1, 97.9], "no difference seen"),  # real, and below the noise floor
        ([100, 104, 97], [99, 103, 98], "no difference seen"),  # whatever the difference is, it is small
        ([100, 160, 70], [80, 130, 60], "cannot tell"),  # large, and uncertain
        ([100, 100], [50, 50, 50], "cannot tell"),
        ([100, 100, 100], [50], "cannot tell"),
        ([100, 100, 100], [50, 50, 50], "faster"),  # no spread at all is no error
    ],
)
def test_verdicts(before, after, verdict):
    found = speedup_of(before, after)
    assert found.verdict == verdict
    assert (found.ci95 is None) == (min(len(before), len(after)) < 3)


def test_one_process_that_other_work_slowed_does_not_hide_a_difference():
    found = speedup_of([227.5, 226.3, 383.6, 228.9, 227.1], [238.6, 237.9, 239.1, 237.4, 238.2])
    assert found.verdict == "slower"
    assert found.value == pytest.approx(1 / 1.046, rel=0.01)


def simulated(rng, ratio, disturbed):
    """Five processes a side, a share of which other work slows by 15 % on average."""
    sides = []
    for factor in (1.0, ratio):
        slowed = np.where(rng.random(5) < disturbed, np.exp(rng.exponential(0.15, 5)), 1)
        sides.append(factor * np.exp(rng.normal(0, 0.004, 5)) * slowed)
    return speedup_of(*sides).verdict


@pytest.mark.parametrize(("disturbed", "at_least"), [(0.0, 0.99), (0.1, 0.8)])
def test_a_model_5_percent_slower_is_found_and_the_same_one_is_not(disturbed, at_least):
    rng = np.random.default_rng(7)
    found = sum(simulated(rng, 1.05, disturbed) == "slower" for _ in range(400))
    alarms = sum(simulated(rng, 1.0, disturbed) in ("faster", "slower") for _ in range(400))
    assert found >= at_least * 400
    assert alarms <= 0.02 * 400


@settings(deadline=None)  # this machine is shared
@given(p50s)
def test_a_model_is_as_fast_as_itself(values):
    found = speedup_of(values, values)
    assert found.value == 1
    assert found.ci95[0] <= 1 <= found.ci95[1]
    assert found.verdict == ("no difference seen" if found.ci95[1] <= 1.1 else "cannot tell")


@settings(deadline=None)  # this machine is shared
@given(p50s, p50s)
def test_reversing_a_comparison_inverts_it(before, after):
    there, back = speedup_of(before, after), speedup_of(after, before)
    assert there.value * back.value == pytest.approx(1)
    assert there.ci95[0] * back.ci95[1] == pytest.approx(1)
    opposite = {"faster": "slower", "slower": "faster"}
    assert back.verdict == opposite.get(there.verdict, there.verdict)


@settings(deadline=None)  # this machine is shared
@given(p50s, st.floats(1e-3, 1e3))
def test_units_do_not_matter(values, unit):
    other = [2 * value for value in values]
    scaled = speedup_of([unit * value for value in values], [unit * value for value in other])
    assert scaled.value == pytest.approx(speedup_of(values, other).value)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_intervals_rarely_exclude_the_truth(seed):
    rng = np.random.default_rng(seed)
    pairs = [(np.exp(rng.normal(0, 0.01, 5)), np.exp(rng.normal(0, 0.02, 5))) for _ in range(200)]
    misses = sum(not low <= 1 <= high for low, high in (speedup_of(a, b).ci95 for a, b in pairs))
    assert misses < 25  # 5 % of 200 is 10; 25 is five standard deviations off


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (10, 10), (881, 1000), (1, 3), (5000, 10_000)])
def test_wilson_matches_scipy(hits, n):
    expected = scipy_stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert wilson(hits / n, n).ci95 == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_accuracy_drop_is_newcombes_published_example():
    # Newcombe 1998, table II (a): 56/70 - 48/80 = 0.2, 95 % interval of method 10: 0.0524 to 0.3339.
    drop = accuracy_drop(wilson(56 / 70, 70), wilson(48 / 80, 80))
    assert drop.points == pytest.approx(20)
    assert drop.ci95_points == pytest.approx((5.24, 33.39), abs=0.01)
    assert drop.verdict == "lower"


def right_on(*counts: int) -> tuple[np.ndarray, np.ndarray]:
    """Answers of two models: right in both, only the first, only the second, neither."""
    kinds = np.repeat([(True, True), (True, False), (False, True), (False, False)], counts, axis=0)
    return kinds[:, 0], kinds[:, 1]


def paired_drop(a: np.ndarray, b: np.ndarray):
    n = len(a)
    return accuracy_drop(wilson(a.mean(), n), wilson(b.mean(), n), correctness_correlation(Pairs.of(a, b)))


def test_paired_accuracy_drop_is_newcombes_published_example():
    # Newcombe 1998 (paired data), table III (a): 36, 12, 2, 0 of 50; 95 % interval of method 10: 0.0569 to 0.3404.
    drop = paired_drop(*right_on(36, 12, 2, 0))
    assert drop.points == pytest.approx(20)
    assert drop.ci95_points == pytest.approx((5.69, 34.04), abs=0.01)
    assert drop.paired


def test_a_model_paired_with_itself_has_hardly_any_interval():
    a, _ = right_on(900, 0, 0, 100)
    low, high = paired_drop(a, a).ci95_points
    assert -0.5 < low < 0 < high < 0.5


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_paired_intervals_rarely_exclude_the_truth(seed):
    rng = np.random.default_rng(seed)
    shares, misses = (0.85, 0.05, 0.03, 0.07), 0
    for _ in range(200):
        low, high = paired_drop(*right_on(*rng.multinomial(500, shares))).ci95_points
        misses += not low <= 2 <= high
    assert misses < 25


@settings(deadline=None)  # this machine is shared
@given(st.integers(0, 500), st.integers(0, 500))
def test_accuracy_drop_inverts(hits, others):
    there = accuracy_drop(wilson(hits / 500, 500), wilson(others / 500, 500))
    back = accuracy_drop(wilson(others / 500, 500), wilson(hits / 500, 500))
    assert there.points == pytest.approx(-back.points)
    assert there.ci95_points[0] <= there.points <= there.ci95_points[1]
    assert there.ci95_points[0] == pytest.approx(-back.ci95_points[1])


def test_speedup_of_measurements_uses_their_processes():
    found = speedup(measurement(TEACHER), measurement(INT8))
    assert found.value == pytest.approx(8.9, rel=0.05)
    assert found.processes == (5, 5)


def test_one_process_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = speedup(measurement(STUDENT), measurement(Fake(processes=1)))
    assert found.ci95 is None


def test_a_ratio_of_means_is_judged_by_what_its_pairs_leave():
    tops, bottoms = np.array([30.0, 44.0, 31.0]), np.array([40.0, 60.0, 41.0])
    value, interval = ratio_of_means(tops, bottoms)
    assert value == pytest.approx(tops.mean() / bottoms.mean())
    assert interval[0] < value < interval[1]
    assert interval[1] - interval[0] < 0.2, "the level of a pair is in both of its values"
    half = scipy_stats.sem(tops - value * bottoms) * scipy_stats.t.ppf(0.975, 2) / bottoms.mean()
    assert interval == pytest.approx((value - half, value + half))
    assert ratio_of_means(tops[:2], bottoms[:2])[1] is None
