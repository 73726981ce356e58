"""Where two passes of one picture or text part: at the model's input, at its outputs, or at the answers."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np

from edgedistill.check.reference import Pass
from edgedistill.data.sources import Array
from edgedistill.export.parity import FLOAT, LIMITS
from edgedistill.records.base import Record
from edgedistill.tasks.detections import ious

INPUT: Final = 1e-4
"""The largest difference of inputs, relative to the largest value if above 1: rounding of float32."""
PIXELS: Final = 0.5
SCORES: Final = 0.005
"""The largest differences of boxes, in pixels of the picture, and of scores and probabilities, of one model in float."""
FEWEST_SAME: Final = 0.999
"""The least fraction of pixels of a mask with the same class, of one model in float."""
CONFIDENT: Final = 0.05
"""Detections of lower scores in both passes are not compared: which of them are kept depends on the last digit."""
SAME_PLACE: Final = 0.5
VECTORS: Final = ("embedding", "sentence-embedding")
"""The tasks whose answers are vectors."""

Step = Literal["input", "outputs", "answer"]


class Difference(Record):
    """The differences of two passes of a picture or text; `parts` is the first step beyond the limits, None if none is."""

    sample: str
    input: float
    outputs: float
    answer: str
    parts: Step | None


def compare_passes(sample: str, wanted: Pass, got: Pass, precision: str, task: str) -> Difference:
    """Compare the pass of an artifact with that of the reference; int8 is judged by its input only, and its answers are described."""
    request = _relative(wanted.request, got.request)
    outputs = max(_relative(wanted.outputs[name], got.outputs[name]) for name in wanted.outputs if name in got.outputs)
    text, same = describe_answers(wanted.answer, got.answer, task)
    judged = precision != "int8"
    parts: Step | None = None
    if request > INPUT:
        parts = "input"
    elif judged and not outputs <= LIMITS.get(precision, FLOAT).difference:
        parts = "outputs"
    elif judged and not same:
        parts = "answer"
    return Difference(sample=sample, input=request, outputs=outputs, answer=text, parts=parts)


def describe_answers(wanted: Array, got: Array, task: str) -> tuple[str, bool]:
    """Return how the answers of two passes differ, and whether they are the same within the limits for one model in float."""
    if task == "detection":
        return _boxes(wanted, got)
    if task == "segmentation":
        if wanted.shape != got.shape:
            return f"masks of {wanted.shape[::-1]} and {got.shape[::-1]} pixels", False
        same = float((wanted == got).mean())
        return f"{same:.2%} of the pixels have the same class", same >= FEWEST_SAME
    if wanted.shape != got.shape:
        return f"{wanted.size} and {got.size} values", False
    difference = float(np.abs(wanted - got).max())
    if task == "classification":
        first, second = int(wanted.argmax()), int(got.argmax())
        named = f"class {first}" if first == second else f"class {first} and class {second}"
        return f"{named}, probabilities within {difference:.2g}", first == second and difference <= SCORES
    words = f"cosine {_cosine(wanted, got):.6f}" if task in VECTORS else f"values within {difference:.2g}"
    return words, difference <= SCORES * max(1.0, float(np.abs(wanted).max()))


def _cosine(one: Array, other: Array) -> float:
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float((one.astype(np.float64) * other).sum()) / lengths if lengths else 0.0


def _boxes(wanted: Array, got: Array) -> tuple[str, bool]:
    pairs, alone = pair_detections(wanted, got)
    if not pairs and not alone:
        return "no detections", True
    if not pairs:
        return f"none of {alone} detections has a partner", False
    gaps = [(np.abs(wanted[i, 2:] - got[j, 2:]).max(), abs(wanted[i, 1] - got[j, 1])) for i, j in pairs]
    pixels, scores = (float(max(column)) for column in zip(*gaps, strict=True))
    text = f"{len(pairs)} detections within {pixels:.2g} pixels and {scores:.2g} in score"
    text += f", {alone} without a partner" if alone else ""
    return text, not alone and pixels <= PIXELS and scores <= SCORES


def pair_detections(wanted: Array, got: Array) -> tuple[list[tuple[int, int]], int]:
    """Return the rows of detections (K, 6) that are partners, and the number of confident detections without one.

    A partner has the same class and an IoU of at least 0.5; the best detections choose first.
    """
    overlaps = ious(wanted[:, 2:].astype(np.float64), got[:, 2:].astype(np.float64))
    overlaps = np.where(wanted[:, None, 0] == got[None, :, 0], overlaps, 0)
    pairs: list[tuple[int, int]] = []
    for i in np.argsort(-wanted[:, 1], kind="stable"):
        if overlaps.shape[1] and overlaps[i].max() >= SAME_PLACE:
            j = int(overlaps[i].argmax())
            overlaps[:, j] = 0
            pairs.append((int(i), j))
    ours, theirs = {i for i, _ in pairs}, {j for _, j in pairs}
    alone = sum(row not in ours for row in np.flatnonzero(wanted[:, 1] >= CONFIDENT))
    alone += sum(row not in theirs for row in np.flatnonzero(got[:, 1] >= CONFIDENT))
    kept = [(i, j) for i, j in pairs if max(wanted[i, 1], got[j, 1]) >= CONFIDENT]
    return kept, int(alone)


def _relative(wanted: Array, got: Array) -> float:
    """Return the largest difference of two arrays, relative to the largest value if above 1; infinity for other shapes.

    Token numbers, which are int64, are names: their difference is not relative.
    """
    if wanted.shape != got.shape:
        return float("inf")
    ours, theirs = wanted.astype(np.float64), got.astype(np.float64)
    largest = 1.0 if wanted.dtype == np.int64 else float(np.abs(ours).max(initial=0))
    return float(np.abs(ours - theirs).max(initial=0)) / max(1.0, largest)
