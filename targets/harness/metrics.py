"""The metrics of a check: one output of a model against labels, or against the outputs that were recorded; 1 is perfect.

To add a metric, add one entry to METRICS. edgedistill has the same formulas on the host; these run where edgedistill is not installed.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Dict, Iterator, NamedTuple, Optional, Sequence, Tuple

import detections
import maps
import numpy as np
import stats
from constants import CHECK
from kit import EngineError

SMALLEST = 1e-6
"""The difference that rounding alone makes, as for results of a sigmoid near 0."""


class Metric(NamedTuple):
    """How outputs (N, ...) are judged; each function raises ValueError where the shapes do not fit.

    `measure(outputs, labels)` is the metric and its 95 % interval, None if the host computes it from what `kept(outputs)` keeps of
    the outputs; `agreement(got, wanted, threshold)` is the agreement of two forms of a model, from recorded outputs alone.
    `count(labels)` is the number of what the metric is an average over.
    """

    measure: Optional[Callable[[np.ndarray, np.ndarray], Tuple[float, stats.Interval]]]
    agreement: Callable[[np.ndarray, np.ndarray, float], float]
    kept: Callable[[np.ndarray], np.ndarray] = np.asarray
    count: Callable[[np.ndarray], int] = len


def accuracy(metric: str, outputs: np.ndarray, labels: np.ndarray, kit: str) -> Optional[Dict[str, Any]]:
    """Return a metric over all requests with its 95 % interval, or None if the host computes it."""
    measure = METRICS[metric].measure
    if measure is None:
        return None
    try:
        value, interval = measure(outputs, labels)
    except ValueError as error:
        raise EngineError(f"{kit}: {error}") from None
    return {"metric": metric, "value": value, "ci95": interval, "n": METRICS[metric].count(labels)}


def details(metric: str, outputs: np.ndarray, recorded: Dict[str, np.ndarray], kit: str) -> Optional[Dict[str, Any]]:
    """Return, beside the correlation on pairs, the mean cosine to the teacher's recorded vectors; None for other metrics."""
    if metric != "spearman" or TEACHER not in recorded:
        return None
    try:
        value, interval = cosine(outputs, recorded[TEACHER]), _cosine_interval(outputs, recorded[TEACHER])
    except ValueError as error:
        raise EngineError(f"{kit}: {error}") from None
    return {"kind": "pairs", "teacher_cosine": {"value": value, "ci95": interval}}


def kept(metric: str, outputs: np.ndarray, kit: str) -> np.ndarray:
    """Return what is stored of the outputs that a metric reads: all of them, or the detections in them."""
    try:
        return METRICS[metric].kept(outputs)
    except ValueError as error:
        raise EngineError(f"{kit}: {error}") from None


def agreement(metric: str, got: np.ndarray, wanted: np.ndarray, kit: str, threshold: float = 0.0) -> float:
    """Return the agreement of outputs with the recorded ones, by the metric's rule."""
    try:
        return METRICS[metric].agreement(got, wanted, threshold)
    except ValueError as error:
        raise EngineError(f"{kit}: {error}") from None


def fidelity(got: np.ndarray, wanted: np.ndarray) -> float:
    """Return 1 - squared error / variance over all finite values of an output that no metric reads; 0 without variance."""
    finite = np.isfinite(wanted)
    ours, theirs = got[finite].astype(np.float64), wanted[finite].astype(np.float64)
    variance = float(((theirs - theirs.mean()) ** 2).sum()) if len(theirs) else 0.0
    return 1 - float(((ours - theirs) ** 2).sum()) / variance if variance > 0 else 0.0


def why_no_agreement(wanted: np.ndarray) -> Optional[str]:
    """Return why agreement with recorded outputs (N, ...) would say nothing, or None; edgedistill has the same rule."""
    if len(wanted) < 2:
        return "there is only one request"
    if not wanted.size:
        return f"it is empty for all {len(wanted)} requests"
    values = _flat(wanted).astype(np.float64)
    rounding = SMALLEST + 16 * float(np.finfo(np.float32).eps) * np.abs(values).max(axis=0)
    constant = bool(np.isfinite(values).all()) and bool((np.ptp(values, axis=0) <= rounding).all())
    return f"it is the same for all {len(wanted)} requests" if constant else None


