"""Name what an app does differently when it makes answers from the model's outputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from edgedistill.check.differences import CONFIDENT, PIXELS, SCORES, describe_answers, pair_detections
from edgedistill.check.reference import resizing_of, rules_of
from edgedistill.data.sources import Array
from edgedistill.records.contract import Contract
from edgedistill.tasks.detections import ious

SIMILAR: Final = 0.9
"""A fault of classes or coordinates is named if it explains this fraction of the detections, or of the pixels."""
ACROSS: Final = 0.3
"""Boxes of two classes that overlap more than this may have been suppressed by each other."""


def name_answer_fault(contract: Contract, size: tuple[int, int], wanted: Array, given: Array) -> str:
    """Return what an app does differently, from its answer `given` for a picture of `size` (width, height) and the right one."""
    same = describe_answers(wanted, given, contract.task)
    if same[1]:
        return "no difference"
    if contract.task == "detection":
        named = next(_detection_faults(contract, size, wanted, given), None)
    elif contract.task == "segmentation" and wanted.shape == given.shape:
        named = _class_fault(contract, wanted.ravel(), given.ravel())
    elif wanted.shape == given.shape:
        named = _score_fault(wanted, given)
    else:
        named = None
    return named or f"no likely fault explains the difference: {same[0]}"


def _detection_faults(contract: Contract, size: tuple[int, int], wanted: Array, given: Array) -> Iterator[str]:
    """Yield the faults that explain detections (K, 6), the most specific first."""
    yield from _coordinates(contract, size, wanted, given)
    yield from _classes(contract, wanted, given)
    yield from _missing(wanted, given)


def _coordinates(contract: Contract, size: tuple[int, int], wanted: Array, given: Array) -> Iterator[str]:
    """Yield a fault of coordinates if the right boxes with that fault are the given ones."""
    if len(given) != len(wanted):
        return
    order = np.lexsort((given[:, 0], -given[:, 1])), np.lexsort((wanted[:, 0], -wanted[:, 1]))
    mine, right = given[order[0], 2:].astype(np.float64), wanted[order[1], 2:].astype(np.float64)
    if np.array_equal(mine, right.astype(np.float16)) and not np.array_equal(mine, right):
        yield "the coordinates are float16, which has 11 bits: an error of up to half a pixel from 1,024 on"
    if _is_whole(mine) and np.abs(mine - right).max() <= 1:
        yield "the coordinates are rounded to integers"
    for words, boxes in _moved(contract, size, right):
        if (np.abs(boxes - mine).max(axis=1) <= PIXELS).mean() >= SIMILAR:
            yield words
            return


def _moved(contract: Contract, size: tuple[int, int], right: Array) -> Iterator[tuple[str, Array]]:
    """Yield the right boxes as other conventions write them."""
    sides, centres = right[:, 2:] - right[:, :2], (right[:, 2:] + right[:, :2]) / 2
    yield "the boxes are x, y, width, height, not corners", np.hstack([right[:, :2], sides])
    yield "the boxes are centre x, centre y, width, height, not corners", np.hstack([centres, sides])
    yield "the boxes are y before x", right[:, [1, 0, 3, 2]]
    yield "the boxes are fractions of the picture, not pixels", right / (size * 2)
    resizing = resizing_of(rules_of(contract))
    if resizing is None:
        return
    place = resizing.place(*size)
    (left, top), (x, y) = place.corner, place.scale
    yield "the boxes are in pixels of the model's input, not of the picture", place.to_input(right)
    yield "the borders of the letterbox are not taken off", right + np.array([left / x, top / y] * 2)
    yield "the scale of the picture is not undone", place.to_input(right) - np.array([left, top] * 2)
    full = (resizing.width, resizing.height)
    stretched = place.to_input(right) * np.array([size[0] / full[0], size[1] / full[1]] * 2)
    yield "the boxes are scaled as if the picture were stretched to the input", stretched


def _classes(contract: Contract, wanted: Array, given: Array) -> Iterator[str]:
    """Yield a fault of classes if the boxes and scores are right, and the classes are not."""
    if not len(wanted) or not len(given):
        return
    ours, theirs = wanted.copy(), given.copy()
    ours[:, 0] = theirs[:, 0] = 0
    pairs, _ = pair_detections(ours, theirs)
    if len(pairs) < SIMILAR * max((wanted[:, 1] >= CONFIDENT).sum(), 1):
        return
    rows, columns = (np.array(one) for one in zip(*pairs, strict=True))
    named = _class_fault(contract, wanted[rows, 0].astype(int), given[columns, 0].astype(int))
    if named is not None:
        yield named


def _class_fault(contract: Contract, right: Array, given: Array) -> str | None:
    """Return which classes stand for which, if one order of the classes explains most of them."""
    if (right == given).mean() >= SIMILAR:
        return None
    if (given == right + 1).mean() >= SIMILAR:
        return "the classes are one too high: the app counts a background class first"
    if (given == right - 1).mean() >= SIMILAR:
        return "the classes are one too low: the app leaves out the first class, as if it were the background"
    order = {int(one): int(np.bincount(given[right == one]).argmax()) for one in np.unique(right)}
    explained = np.mean([order[int(one)] == int(other) for one, other in zip(right, given, strict=True)])
    if explained < SIMILAR or len(set(order.values())) < len(order):
        return None
    names = dict(enumerate(contract.classes))
    listed = ", ".join(
        f"{names.get(one, one)} as {names.get(other, other)}" for one, other in order.items() if one != other
    )
    return f"the classes are in another order: {listed}"


def _missing(wanted: Array, given: Array) -> Iterator[str]:
    """Yield why some of the right detections are missing, if the others are right."""
    pairs, _ = pair_detections(wanted, given)
    there = {i for i, _ in pairs}
    pairs_all = _same_rows(wanted, given)
    lost = np.array([i for i in range(len(wanted)) if i not in pairs_all and i not in there], int)
    if not len(lost) or len(given) > len(wanted) or len(pairs_all) < SIMILAR * len(given):
        return
    kept = np.array(sorted(set(range(len(wanted))) - set(lost.tolist())), int)
    across = [_is_covered(wanted[i], wanted[kept]) for i in lost]
    lowest, highest = wanted[kept, 1].min(initial=1.0), wanted[lost, 1].max()
    if np.mean(across) >= SIMILAR and highest > lowest:
        yield "boxes of different classes suppress each other: suppression is per class"
    elif highest <= lowest and len(given) in (10, 20, 25, 50, 64, 100, 128, 200, 256, 300):
        yield f"at most {len(given)} boxes are kept, of {len(wanted)}"
    elif highest <= lowest:
        yield f"detections of scores below {_rounded_up(highest, lowest):.3g} are left out"


def _same_rows(wanted: Array, given: Array) -> set[int]:
    """Return the rows of the right detections that the app has too: class, score and box."""
    found = set()
    for i, row in enumerate(wanted):
        close = (given[:, 0] == row[0]) & (np.abs(given[:, 1] - row[1]) <= SCORES)
        if (close & (np.abs(given[:, 2:] - row[2:]).max(axis=1) <= PIXELS)).any():
            found.add(i)
    return found


def _is_covered(row: Array, kept: Array) -> bool:
    """Return whether a better box of another class overlaps a detection."""
    better = kept[(kept[:, 1] >= row[1]) & (kept[:, 0] != row[0])]
    return (
        bool(len(better))
        and float(ious(row[None, 2:].astype(np.float64), better[:, 2:].astype(np.float64)).max()) > ACROSS
    )


def _rounded_up(lost: float, kept: float) -> float:
    """Return the number with the fewest digits between the best lost score and the worst kept one."""
    for digits in range(1, 6):
        value = float(np.ceil(lost * 10**digits) / 10**digits)
        if value <= kept:
            return value
    return kept


def _score_fault(wanted: Array, given: Array) -> str | None:
    """Return why probabilities (C,) differ."""
    order = np.argsort(wanted)
    if np.array_equal(np.argsort(given), order) and not 0.98 <= float(given.sum()) <= 1.02:
        return "the values are not probabilities: the softmax or the sigmoid is missing, or is applied twice"
    if np.allclose(np.sort(given), np.sort(wanted), atol=SCORES):
        return "the classes are in another order"
    return None


def _is_whole(values: Array) -> bool:
    return bool((values == np.rint(values)).all())
