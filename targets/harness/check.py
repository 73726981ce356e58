"""The check: what the compiled model answers, against labels and against recorded outputs."""

from __future__ import annotations

import time
from typing import Any, Dict, List, Tuple

import numpy as np
import stats
from kit import EngineError, engine_errors

Arrays = Dict[str, np.ndarray]


def infer_all(session: Any, inputs: Arrays, kit: str) -> Tuple[Arrays, int]:
    """Run every request and return the outputs, stacked, and the fastest inference in nanoseconds."""
    count = min((len(array) for array in inputs.values()), default=0)
    if count == 0:
        raise EngineError(f"{kit}: there are no recorded requests to run")
    collected: Dict[str, List[np.ndarray]] = {}
    fastest_ns = 1 << 62
    with engine_errors(kit):
        for i in range(count):
            session.set({name: np.asarray(array[i], order="C") for name, array in inputs.items()})
            begin = time.perf_counter_ns()
            session.infer()
            fastest_ns = min(fastest_ns, time.perf_counter_ns() - begin)
            for name, output in session.outputs().items():
                collected.setdefault(name, []).append(np.array(output))
    return {name: np.stack(outputs) for name, outputs in collected.items()}, fastest_ns


def compare(outputs: Arrays, recorded: Arrays, spec: Dict[str, Any]) -> Tuple[Dict[str, Any], Arrays]:
    """Return accuracy and parity, each with the reason where it is missing, and the arrays worth keeping."""
    reasons = dict(spec["reasons"])
    first = next(iter(outputs.values()))
    arrays = {"outputs": first}
    accuracy, parity = None, None
    if spec["metric"] is None:
        reasons.setdefault("accuracy", "no metric was asked for")
    elif "labels" not in recorded:
        reasons.setdefault("accuracy", "there are no labels beside the recorded inputs")
    else:
        accuracy = top1(first, recorded["labels"], spec["kit"])
        arrays["labels"] = recorded["labels"]
    if spec["expected"] is None:
        reasons.setdefault("parity", "no expected outputs were recorded")
    else:
        parity = parity_of(outputs, _expected(recorded, spec["expected"], spec["kit"]), spec["kit"])
    return {"accuracy": accuracy, "parity": parity, "reasons": reasons}, arrays


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


def parity_of(outputs: Arrays, expected: Arrays, kit: str) -> Dict[str, float]:
    """Return the largest difference over all outputs, and how often the first output's highest score is the same."""
    largest = 0.0
    for name, wanted in expected.items():
        if name not in outputs or outputs[name].shape != wanted.shape:
            got = {key: list(array.shape) for key, array in outputs.items()}
            raise EngineError(f"{kit}: output '{name}' of shape {list(wanted.shape)} is expected, and there are {got}")
        largest = max(largest, _difference(outputs[name], wanted, name, kit))
    first = next(iter(outputs))
    if first not in expected:
        raise EngineError(
            f"{kit}: no output '{first}', the model's first, is among the expected: {', '.join(expected)}"
        )
    same = _answers(outputs[first]) == _answers(expected[first])
    return {"max_abs_diff": largest, "agreement": float(same.mean())}


def _answers(scores: np.ndarray) -> np.ndarray:
    """Return the position of each request's highest score."""
    return scores.reshape(len(scores), -1).argmax(axis=1)


def _difference(got: np.ndarray, wanted: np.ndarray, name: str, kit: str) -> float:
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(wanted)
    if not np.array_equal(finite, np.isfinite(got)):
        raise EngineError(
            f"{kit}: output '{name}' has infinite or undefined values where the expected one has none, or conversely"
        )
    return float(np.abs(got[finite] - wanted[finite]).max()) if finite.any() else 0.0


def _expected(recorded: Arrays, key: str, kit: str) -> Arrays:
    prefix = f"expected.{key}."
    found = {name[len(prefix) :]: array for name, array in recorded.items() if name.startswith(prefix)}
    if not found:
        raise EngineError(f"{kit}: the recorded outputs hold nothing under '{prefix}'")
    return found
