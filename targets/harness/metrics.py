"""The metrics that a check computes, each of the first output and the labels; 1 is perfect.

edgedistill/data/tasks.py has the same formulas on the host; this half runs where edgedistill is not installed.
"""

from __future__ import annotations

import math
from typing import Any, Dict, NamedTuple, Tuple

import numpy as np
import stats
from kit import EngineError

RESAMPLES = 1000


class Values(NamedTuple):
    """Outputs and labels as rows of numbers (N, D), in float64."""

    outputs: np.ndarray
    labels: np.ndarray


def accuracy(metric: str, outputs: np.ndarray, labels: np.ndarray, kit: str) -> Dict[str, Any]:
    """Return a metric over all requests with its 95 % interval."""
    if metric == "top1":
        return top1(outputs, labels, kit)
    pair = _values(outputs, labels, kit)
    value, interval = (_r2_interval if metric == "r2" else _cosine_interval)(pair)
    return {"metric": metric, "value": value, "ci95": interval, "n": len(labels)}


def agreement(metric: str, got: np.ndarray, wanted: np.ndarray, kit: str) -> float:
    """Return the metric of outputs with the expected ones for labels; for top-1, how often the highest score is the same."""
    if metric == "top1":
        return float((_answers(got) == _answers(wanted)).mean())
    pair = _values(got, wanted, kit)
    return r2(pair) if metric == "r2" else float(cosines(pair).mean())


def top1(scores: np.ndarray, labels: np.ndarray, kit: str) -> Dict[str, Any]:
    """Return the fraction of requests whose highest score is the label's, with its Wilson interval."""
    flat = scores.reshape(len(scores), -1)
    if len(labels) != len(flat) or flat.shape[1] <= int(labels.max()):
        raise EngineError(
            f"{kit}: top-1 needs one label per request and a score per class; there are {len(labels)} labels up to "
            f"{int(labels.max())}, {len(flat)} requests and {flat.shape[1]} scores"
        )
    hits = int((flat.argmax(axis=1) == labels).sum())
    return {"metric": "top1", "value": hits / len(flat), "ci95": stats.wilson(hits, len(flat)), "n": len(flat)}


def r2(pair: Values) -> float:
    """Return 1 - squared error / variance of the labels, averaged over D; a constant is 1 if met exactly, or else 0."""
    error = ((pair.outputs - pair.labels) ** 2).sum(0)
    variance = ((pair.labels - pair.labels.mean(0)) ** 2).sum(0)
    varies = variance > 0
    return float(np.where(varies, 1 - error / np.where(varies, variance, 1), error == 0).mean())


def cosines(pair: Values) -> np.ndarray:
    """Return the cosine (N,) of each output and its label; 0 for a vector of length 0."""
    lengths = np.linalg.norm(pair.outputs, axis=1) * np.linalg.norm(pair.labels, axis=1)
    return (pair.outputs * pair.labels).sum(1) / np.where(lengths > 0, lengths, 1)


def _r2_interval(pair: Values) -> Tuple[float, stats.Interval]:
    """Return R2 and the percentiles of resampled requests (Efron 1979), drawn with a fixed seed."""
    rng = np.random.Generator(np.random.Philox(key=0))
    draws = (rng.integers(0, len(pair.labels), len(pair.labels)) for _ in range(RESAMPLES))
    resampled = [r2(Values(pair.outputs[rows], pair.labels[rows])) for rows in draws]
    value = r2(pair)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return value, (min(float(low), value), max(float(high), value))


def _cosine_interval(pair: Values) -> Tuple[float, stats.Interval]:
    """Return the mean cosine and its Student-t interval, within [-1, 1]."""
    found = cosines(pair)
    value = float(found.mean())
    if len(found) < 2:
        return value, (-1.0, 1.0)
    half = stats.t975(len(found) - 1) * float(found.std(ddof=1)) / math.sqrt(len(found))
    return value, (max(-1.0, value - half), min(1.0, value + half))


def _values(outputs: np.ndarray, labels: np.ndarray, kit: str) -> Values:
    rows, wanted = (array.reshape(len(array), -1).astype(np.float64) for array in (outputs, labels))
    if rows.shape != wanted.shape:
        raise EngineError(f"{kit}: outputs of shape {rows.shape} cannot be held against labels of shape {wanted.shape}")
    return Values(rows, wanted)


def _answers(scores: np.ndarray) -> np.ndarray:
    """Return the position of each request's highest score."""
    return scores.reshape(len(scores), -1).argmax(axis=1)
