import math

import extra
import numpy as np
import pytest
import scipy.stats
import stats
from constants import LATENCY

RNG = np.random.default_rng(0)


def samples(count, preempted=0, centre=1e6):
    latency = RNG.normal(centre, centre / 100, count).astype(np.int64)
    latency[:preempted] *= 50
    return stats.Samples(latency, np.arange(count) < preempted)


@pytest.mark.parametrize("degrees", [1, 2, 4, 9, 30, 31, 60, 500])
def test_t_table_is_scipys(degrees):
    assert stats.t975(degrees) == pytest.approx(scipy.stats.t.ppf(0.975, degrees), rel=2e-4)


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (10, 10), (174, 200), (7548, 10000)])
def test_wilson_interval_is_scipys(hits, n):
    expected = scipy.stats.binomtest(hits, n).proportion_ci(0.95, "wilson")
    assert stats.wilson(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


@pytest.mark.parametrize(("fraction", "fewest"), [(0.5, 6), (0.9, 36), (0.95, 72), (0.99, 368)])
def test_fewest_samples_are_those_whose_extremes_bound_a_percentile(fraction, fewest):
    assert stats.min_samples(fraction) == fewest
    above = 1 - scipy.stats.binom.cdf(fewest - 1, fewest, fraction)  # all samples lie below the percentile
    assert above <= 0.025 < 1 - scipy.stats.binom.cdf(fewest - 2, fewest - 1, fraction)


def test_interval_over_processes_is_scipys_on_a_log_scale():
    values = [100.0, 103.0, 98.0, 110.0, 101.0]
    low, high = scipy.stats.t.interval(0.95, 4, np.log(values).mean(), scipy.stats.sem(np.log(values)))
    assert stats.log_interval(values) == pytest.approx((math.exp(low), math.exp(high)), rel=1e-4)
    assert stats.log_interval(values[:2]) is None


def test_interval_covers_the_true_value_as_often_as_it_says():
    rng = np.random.default_rng(3)
    hits = sum(
        low <= 1.0 <= high for low, high in (stats.log_interval(np.exp(rng.normal(0, 0.1, 5))) for _ in range(2000))
    )
    assert 0.93 <= hits / 2000 <= 0.97


def test_percentiles_are_medians_over_processes_of_clean_samples():
    runs = [samples(1000, preempted=20, centre=1e6 * (1 + i / 100)) for i in range(5)]
    latency, contaminated, reasons = stats.latency_summary(runs)
    assert latency["p99"] == np.median([np.quantile(run.clean, 0.99) for run in runs])
    assert latency["n"] == 5 * 980
    assert latency["ci95"]["p50"][0] < latency["p50"] < latency["ci95"]["p50"][1]
    assert not contaminated
    assert reasons == {}


def test_a_percentile_that_the_samples_cannot_bound_is_missing_with_the_reason():
    latency, _, reasons = stats.latency_summary([samples(60) for _ in range(3)])
    assert latency["p90"] is not None
    assert latency["p95"] is None
    assert latency["ci95"]["p99"] is None
    assert "needs 72 samples" in reasons["latency_ns.p95"]
    assert "the shortest process has 60" in reasons["latency_ns.p99"]


def test_one_short_process_does_not_take_a_percentile_from_the_others():
    latency, _, reasons = stats.latency_summary([samples(500), samples(500), samples(500), samples(50)])
    assert latency["p99"] is not None
    assert "latency_ns.p99" not in reasons


def test_too_few_clean_samples_fall_back_on_all_and_say_so():
    latency, contaminated, reasons = stats.latency_summary([samples(60, preempted=55) for _ in range(3)])
    assert latency["n"] == 180
    assert contaminated
    assert "only 15 of 180" in reasons["latency_ns"]
    assert "165 of 180" in reasons["contaminated"]


def test_a_process_without_clean_samples_is_left_out_of_the_figures():
    latency, _, _ = stats.latency_summary([samples(100), samples(100), samples(10, preempted=10)])
    assert latency["n"] == 200
    assert latency["p50"] < 1.1e6


def test_two_processes_give_no_interval():
    latency, _, reasons = stats.latency_summary([samples(500), samples(500)])
    assert latency["ci95"] == dict.fromkeys(["p50", "p90", "p95", "p99", "mean"])
    assert "needs at least 3 processes" in reasons["latency_ns.ci95"]


@pytest.mark.parametrize("fraction", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [6, 36, 72, 368, 1000, 20_011, 2_000_000])
def test_ranks_are_the_binomial_quantiles(n, fraction):
    low, high = stats.ranks(n, fraction)
    assert low == scipy.stats.binom.ppf(0.025, n, fraction)
    assert high == scipy.stats.binom.ppf(0.975, n, fraction) + 1
    if n >= stats.min_samples(fraction):
        assert 1 <= low <= high <= n


def test_order_statistics_cover_the_true_percentile_as_often_as_they_say():
    rng = np.random.default_rng(4)
    truth = {name: float(scipy.stats.expon.ppf(fraction)) for name, fraction in LATENCY.percentiles.items()}
    hits = dict.fromkeys(truth, 0)
    for _ in range(1000):
        _, intervals = stats.order_statistics(rng.exponential(size=500))
        for name, (low, high) in intervals.items():
            hits[name] += low <= truth[name] <= high
    assert all(0.93 <= count / 1000 <= 0.99 for count in hits.values()), hits


def test_a_process_too_short_for_a_percentile_has_none():
    percentiles, intervals = stats.order_statistics(RNG.normal(100, 1, 40))
    assert percentiles["p90"] is not None
    assert intervals["p90"] is not None
    assert percentiles["p95"] is percentiles["p99"] is intervals["p95"] is intervals["p99"] is None
    assert stats.order_statistics(np.array([5.0]))[0]["p50"] is None


def test_drift_is_the_last_third_over_the_first():
    rising = np.concatenate([np.full(100, 10), np.full(100, 11), np.full(100, 12)])
    assert stats.drift(stats.Samples(rising, np.zeros(300, bool))) == 1.2
    assert stats.drift(stats.Samples(rising, np.arange(300) < 220)) is None


def test_drift_and_busy_neighbours_are_doubts_in_words():
    quiet = {"siblings_busy": 0.0, "stolen": None}
    latency = np.repeat([1000, 1000, 890], 100)
    steady, drifting = (stats.Samples(each, np.zeros(300, bool)) for each in (np.full(300, 1000), latency))
    assert extra.disturbances([quiet], [drifting]) == {
        "drift": "latency drifted in 1 of 1 processes: the last third ran at 0.89x the first third"
    }
    found = extra.disturbances([quiet, {"siblings_busy": 0.5, "stolen": 0.1}], [steady, steady])
    assert found == {
        "siblings": "the sibling hardware thread of a timed core was busy for up to 50% of the time",
        "stolen": "the host of this virtual machine took up to 10% of the CPU's time",
    }