def reproduced(wanted: np.ndarray, difference: float) -> Optional[float]:
    """Return None if an output that is the same for all requests is reproduced within 1 % of its largest magnitude, or 0.01, and 0 otherwise."""
    return None if difference <= 0.01 * max(1.0, float(np.abs(wanted).max(initial=0))) else 0.0


# --- top1: the highest score is the label's ----------------------------------------------------------------------------------


def top1(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the fraction of requests (N, C) whose highest score is that of the label (N,)."""
    return _hits(scores, labels) / len(scores)


def _top1_interval(scores: np.ndarray, labels: np.ndarray) -> stats.Interval:
    return stats.wilson(_hits(scores, labels), len(scores))


def same_answer(got: np.ndarray, wanted: np.ndarray, _threshold: float) -> float:
    """Return the fraction of requests whose highest score has the same index."""
    return float((_flat(got).argmax(axis=1) == _flat(wanted).argmax(axis=1)).mean())


def _hits(scores: np.ndarray, labels: np.ndarray) -> int:
    flat = _flat(scores)
    if labels.shape != (len(flat),) or flat.shape[1] <= int(labels.max()):
        raise ValueError(
            f"top1 needs one label per request and a score per class; labels have shape {labels.shape} and the largest is "
            f"{int(labels.max())}, and there are {len(flat)} requests of {flat.shape[1]} scores"
        )
    return int((flat.argmax(axis=1) == labels).sum())


# --- r2: values ----------------------------------------------------------------------------------------------------------------


def r2(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Return 1 - squared error / variance of the labels, averaged over D; constant labels give 1 if matched exactly, or 0."""
    ours, theirs = _rows(outputs, labels)
    error = ((ours - theirs) ** 2).sum(0)
    variance = ((theirs - theirs.mean(0)) ** 2).sum(0)
    varies = variance > 0
    return float(np.where(varies, 1 - error / np.where(varies, variance, 1), error == 0).mean())


def _r2_interval(outputs: np.ndarray, labels: np.ndarray) -> stats.Interval:
    ours, theirs = _rows(outputs, labels)
    return _percentiles(r2(ours, theirs), [r2(ours[rows], theirs[rows]) for rows in _resamples(len(ours))])


# --- cosine: vectors -----------------------------------------------------------------------------------------------------------


def cosine(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean cosine of outputs and labels; a vector of length 0 has 0."""
    return float(_cosines(outputs, labels).mean())


def _cosines(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    ours, theirs = _rows(outputs, labels)
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosines: np.ndarray = (ours * theirs).sum(1) / np.where(lengths > 0, lengths, 1)
    return cosines


def _cosine_interval(outputs: np.ndarray, labels: np.ndarray) -> stats.Interval:
    """Return the Student-t interval of the mean cosine, within [-1, 1]."""
    cosines = _cosines(outputs, labels)
    if len(cosines) < 2:
        return -1.0, 1.0
    value = float(cosines.mean())
    half = stats.t975(len(cosines) - 1) * float(cosines.std(ddof=1)) / math.sqrt(len(cosines))
    return max(-1.0, value - half), min(1.0, value + half)


# --- spearman: pairs of vectors -------------------------------------------------------------------------------------------------

TEACHER = "teacher"
"""The recorded array (N, D) with the teacher's vectors."""


def spearman(outputs: np.ndarray, labels: np.ndarray) -> Tuple[float, stats.Interval]:
    """Return Spearman's rank correlation of the cosines of pairs with their scores, and its interval over pairs.

    A label is (number of the pair, score); a pair are the two requests of one number. Scores that are NaN are not counted.
    """
    cosines, scores = _pairs(outputs, labels)
    value = _spearman(cosines, scores)
    return value, _percentiles(value, [_spearman(cosines[rows], scores[rows]) for rows in _resamples(len(scores))])


def _pairs(outputs: np.ndarray, labels: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Return the cosines and the scores of the pairs of which both requests are there."""
    first, second = _members(labels)
    vectors = _flat(outputs)
    if len(vectors) != len(labels):
        raise ValueError(f"{len(vectors)} outputs cannot be compared with {len(labels)} labels")
    return _cosines(vectors[first], vectors[second]), labels[first, 1].astype(np.float64)


def _members(labels: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    if labels.ndim != 2 or labels.shape[1] != 2:
        raise ValueError(f"spearman needs (number of the pair, score) as labels; they have shape {labels.shape}")
    order = np.argsort(labels[:, 0], kind="stable")
    same = np.flatnonzero(labels[order[1:], 0] == labels[order[:-1], 0])
    first, second = order[same], order[same + 1]
    known = ~np.isnan(labels[first, 1])
    return first[known], second[known]


def _spearman(values: np.ndarray, scores: np.ndarray) -> float:
    ours, theirs = (ranks - ranks.mean() for ranks in (_ranks(values), _ranks(scores)))
    spread = math.sqrt(float((ours**2).sum() * (theirs**2).sum()))
    return float((ours * theirs).sum()) / spread if spread else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value, the mean rank for equal values."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (counts.cumsum() - (counts - 1) / 2)[place]
    return ranks


# --- mean_ap: several labels at once ---------------------------------------------------------------------------------------------


class Ranking(NamedTuple):
    """One label's samples in descending order of score: the index in the data, whether it is positive, and the end of its tie."""

    order: np.ndarray
    positive: np.ndarray
    end: np.ndarray


def mean_ap(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the average precision of scores (N, C) for labels (N, C) of 0 and 1, averaged over the labels that have a positive.

    The average precision is scikit-learn's `average_precision_score`: the sum of precision times gain in recall, ties taken at once.
    """
    rankings = _rankings(scores, labels)
    return _mean_ap(rankings, np.ones(len(labels), np.int64))


def _mean_ap_interval(scores: np.ndarray, labels: np.ndarray) -> stats.Interval:
    rankings = _rankings(scores, labels)
    n = len(labels)
    # A resample is stored as a count per sample, so that the scores are sorted once and not a thousand times.
    resampled = [_mean_ap(rankings, np.bincount(rows, minlength=n)) for rows in _resamples(n)]
    known = [value for value in resampled if not math.isnan(value)]
    return _percentiles(_mean_ap(rankings, np.ones(n, np.int64)), known)


def same_side(got: np.ndarray, wanted: np.ndarray, threshold: float) -> float:
    """Return the fraction of pairs of request and label whose score is on the same side of the threshold: 0 for logits."""
    ours, theirs = _rows(got, wanted)
    return float(((ours > threshold) == (theirs > threshold)).mean())


def _rankings(scores: np.ndarray, labels: np.ndarray) -> "list[Ranking]":
    ours, theirs = _rows(scores, labels)
    if not ((theirs == 0) | (theirs == 1)).all():
        raise ValueError("mean_ap needs labels of 0 and 1")
    columns = [column for column in range(theirs.shape[1]) if theirs[:, column].any()]
    if not columns:
        raise ValueError("mean_ap needs at least one label that is 1; all labels are 0")
    return [_ranking(ours[:, column], theirs[:, column]) for column in columns]


def _ranking(scores: np.ndarray, labels: np.ndarray) -> Ranking:
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.append(ordered[1:] != ordered[:-1], True)
    ends = np.flatnonzero(last)
    return Ranking(order, labels[order] == 1, ends[np.searchsorted(ends, np.arange(len(order)))])


def _mean_ap(rankings: "Sequence[Ranking]", counts: np.ndarray) -> float:
    """Return the mean over the labels that have a positive among samples taken `counts` (N,) times each; NaN if none has."""
    found = []
    for order, positive, end in rankings:
        times = counts[order]
        hits = times * positive
        total = int(hits.sum())
        if total:
            drawn = positive & (times > 0)
            precision = hits.cumsum()[end[drawn]] / times.cumsum()[end[drawn]]
            found.append(float((hits[drawn] * precision).sum()) / total)
    return sum(found) / len(found) if found else math.nan


# --- miou: the class of each pixel --------------------------------------------------------------------------------------------------


def miou(outputs: np.ndarray, masks: np.ndarray) -> Tuple[float, stats.Interval]:
    """Return the mean intersection over union of class maps and masks (N, H, W), and its interval over images."""
    each = maps.confusions(outputs, masks)
    n, flat = len(each), each.reshape(len(each), -1)
    counts = np.stack([np.bincount(rows, minlength=n) for rows in _resamples(n)])
    resampled = [maps.mean_iou(one.reshape(each.shape[1:])) for one in counts @ flat]
    value = maps.mean_iou(each.sum(0))
    return value, _percentiles(value, [one for one in resampled if not math.isnan(one)])


# --- coco_ap: boxes; the host computes COCO's average precision with its own library ------------------------------------------------


def same_detections(got: np.ndarray, wanted: np.ndarray, _threshold: float) -> float:
    """Return the agreement of the detections in outputs (N, ..., A, C + 4): scores and boxes side by side."""
    return detections.agreement(_detections(got), _detections(wanted))


def _detections(outputs: np.ndarray) -> np.ndarray:
    if outputs.ndim < 3 or math.prod(outputs.shape[1:-2]) != 1 or outputs.shape[-1] < 5:
        raise ValueError(f"coco_ap needs scores and boxes (N, A, C + 4); the outputs have shape {outputs.shape}")
    return detections.detect_all(outputs)


# --- what several metrics share ---------------------------------------------------------------------------------------------------


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), -1)


def _rows(outputs: np.ndarray, labels: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Return both as rows of numbers (N, D), in float64."""
    ours, theirs = _flat(outputs).astype(np.float64), _flat(labels).astype(np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"outputs of shape {ours.shape} cannot be compared with labels of shape {theirs.shape}")
    return ours, theirs


def _resamples(n: int) -> Iterator[np.ndarray]:
    """Yield the rows of resampled requests (Efron 1979), drawn with a fixed seed."""
    rng = np.random.Generator(np.random.Philox(key=0))
    return (rng.integers(0, n, n) for _ in range(CHECK.resamples))


def _percentiles(value: float, resampled: Sequence[float]) -> stats.Interval:
    """Return the 2.5 % and 97.5 % percentiles of a resampled metric, with the metric itself in between."""
    low, high = np.quantile(resampled, [0.025, 0.975])
    return min(float(low), value), max(float(high), value)


def _both(
    score: Callable[[np.ndarray, np.ndarray], float], interval: Callable[[np.ndarray, np.ndarray], stats.Interval]
) -> Callable[[np.ndarray, np.ndarray], Tuple[float, stats.Interval]]:
    return lambda outputs, labels: (score(outputs, labels), interval(outputs, labels))


def _as_labels(metric: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[np.ndarray, np.ndarray, float], float]:
    """Return an agreement function that applies the metric with the recorded outputs as labels."""
    return lambda got, wanted, _threshold: metric(got, wanted)


METRICS: Dict[str, Metric] = {
    "top1": Metric(_both(top1, _top1_interval), same_answer),
    "r2": Metric(_both(r2, _r2_interval), _as_labels(r2)),
    "cosine": Metric(_both(cosine, _cosine_interval), _as_labels(cosine)),
    "spearman": Metric(spearman, _as_labels(cosine), count=lambda labels: len(_members(labels)[0])),
    "mean_ap": Metric(_both(mean_ap, _mean_ap_interval), same_side),
    "miou": Metric(miou, lambda got, wanted, _threshold: maps.same_class(got, wanted)),
    "coco_ap": Metric(None, same_detections, _detections),
    "detections": Metric(None, lambda got, wanted, _threshold: detections.agreement(got, wanted)),
}
