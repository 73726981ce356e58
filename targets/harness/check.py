"""The check: what the compiled model answers, against labels and against recorded outputs."""

from __future__ import annotations

import time
from typing import Any, Dict, List, Tuple

import metrics
import numpy as np
from kit import EngineError, engine_errors
from sampling import times_itself

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
            took_ns = session.engine_ns() if times_itself(session) else time.perf_counter_ns() - begin
            fastest_ns = min(fastest_ns, took_ns)
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
        accuracy = metrics.accuracy(spec["metric"], first, recorded["labels"], spec["kit"])
        arrays["labels"] = recorded["labels"]
    if spec["expected"] is None:
        reasons.setdefault("parity", "no expected outputs were recorded")
    else:
        parity = parity_of(outputs, _expected(recorded, spec["expected"], spec["kit"]), spec)
    return {"accuracy": accuracy, "parity": parity, "reasons": reasons}, arrays


def parity_of(outputs: Arrays, expected: Arrays, spec: Dict[str, Any]) -> Dict[str, float]:
    """Return the largest difference over all outputs, and the first one's agreement: top-1 where no metric was asked for."""
    kit = spec["kit"]
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
    agreement = metrics.agreement(spec["metric"] or "top1", outputs[first], expected[first], kit)
    return {"max_abs_diff": largest, "agreement": agreement}


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
