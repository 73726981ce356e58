"""Speedups and accuracy drops with their 95 % intervals: is a difference real?

The sample is the process: all inferences in one process share its memory layout, clock and neighbours, so their number does not
say how much a second process would differ. Intervals of latency are therefore computed from one value per fresh process: the
ratio to the process that it took turns with, where two models were measured together (a duet), else its p50.

Other work on a machine sometimes slows a whole process by 10 to 50 %. In a simulation with one such process in ten and five
processes per side, Welch's interval detects a model that is 5 % slower in 6 of 10 comparisons. Without the fastest and slowest fifth
of each side, the interval detects it in 9 of 10. Without slowed processes both always detect it, and neither reports a difference
that does not exist more often than its confidence allows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from edgedistill.records.base import Record
from edgedistill.records.measurement import Accuracy, Measurement
from edgedistill.records.quantize_steps import LimitVerdict

NOISE_FLOOR = 0.03
"""The smallest relative difference that is reported as real; two measurements of one model may differ by as much."""

DUET_NOISE = 0.005
"""The same for models that took turns: beyond it, two files of one model may differ by where the linker and loader put them."""

SAME_SPEED = 0.1
"""Two models are said not to differ in speed only if the whole interval is within this relative difference."""

SAME_POINTS = 1.0
"""Two models are said not to differ in accuracy only if the whole interval is within these percentage points."""

MINIMUM_PROCESSES = 3
"""With fewer processes, the variance of their p50s cannot be estimated."""

TRIM = 0.2
"""The fraction of processes that is left out at each end, rounded down: one of five, none of four."""

MOST_SAMPLES = 10_000_000
"""No larger number of samples is named: with so many, two models differ less than a limit is exact."""

SpeedVerdict = Literal["faster", "slower", "no difference seen", "cannot tell"]
AccuracyVerdict = Literal["lower", "higher", "no difference seen", "cannot tell"]


class Speedup(Record):
    """Baseline latency divided by candidate latency; above 1 the candidate is faster.

    The verdict is "cannot tell" if there is no interval, or if it includes both no difference and one beyond SAME_SPEED.
    In a duet, `value` is the geometric mean of the ratios of processes that took turns. Otherwise it is the ratio of p50s, both
    trimmed geometric means over processes.
    """

    value: float
    ci95: tuple[float, float] | None
    verdict: SpeedVerdict
    processes: tuple[int, int]
    duet: bool = False


class AccuracyDrop(Record):
    """Baseline accuracy minus candidate accuracy, in percentage points; above 0 the candidate is less accurate.

    `paired`: the interval uses the answers of both models to the same samples; otherwise it treats the two as independent.
    When paired by correct answers, `only_baseline` and `only_candidate` count the samples that only one model classified correctly, and `p_value`
    is that of McNemar's exact test.
    """

    points: float
    ci95_points: tuple[float, float]
    verdict: AccuracyVerdict
    paired: bool
    only_baseline: int | None = None
    only_candidate: int | None = None
    p_value: float | None = None


class Pairs(NamedTuple):
    """Two models on the same samples: the number of samples that both, one of them, or neither classified correctly."""

    both: float
    only_baseline: float
    only_candidate: float
    neither: float

    @classmethod
    def of(cls, baseline: np.ndarray, candidate: np.ndarray) -> Pairs:
        """Count from boolean arrays (samples,): which samples each model classified correctly."""
        return cls(
            int((baseline & candidate).sum()), int((baseline & ~candidate).sum()),
            int((~baseline & candidate).sum()), int((~baseline & ~candidate).sum()),
        )  # fmt: skip

    def scaled(self, n: int) -> Pairs:
        """Return the counts of `n` samples with the same shares."""
        return Pairs(*(count * n / sum(self) for count in self))


class ClassDrop(Record):
    """One class, or one slice of the data: `baseline` and `candidate` are the fractions of its `n` test samples that each model classified correctly.

    For boxes they are the fractions of `n` boxes that each found, for masks the IoU of a class that `n` pictures show. `points` is how
    many percentage points lower the candidate is. The intervals of all classes hold jointly with 95 % confidence (Bonferroni),
    because a reader looks for the worst class.
    """

    name: str
    n: int
    baseline: float
    candidate: float
    points: float
    ci95_points: tuple[float, float]


def speedup(baseline: Measurement, candidate: Measurement) -> Speedup:
    """Compare two measurements by their ratios in each set of processes that took turns, else by the p50s of their processes."""
    ratios = duet_ratios(baseline, candidate)
    if ratios:
        return speedup_of_ratios(ratios)
    before = [process.p50_ns for process in baseline.processes]
    after = [process.p50_ns for process in candidate.processes]
    return speedup_of(before, after)


def duet_ratios(baseline: Measurement, candidate: Measurement) -> tuple[float, ...]:
    """Return baseline latency over candidate latency in each set of processes that took turns; empty if they took none."""
    one, other = baseline.duet, candidate.duet
    if one is None or other is None or one.id != other.id:
        return ()
    return tuple(ratio for ratio in one.ratios.get(other.arm, ()) if ratio is not None)


def speedup_of_ratios(ratios: Sequence[float]) -> Speedup:
    """Return the geometric mean of ratios with Student's interval of their logarithms; no interval below three ratios."""
    logs = np.log(np.asarray(ratios))
    mean, interval = float(logs.mean()), None
    if len(logs) >= MINIMUM_PROCESSES:
        margin = float(stats.t.ppf(0.975, len(logs) - 1)) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
        interval = mean - margin, mean + margin
    return Speedup(
        value=math.exp(mean), ci95=None if interval is None else (math.exp(interval[0]), math.exp(interval[1])),
        verdict=_speed_verdict(mean, interval, DUET_NOISE), processes=(len(logs), len(logs)), duet=True,
    )  # fmt: skip


