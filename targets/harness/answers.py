"""Answer pictures or texts with a compiled model as its contract says: preprocessing, inference and postprocessing, each timed.

The contract is the JSON object of edgedistill's records/contract.py; the same files and texts give the same answers as in training.
"""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, List, NamedTuple, Sequence

import detections
import maps
import numpy as np
import picture
import text
from check import JOIN
from kit import EngineError, Session, engine_errors

Arrays = Dict[str, np.ndarray]
Prepare = Callable[[Any], np.ndarray]
"""From a sample to its request; raises ValueError for a sample that does not fit."""


class Answered(NamedTuple):
    """A sample's request, the model's outputs, the answer, and the nanoseconds of the three steps.

    The request of a picture is (1, ...), that of a text (inputs, tokens).
    """

    request: np.ndarray
    outputs: Arrays
    answer: np.ndarray
    nanoseconds: List[int]


def answer_all(session: Session, pictures: List[np.ndarray], contract: Dict[str, Any], kit: str) -> List[Answered]:
    """Answer decoded pictures, uint8 (h, w, 3) or (h, w), one after the other; raises EngineError for one that does not fit."""
    if contract["picture"] is None:
        raise EngineError(f"{kit}: the contract takes no pictures: {contract['reason']}")
    return [
        _answer(session, one, contract, kit, lambda decoded: picture.prepare(decoded, contract)) for one in pictures
    ]


def answer_texts(
    session: Session, samples: Sequence[Any], contract: Dict[str, Any], kit: str, tokenizer: Any
) -> List[Answered]:
    """Answer texts, each a list of one or two; without a tokenizer, samples are their requests (inputs, tokens)."""
    rules = contract.get("text")
    if rules is None:
        raise EngineError(f"{kit}: the contract takes no texts")
    prepare: Prepare = (
        (lambda request: request) if tokenizer is None else lambda texts: text.prepare(tokenizer, texts, rules)
    )
    return [_answer(session, one, contract, kit, prepare) for one in samples]


def _answer(session: Session, sample: Any, contract: Dict[str, Any], kit: str, prepare: Prepare) -> Answered:
    begin = time.perf_counter_ns()
    try:
        request = prepare(sample)
    except ValueError as error:
        raise EngineError(f"{kit}: {error}") from None
    prepared = time.perf_counter_ns()
    with engine_errors(kit):
        session.set(_inputs(session, request, contract))
        session.infer()
        outputs = {name: np.array(values) for name, values in session.outputs().items()}
    inferred = time.perf_counter_ns()
    labelled = _labelled(outputs, contract["output"], kit)
    found = ANSWERS[contract["task"]](labelled, contract, sample)
    done = time.perf_counter_ns()
    return Answered(request, outputs, found, [prepared - begin, inferred - prepared, done - inferred])


def _inputs(session: Session, request: np.ndarray, contract: Dict[str, Any]) -> Arrays:
    if contract.get("text") is None:
        return {session.inputs[0]: request}
    return {name: array for name, array in text.inputs_of(request, contract["text"]).items() if name in session.inputs}


def _labelled(outputs: Arrays, names: str, kit: str) -> List[np.ndarray]:
    for name in names.split(JOIN):
        if name not in outputs:
            raise EngineError(
                f"{kit}: the contract names output '{name}', but the model's outputs are: {', '.join(outputs)}"
            )
    return [outputs[name][0] for name in names.split(JOIN)]


# --- answers by task: functions of the labelled outputs of one request, the contract, and the sample -------------------------------


def _probabilities(outputs: List[np.ndarray], contract: Dict[str, Any], _sample: Any) -> np.ndarray:
    """Return the probability of each class (C,)."""
    logits = outputs[0].reshape(-1).astype(np.float64)
    if contract["probabilities"]:
        return logits
    exponentials = np.exp(logits - logits.max())
    found: np.ndarray = exponentials / exponentials.sum()
    return found


def _independent(outputs: List[np.ndarray], contract: Dict[str, Any], _sample: Any) -> np.ndarray:
    """Return the probability of each label (C,)."""
    logits = outputs[0].reshape(-1).astype(np.float64)
    found: np.ndarray = logits if contract["probabilities"] else 1 / (1 + np.exp(-logits))
    return found


def _values(outputs: List[np.ndarray], _contract: Dict[str, Any], _sample: Any) -> np.ndarray:
    """Return the predicted values (D,)."""
    return outputs[0].reshape(-1).astype(np.float64)


def _mask(outputs: List[np.ndarray], contract: Dict[str, Any], _decoded: Any) -> np.ndarray:
    """Return the class of each pixel of the input, uint8 (H, W)."""
    rules = contract["picture"]
    whole = maps.resized(outputs[0].astype(np.float32), (rules["height"], rules["width"]))
    return whole.argmax(axis=0).astype(np.uint8)


def _boxes(outputs: List[np.ndarray], contract: Dict[str, Any], decoded: np.ndarray) -> np.ndarray:
    """Return detections (K, 6): class, score, and x1 y1 x2 y2 in pixels of the picture, clipped to it."""
    rules, limits = contract["picture"], contract["detection"]
    wanted = detections.Rules(limits["floor"], limits["overlap"], limits["limit"])
    found = detections.detect(outputs[0], outputs[1], wanted)
    found = found[found[:, 0] >= 0]
    height, width = decoded.shape[:2]
    if rules["rule"] is not None:
        found[:, 2:] = picture.place_of(width, height, rules).to_picture(found[:, 2:])
    found[:, 2:] = np.clip(found[:, 2:], 0, [width, height] * 2)
    return found


ANSWERS: Dict[str, Callable[[List[np.ndarray], Dict[str, Any], Any], np.ndarray]] = {
    "classification": _probabilities,
    "multi-label": _independent,
    "regression": _values,
    "embedding": _values,
    "sentence-embedding": _values,
    "segmentation": _mask,
    "detection": _boxes,
}
