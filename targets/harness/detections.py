"""Detections: the outputs of a detector, after non-maximum suppression, and the agreement of two sets of them.

Detections are rows of (class, score, x1, y1, x2, y2) in float32, the highest score first; x and y are in pixels of the input.
Unused rows have class -1. targets/harness/ and edgedistill/tasks/ contain the same file, because devices do not have edgedistill.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

COLUMNS = 6
BLOCK = 128
"""The boxes whose overlaps are computed at once; few, because the first of them often fill the limit."""
CONFIDENT = 0.3
"""Only detections of at least this score count for agreement."""
SAME_PLACE = 0.5
"""Two boxes are of the same object from this IoU on."""
SAME_SCORE = 0.1
"""The scores of two forms of a model for one object may differ by this much."""


class Rules(NamedTuple):
    """How outputs become detections.

    Scores above `floor` are candidates; a box whose IoU with a better box of the same class is above `overlap` is suppressed; at
    most `limit` detections are kept.
    """

    floor: float = 0.001
    overlap: float = 0.6
    limit: int = 100


RULES = Rules()
FINAL = Rules(overlap=1.0)
"""The rules for a model that suppresses boxes itself."""


def detect_all(outputs: np.ndarray, rules: Rules = RULES) -> np.ndarray:
    """Return detections (N, limit, 6) of outputs (N, A, C + 4), with any axes of size 1 before A: scores, then boxes.

    Outputs that are not finite give no detections, and scores of NaN.
    """
    stacked = outputs.reshape((len(outputs), *outputs.shape[-2:]))
    found = [detect(one[:, :-4], one[:, -4:], rules) for one in stacked]
    return np.stack(found) if found else np.zeros((0, rules.limit, COLUMNS), np.float32)


def detect(scores: np.ndarray, boxes: np.ndarray, rules: Rules) -> np.ndarray:
    """Return detections (limit, 6) of the scores (A, C) and boxes (A, 4), corners in pixels, of one input.

    Boxes of no area are left out. Suppression is greedy, per class. Equal scores keep the order of the outputs: by box, then by
    class.
    """
    found = np.zeros((rules.limit, COLUMNS), np.float32)
    found[:, 0] = -1
    if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
        found[:, 1] = np.nan
        return found
    has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    cells, classes = np.nonzero((scores > rules.floor) & has_area[:, None])
    order = np.argsort(-scores[cells, classes], kind="stable")
    cells, classes = cells[order], classes[order]
    kept = _unsuppressed(boxes[cells], classes, rules)
    found[: len(kept), 0] = classes[kept]
    found[: len(kept), 1] = scores[cells[kept], classes[kept]]
    found[: len(kept), 2:] = boxes[cells[kept]]
    return found


def _unsuppressed(boxes: np.ndarray, classes: np.ndarray, rules: Rules) -> np.ndarray:
    """Return the indices of at most `limit` boxes (K, 4), the best first, that no better box of their class suppresses."""
    kept = np.zeros(0, np.int64)
    for start in range(0, len(boxes), BLOCK):
        block = np.arange(start, min(start + BLOCK, len(boxes)))
        block = block[~_covered(boxes, classes, (block, kept), rules).any(axis=1)]
        covered, is_free = _covered(boxes, classes, (block, block), rules), np.ones(len(block), bool)
        for place in range(len(block)):
            if is_free[place]:
                is_free[place + 1 :] &= ~covered[place, place + 1 :]
        kept = np.concatenate([kept, block[is_free]])
        if len(kept) >= rules.limit:
            break
    return kept[: rules.limit]


def _covered(boxes: np.ndarray, classes: np.ndarray, pairs: tuple[np.ndarray, np.ndarray], rules: Rules) -> np.ndarray:
    """Return which of two lists of boxes overlap too much to be kept both: bool (K, L)."""
    ours, theirs = pairs
    covered: np.ndarray = ious(boxes[ours], boxes[theirs]) > rules.overlap
    return covered & (classes[ours][:, None] == classes[theirs])


def ious(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return the intersection over union (K, L) of boxes (K, 4) and (L, 4), corners; 0 where both have no area."""
    sides = [
        np.minimum(ours[:, None, axis + 2], theirs[None, :, axis + 2])
        - np.maximum(ours[:, None, axis], theirs[None, :, axis])
        for axis in (0, 1)
    ]
    shared = np.maximum(sides[0], 0) * np.maximum(sides[1], 0)
    union = _areas(ours)[:, None] + _areas(theirs)[None, :] - shared
    found: np.ndarray = shared / np.where(union > 0, union, 1)
    return found


def _areas(boxes: np.ndarray) -> np.ndarray:
    areas: np.ndarray = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return areas


def agreement(got: np.ndarray, wanted: np.ndarray) -> float:
    """Return the fraction of confident detections (N, K, 6) of two forms of a model that have a partner in the other form.

    Confident detections have a score of at least 0.3. A partner is a detection of the same input and class, with an IoU of at
    least 0.5 and a score at most 0.1 away, which is no other detection's partner. Without confident detections the value is 1.
    """
    paired, counted = 0, 0
    for i in range(len(wanted)):
        for one, other in ((got[i], wanted[i]), (wanted[i], got[i])):
            found, total = _partners(one, other)
            paired, counted = paired + found, counted + total
    return paired / counted if counted else 1.0


def _partners(ours: np.ndarray, theirs: np.ndarray) -> tuple[int, int]:
    """Return how many of our confident detections (K, 6) have a partner in theirs, and how many are confident.

    Our detections choose in order of their scores, each the free partner of the highest IoU.
    """
    confident = ours[(ours[:, 0] >= 0) & (ours[:, 1] >= CONFIDENT)]
    overlaps = ious(confident[:, 2:], theirs[:, 2:])
    same = (confident[:, None, 0] == theirs[None, :, 0]) & (overlaps >= SAME_PLACE)
    near = np.abs(confident[:, None, 1] - theirs[None, :, 1]) <= SAME_SCORE
    overlaps = np.where(same & near, overlaps, 0)
    found = 0
    for row in overlaps:
        best = int(row.argmax())
        if row[best] > 0:
            found += 1
            overlaps[:, best] = 0
    return found, len(confident)
