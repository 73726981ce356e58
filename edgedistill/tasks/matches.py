"""Which detections found which box, and what follows from it at a score threshold: recall, F1 and the best threshold.

Matches are those of COCO at an IoU of 0.5. A detection with a higher score chooses its box first, so the matches above a threshold
do not depend on those below it.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgedistill.tasks.resampling import mean_known, ratios

Array = npt.NDArray[Any]
SIZES: Final = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
"""The areas of COCO's sizes, in pixels of the original picture."""
MOST_THRESHOLDS: Final = 1000
"""The best threshold of resampled pictures is one of this many."""


class Matches(NamedTuple):
    """Detections (D,) and boxes (B,) of a test set of `pictures`, with the picture of each.

    `box` is the box that a detection found, or -1. A detection that found a crowd is neither right nor wrong.
    """

    pictures: int
    picture: Array
    kind: Array
    score: Array
    box: Array
    box_picture: Array
    box_kind: Array
    box_area: Array
    is_crowd: Array

    @property
    def is_right(self) -> Array:
        """Whether each detection found a box that is no crowd."""
        return (self.box >= 0) & ~self._found_crowd

    @property
    def counts(self) -> Array:
        """Whether each detection is right or wrong."""
        return ~self._found_crowd

    @property
    def box_size(self) -> Array:
        """The number of each box's size in SIZES."""
        return np.searchsorted([high for _, high in SIZES.values()][:-1], self.box_area, side="right")

    @property
    def _found_crowd(self) -> Array:
        found: Array = np.zeros(len(self.box), bool)
        found[self.box >= 0] = self.is_crowd[self.box[self.box >= 0]]
        return found

    def found_at(self, threshold: float) -> Array:
        """Return which boxes (B,) a detection with at least this score found."""
        found: Array = np.zeros(len(self.box_kind), bool)
        found[self.box[(self.box >= 0) & (self.score >= threshold)]] = True
        return found


def matches_of(detections: Array, labels: Array, matched: Array) -> Matches:
    """Return the matches of detections (N, K, 6) and labels (N, M, 7); `matched` (N, K) is the row of the label found, or -1."""
    picture, row = np.nonzero(detections[..., 0] >= 0)
    box_picture, box_row = np.nonzero(labels[..., 0] >= 0)
    numbers = np.full(labels.shape[:2], -1)
    numbers[box_picture, box_row] = np.arange(len(box_picture))
    found, boxes = matched[picture, row], labels[box_picture, box_row]
    return Matches(
        pictures=len(labels), picture=picture, kind=detections[picture, row, 0].astype(int), score=detections[picture, row, 1],
        box=np.where(found >= 0, numbers[picture, found], -1), box_picture=box_picture, box_kind=boxes[:, 0].astype(int),
        box_area=boxes[:, 5], is_crowd=boxes[:, 6] > 0,
    )  # fmt: skip


class Recall(NamedTuple):
    """Boxes in each picture by group, a class or a size: those found, and all, crowds left out; both (N, G)."""

    found: Array
    boxes: Array

    @property
    def values(self) -> Array:
        """The recall of each group (G,), NaN without boxes."""
        return ratios(self.found.sum(0), self.boxes.sum(0))

    def resampled(self, counts: Array) -> Array:
        """Return the recall of each group (R, G) in resampled pictures (R, N)."""
        return ratios(counts @ self.found, counts @ self.boxes)


def recall_of(matches: Matches, groups: Array, count: int, threshold: float) -> Recall:
    """Return the recall at a threshold by group; `groups` (B,) has the group of each box, 0 to `count`."""
    judged = ~matches.is_crowd
    found = judged & matches.found_at(threshold)
    shape = (matches.pictures, count)
    return Recall(*(_per_picture(matches.box_picture[one], groups[one], shape) for one in (found, judged)))


def class_recall(matches: Matches, classes: int, threshold: float) -> Recall:
    """Return the recall at a threshold by class."""
    return recall_of(matches, matches.box_kind, classes, threshold)


def size_recall(matches: Matches, threshold: float) -> Recall:
    """Return the recall at a threshold by size, in the order of SIZES."""
    return recall_of(matches, matches.box_size, len(SIZES), threshold)


def f1_at(matches: Matches, classes: int, threshold: float, counts: Array | None = None) -> Array:
    """Return the mean F1 over the classes with boxes at a threshold, () or (R,) in resampled pictures (R, N); 0 without boxes."""
    counts = np.ones((1, matches.pictures), int) if counts is None else counts
    found, boxes = class_recall(matches, classes, threshold)
    judged = matches.counts & (matches.score >= threshold)
    given = _per_picture(matches.picture[judged], matches.kind[judged], (matches.pictures, classes))
    right, boxes, given = counts @ found, counts @ boxes, counts @ given
    f1 = np.where(boxes > 0, 2 * right / np.maximum(given + boxes, 1), np.nan)
    means = np.nan_to_num(mean_known(f1))
    return means if len(means) > 1 else means[0]


def best_threshold(matches: Matches, classes: int) -> float:
    """Return the score threshold with the largest mean F1 over the classes with boxes; 1 without detections or boxes."""
    thresholds = np.unique(matches.score)
    return float(_best(matches, classes, thresholds, np.ones((1, matches.pictures), int))[0])


def resampled_thresholds(matches: Matches, classes: int, counts: Array) -> Array:
    """Return the best score threshold in each of resampled pictures (R, N)."""
    thresholds = np.unique(matches.score)
    if len(thresholds) > MOST_THRESHOLDS:
        thresholds = thresholds[np.linspace(0, len(thresholds) - 1, MOST_THRESHOLDS).round().astype(int)]
    return _best(matches, classes, thresholds, counts)


def precision_recall(matches: Matches, kind: int) -> tuple[Array, Array, Array]:
    """Return the scores of a class's detections that are right or wrong, falling, and precision and recall from each on."""
    mine = np.flatnonzero((matches.kind == kind) & matches.counts)
    mine = mine[np.argsort(-matches.score[mine], kind="stable")]
    right = np.cumsum(matches.is_right[mine])
    boxes = int(((matches.box_kind == kind) & ~matches.is_crowd).sum())
    return matches.score[mine], right / np.arange(1, len(mine) + 1), right / max(boxes, 1)


def _best(matches: Matches, classes: int, thresholds: Array, counts: Array) -> Array:
    judged = ~matches.is_crowd
    boxes = counts @ _per_picture(matches.box_picture[judged], matches.box_kind[judged], (matches.pictures, classes))
    if not len(thresholds) or not judged.any():
        return np.ones(len(counts))
    total = np.zeros((len(counts), len(thresholds)))
    is_right, is_counted = matches.is_right, matches.counts  # each is computed from all detections
    for kind in range(classes):
        mine = np.flatnonzero(matches.kind == kind)
        mine = mine[np.argsort(-matches.score[mine], kind="stable")]
        above = np.searchsorted(-matches.score[mine], -thresholds, side="right")
        picture, chosen = matches.picture[mine], (is_right[mine], is_counted[mine])
        for number, weights in enumerate(counts):
            if boxes[number, kind]:
                each = weights[picture]
                right, given = (np.concatenate([[0], np.cumsum(each * one)])[above] for one in chosen)
                total[number] += 2 * right / np.maximum(given + boxes[number, kind], 1) / (boxes[number] > 0).sum()
    return thresholds[total.argmax(1)]


def _per_picture(picture: Array, group: Array, shape: tuple[int, int]) -> Array:
    """Return how many items each picture (N) has of each group (G): (N, G)."""
    return np.bincount(picture * shape[1] + group, minlength=shape[0] * shape[1]).reshape(shape)
