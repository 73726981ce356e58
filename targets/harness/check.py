"""The check: compare the outputs of the compiled model with labels and with recorded outputs."""

from __future__ import annotations

import json
import time
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import metrics
import numpy as np
from decoders import Decoder, decode, decoder_of
from detections import FINAL, RULES, detect
from job import Arm
from kit import EngineError, OwnProgram, Session, engine_errors

Arrays = Dict[str, np.ndarray]
JOIN = "+"
"""Between the names of outputs that the metric reads side by side, along their last axis."""
DECODER = "decoder"
"""The recorded array with one text, JSON, that says how a detector's outputs become detections; without it, they are scores and boxes."""


class Criteria(NamedTuple):
    """How the outputs of a model are judged; an arm of a job has fields of the same names.

    `output` is the output that the metric and the labels refer to, by default the model's first, "a+b" for two side by side;
    `expected` is the key of the recorded outputs; `threshold` is the score above which a multi-label model predicts a label.
    """

    kit: str
    metric: Optional[str]
    expected: Optional[str]
    output: Optional[str]
    threshold: float
    reasons: Dict[str, str]

    @classmethod
    def of(cls, arm: Arm) -> "Criteria":
        """Return the criteria of an arm."""
        return cls(*(getattr(arm, field) for field in cls._fields))


def infer_all(session: Session, requests: List[Arrays], kit: str) -> Tuple[Arrays, int]:
    """Run every request and return the outputs, stacked, and the fastest inference in nanoseconds."""
    if not requests:
        raise EngineError(f"{kit}: no requests were recorded")
    collected: Dict[str, List[np.ndarray]] = {}
    fastest_ns = 1 << 62
    with engine_errors(kit):
        for request in requests:
            session.set(request)
            begin = time.perf_counter_ns()
            session.infer()
            took_ns = session.engine_ns() if isinstance(session, OwnProgram) else time.perf_counter_ns() - begin
            fastest_ns = min(fastest_ns, took_ns)
            for name, output in session.outputs().items():
                collected.setdefault(name, []).append(np.array(output))
    return {name: _stacked(outputs, name, kit) for name, outputs in collected.items()}, fastest_ns


def _stacked(outputs: List[np.ndarray], name: str, kit: str) -> np.ndarray:
    shapes = {output.shape for output in outputs}
    if len(shapes) > 1:
        seen = ", ".join(str(list(shape)) for shape in sorted(shapes)[:3])
        raise EngineError(
            f"{kit}: the shape of output '{name}' changes from request to request ({seen}); export the model with fixed shapes"
        )
    return np.stack(outputs)


def compare(outputs: Arrays, recorded: Arrays, criteria: Criteria) -> Tuple[Dict[str, Any], Arrays]:
    """Return accuracy and parity, each with the reason where it is missing, and the arrays to store."""
    reasons = dict(criteria.reasons)
    decoder = decoder_of(json.loads(str(recorded[DECODER][0]))) if DECODER in recorded else None
    judged = _values(outputs, _judged(outputs, criteria, decoder), decoder)
    arrays = {
        "outputs": judged if criteria.metric is None else metrics.kept(_rule(criteria, decoder), judged, criteria.kit)
    }
    accuracy, parity, details = None, None, None
    if criteria.metric is None:
        reasons.setdefault("accuracy", "the job names no metric")
    elif "labels" not in recorded:
        reasons.setdefault("accuracy", "no labels were recorded with the inputs")
    else:
        accuracy = metrics.accuracy(_rule(criteria, decoder), judged, recorded["labels"], criteria.kit)
        if accuracy is None:
            reasons.setdefault(
                "accuracy", f"edgedistill computes {criteria.metric} on the host, from what the device detected"
            )
        arrays["labels"] = recorded["labels"]
        details = metrics.details(criteria.metric, judged, recorded, criteria.kit)
    if criteria.expected is None:
        reasons.setdefault("parity", "no expected outputs were recorded")
    else:
        expected = _expected(recorded, criteria.expected, criteria.kit)
        parity = parity_of(outputs, expected, criteria, decoder)
    return {"accuracy": accuracy, "parity": parity, "details": details, "reasons": reasons}, arrays