def speedup_of(baseline_p50s: Sequence[float], candidate_p50s: Sequence[float]) -> Speedup:
    """Compare per-process p50s by Yuen's interval (1974) of trimmed means of their logarithms.

    With fewer than five processes nothing is trimmed, and the interval is Welch's.
    """
    before, after = np.sort(np.log(np.asarray(baseline_p50s))), np.sort(np.log(np.asarray(candidate_p50s)))
    difference = float(_trimmed(before).mean() - _trimmed(after).mean())
    interval = _yuen(before, after, difference) if min(len(before), len(after)) >= MINIMUM_PROCESSES else None
    ci95 = None if interval is None else (math.exp(interval[0]), math.exp(interval[1]))
    return Speedup(
        value=math.exp(difference),
        ci95=ci95,
        verdict=_speed_verdict(difference, interval),
        processes=(len(before), len(after)),
    )


def difference_of(baseline: Sequence[float], candidate: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Return the candidate's trimmed mean minus the baseline's, and Yuen's interval; needs three values per side."""
    before, after = np.sort(np.asarray(baseline, dtype=float)), np.sort(np.asarray(candidate, dtype=float))
    difference = float(_trimmed(after).mean() - _trimmed(before).mean())
    return difference, _yuen(before, after, difference)


def ratio_of_means(tops: np.ndarray, bottoms: np.ndarray) -> tuple[float, tuple[float, float] | None]:
    """Return the mean of `tops` over that of `bottoms`, both (N,) and paired, with its interval; None for fewer than three pairs.

    The interval is Student's with the standard error of a ratio estimator (Cochran 1977); the mean of `bottoms` is not 0.
    """
    value, bottom = float(tops.mean() / bottoms.mean()), abs(float(bottoms.mean()))
    if len(tops) < MINIMUM_PROCESSES:
        return value, None
    error = float((tops - value * bottoms).std(ddof=1)) / math.sqrt(len(tops)) / bottom
    margin = float(stats.t.ppf(0.975, len(tops) - 1)) * error
    return value, (value - margin, value + margin)


def level_of(values: Sequence[float] | np.ndarray) -> tuple[float, float, float] | None:
    """Return the trimmed geometric mean and its interval (Tukey and McLaughlin 1963); None for fewer than three values."""
    if len(values) < MINIMUM_PROCESSES:
        return None
    ordered = np.sort(np.log(np.asarray(values)))
    kept = _trimmed(ordered)
    margin = float(stats.t.ppf(0.975, len(kept) - 1)) * math.sqrt(_trimmed_variance(ordered))
    mean = float(kept.mean())
    return math.exp(mean), math.exp(mean - margin), math.exp(mean + margin)


def _trimmed(ordered: np.ndarray) -> np.ndarray:
    cut = int(TRIM * len(ordered))
    return ordered[cut : len(ordered) - cut]


def _yuen(before: np.ndarray, after: np.ndarray, difference: float) -> tuple[float, float]:
    sizes = len(_trimmed(before)), len(_trimmed(after))
    parts = _trimmed_variance(before), _trimmed_variance(after)
    error = math.sqrt(sum(parts))
    if error == 0:
        return difference, difference
    freedom = sum(parts) ** 2 / sum(part**2 / (size - 1) for part, size in zip(parts, sizes, strict=True))
    margin = float(stats.t.ppf(0.975, freedom)) * error
    return difference - margin, difference + margin


def _trimmed_variance(ordered: np.ndarray) -> float:
    """Return the variance of a trimmed mean, computed from the winsorized values."""
    kept = _trimmed(ordered)
    drawn_in = np.clip(ordered, kept[0], kept[-1])
    return float(drawn_in.var(ddof=1)) * (len(ordered) - 1) / (len(kept) * (len(kept) - 1))


def _speed_verdict(difference: float, interval: tuple[float, float] | None, noise: float = NOISE_FLOOR) -> SpeedVerdict:
    if interval is None:
        return "cannot tell"
    floor = math.log1p(noise)
    if interval[0] > 0 and difference > floor:
        return "faster"
    if interval[1] < 0 and difference < -floor:
        return "slower"
    return "no difference seen" if max(-interval[0], interval[1]) <= math.log1p(SAME_SPEED) else "cannot tell"


def _accuracy_verdict(low: float, high: float) -> AccuracyVerdict:
    """Judge a drop by its interval in percentage points."""
    if low > 0:
        return "lower"
    if high < 0:
        return "higher"
    return "no difference seen" if max(-low, high) <= SAME_POINTS else "cannot tell"


def times_more(value: float, interval: tuple[float, float], same: float) -> float:
    """Return how many times as many samples would tell whether a difference is real or smaller than `same`.

    The width of an interval falls with the square root of their number. All arguments are in one unit, a speedup as a logarithm.
    """
    half = (interval[1] - interval[0]) / 2
    return (half / max(abs(value), same - abs(value))) ** 2


def drops_by_class(
    labels: np.ndarray, baseline: np.ndarray, candidate: np.ndarray, names: Sequence[str] = ()
) -> tuple[ClassDrop, ...]:
    """Compare two models class by class, by which of the samples with these labels each classified correctly."""
    classes = [int(label) for label in np.unique(labels)]
    drops = []
    for label in classes:
        before, after = baseline[labels == label], candidate[labels == label]
        drop = paired_drop(before, after, 1 - 0.05 / len(classes))
        drops.append(
            ClassDrop(
                name=names[label] if 0 <= label < len(names) else str(label), n=len(before),
                baseline=float(before.mean()), candidate=float(after.mean()), points=drop.points,
                ci95_points=drop.ci95_points,
            )
        )  # fmt: skip
    return tuple(drops)


def worst_class(drops: Sequence[ClassDrop]) -> ClassDrop | None:
    """Return the class with the largest drop."""
    return max(drops, key=lambda drop: drop.points, default=None)


def accuracy_drop(baseline: Accuracy, candidate: Accuracy, correlation: float | None = None) -> AccuracyDrop:
    """Compare two accuracies by Newcombe's interval (1998, method 10), which combines their Wilson intervals.

    Models tested on the same samples mostly fail on the same ones; their `correlation` narrows the interval. Without it the two
    are treated as independent, which misses some real differences and rarely reports a false one.
    """
    (low_b, high_b), (low_c, high_c) = baseline.ci95, candidate.ci95
    drop, phi = baseline.value - candidate.value, correlation or 0.0
    low = drop - _combined(baseline.value - low_b, high_c - candidate.value, phi)
    high = drop + _combined(high_b - baseline.value, candidate.value - low_c, phi)
    return AccuracyDrop(
        points=100 * drop, ci95_points=(100 * low, 100 * high), verdict=_accuracy_verdict(100 * low, 100 * high),
        paired=correlation is not None,
    )  # fmt: skip


def paired_drop(baseline: np.ndarray, candidate: np.ndarray, confidence: float = 0.95) -> AccuracyDrop:
    """Compare two models on the same samples by Newcombe's paired interval and McNemar's exact test.

    `baseline` and `candidate` are boolean arrays (samples,): which samples each model classified correctly.
    """
    pairs = Pairs.of(baseline, candidate)
    only_b, only_c = int(pairs.only_baseline), int(pairs.only_candidate)
    p_value = float(stats.binomtest(only_b, only_b + only_c).pvalue) if only_b + only_c else 1.0
    drop = drop_in(pairs, len(baseline), confidence)
    counted: dict[str, object] = {"only_baseline": only_b, "only_candidate": only_c, "p_value": p_value}
    if only_b == only_c == 0:
        counted["verdict"] = "no difference seen"  # they agree on every sample, however few there are
    return drop.model_copy(update=counted)


def resampled_drop(drop: float, resampled: np.ndarray) -> AccuracyDrop:
    """Compare two models on the same samples by the percentiles of their drop (R,) in each bootstrap resample (Efron 1979)."""
    known = resampled[np.isfinite(resampled)]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (-1.0, 1.0)
    low, high = min(float(low), drop), max(float(high), drop)
    verdict = _accuracy_verdict(100 * low, 100 * high)
    return AccuracyDrop(points=100 * drop, ci95_points=(100 * low, 100 * high), verdict=verdict, paired=True)


def drop_in(pairs: Pairs, n: int, confidence: float = 0.95) -> AccuracyDrop:
    """Return the drop in counts of `n` samples, with Newcombe's paired interval (1998, method 10)."""
    before, after = pairs.both + pairs.only_baseline, pairs.both + pairs.only_candidate
    levels = wilson(before / n, n, confidence), wilson(after / n, n, confidence)
    return accuracy_drop(*levels, correctness_correlation(pairs))


def correctness_correlation(pairs: Pairs) -> float:
    """Return the correlation (phi) of two models' correct answers, with Newcombe's continuity correction."""
    both, only_b, only_c, neither = pairs
    scale = (both + only_b) * (neither + only_c) * (both + only_c) * (neither + only_b)
    if scale == 0:
        return 0.0
    cross = both * neither - only_b * only_c
    return (max(cross - sum(pairs) / 2, 0.0) if cross > 0 else cross) / math.sqrt(scale)


def limit_verdict(interval: tuple[float, float], limit: float) -> LimitVerdict:
    """Tell whether a drop is within a limit: its interval is below the limit, above it, or contains it."""
    if interval[1] <= limit:
        return "holds"
    return "exceeds" if interval[0] > limit else "cannot tell"


def samples_to_tell(pairs: Pairs, limit_points: float) -> int | None:
    """Return about how many samples would show whether a drop is within a limit, if all shares stay the same.

    None if no number up to MOST_SAMPLES would: the drop is at the limit.
    """

    def tells(n: int) -> bool:
        return limit_verdict(drop_in(pairs.scaled(n), n).ci95_points, limit_points) != "cannot tell"

    few, many = 1, max(2, round(sum(pairs)))
    while not tells(many):
        few, many = many, 2 * many
        if few > MOST_SAMPLES:
            return None
    while many - few > max(1, few // 100):
        middle = (few + many) // 2
        few, many = (few, middle) if tells(middle) else (middle, many)
    return many


def _combined(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))


def wilson(fraction: float, n: int, confidence: float = 0.95) -> Accuracy:
    """Return a fraction of `n` samples with its Wilson interval."""
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    centre = (fraction + z * z / (2 * n)) / (1 + z * z / n)
    margin = z / (1 + z * z / n) * math.sqrt(fraction * (1 - fraction) / n + z * z / (4 * n * n))
    low, high = max(0.0, min(fraction, centre - margin)), min(1.0, max(fraction, centre + margin))
    return Accuracy(metric="top1", value=fraction, ci95=(low, high), n=n)