def _judged(outputs: Arrays, criteria: Criteria, decoder: Optional[Decoder]) -> List[str]:
    """Return the names of the outputs that the metric reads: those of the decoder, or one, or those that the job joins with "+"."""
    names = [next(iter(outputs))] if criteria.output is None else criteria.output.split(JOIN)
    if decoder is not None:
        names = list(decoder.outputs)
    for name in names:
        if name not in outputs:
            raise EngineError(
                f"{criteria.kit}: the job names output '{name}', but the model's outputs are: {', '.join(outputs)}"
            )
    return names


def _rule(criteria: Criteria, decoder: Optional[Decoder]) -> str:
    """Return the name of the metric whose rules apply to the values that are judged."""
    return "detections" if decoder is not None else criteria.metric or "top1"


def _values(outputs: Arrays, names: List[str], decoder: Optional[Decoder]) -> np.ndarray:
    """Return outputs (N, ..., D) joined along their last axis, or the detections (N, 100, 6) in them."""
    if decoder is not None:
        rules = FINAL if decoder.suppressed else RULES
        requests = ({name: outputs[name][i] for name in names} for i in range(len(outputs[names[0]])))
        return np.stack([detect(*decode(one, decoder), rules) for one in requests])
    joined: np.ndarray = np.concatenate([outputs[name] for name in names], axis=-1)
    return joined


def parity_of(
    outputs: Arrays, expected: Arrays, criteria: Criteria, decoder: Optional[Decoder] = None
) -> Dict[str, Any]:
    """Return the largest difference and the smallest agreement over all recorded outputs, and those of each if several.

    The agreement of the metric's output follows the metric's rule, or top-1 without a metric; the others have their fidelity.
    An output that is the same for all requests has no agreement: None if it is reproduced, 0 otherwise.
    """
    kit, judged = criteria.kit, _judged(outputs, criteria, decoder)
    for name in judged:
        if name not in expected:
            raise EngineError(
                f"{kit}: no values were recorded for output '{name}'; recorded outputs: {', '.join(expected)}"
            )
    found: Dict[str, Dict[str, Optional[float]]] = {}
    largest, reasons = 0.0, {}  # type: float, Dict[str, str]
    for name, wanted in expected.items():
        if name not in outputs or outputs[name].shape != wanted.shape:
            got = {key: list(array.shape) for key, array in outputs.items()}
            raise EngineError(
                f"{kit}: output '{name}' of shape {list(wanted.shape)} was recorded, but the model's outputs are {got}"
            )
        difference = _difference(outputs[name], wanted, name, kit)
        reason = metrics.why_no_agreement(wanted)
        if reason is not None:
            reasons[name] = reason
            agreement: Optional[float] = metrics.reproduced(wanted, difference)
        elif name in judged:
            ours, theirs = (_values(one, judged, decoder) for one in (outputs, expected))
            agreement = metrics.agreement(_rule(criteria, decoder), ours, theirs, kit, criteria.threshold)
        else:
            agreement = metrics.fidelity(outputs[name], wanted)
        largest = max(largest, difference)
        found[name] = {"max_abs_diff": difference, "agreement": agreement}
    known = [one["agreement"] for one in found.values() if one["agreement"] is not None]
    parity: Dict[str, Any] = {"max_abs_diff": largest, "agreement": min(known) if known else None}
    if reasons:
        said = [f"output '{name}': {why}" if len(found) > 1 else why for name, why in reasons.items()]
        parity["reason"] = "; ".join(said)
    return dict(parity, outputs=found) if len(found) > 1 else parity


def _difference(got: np.ndarray, wanted: np.ndarray, name: str, kit: str) -> float:
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(wanted)
    same = np.array_equal(finite, np.isfinite(got)) and bool(
        ((got[~finite] == wanted[~finite]) | np.isnan(wanted[~finite])).all()
    )
    if not same:
        raise EngineError(
            f"{kit}: output '{name}' and the recorded one have infinite or undefined values in different places"
        )
    return float(np.abs(got[finite] - wanted[finite]).max()) if finite.any() else 0.0


def _expected(recorded: Arrays, key: str, kit: str) -> Arrays:
    prefix = f"expected.{key}."
    found = {name[len(prefix) :]: array for name, array in recorded.items() if name.startswith(prefix)}
    if not found:
        raise EngineError(f"{kit}: no recorded output begins with '{prefix}'")
    return found
