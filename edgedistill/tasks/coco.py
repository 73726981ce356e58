"""COCO's metrics of detections, computed by faster-coco-eval, with intervals by bootstrap over images.

Detections are (N, K, 6): class, score, x1, y1, x2, y2. Labels are (N, M, 7): class, x1, y1, x2, y2, area, crowd. Rows of class -1
are unused. The areas are in pixels of the original image, and only the recall by size depends on them.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
RESAMPLES: Final = 400
ALL: Final = "all"
SIZES: Final = {ALL: (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
"""The areas of COCO's sizes, in pixels of the original image."""


class OperatingPoint(NamedTuple):
    """A score threshold, the mean F1 over classes at an IoU of 0.5 of the detections from it on, and the recall of each class.

    The recall of a class without labels is None.
    """

    threshold: float
    f1: float
    recall: tuple[float | None, ...]


class CocoScores(NamedTuple):
    """COCO's metrics: AP (over IoU thresholds 0.5 to 0.95), AP50, and recall of 100 detections by size and in `ALL`.

    `class_ap` and `class_ap50` are those of each class. A value without labels to judge by is None; without any, AP is 0.
    """

    ap: float
    ap50: float
    recall: dict[str, float | None]
    class_ap: tuple[float | None, ...]
    class_ap50: tuple[float | None, ...]
    operating_point: OperatingPoint


def coco_scores(detections: Array, labels: Array, classes: int) -> CocoScores:
    """Return COCO's metrics of detections."""
    evaluator = _evaluator(detections, labels, classes, tuple(SIZES))
    evaluator.accumulate()
    precision, recall = (
        evaluator.eval["precision"],
        evaluator.eval["recall"],
    )  # (T, R, classes, sizes, 1), (T, classes, ...)
    return CocoScores(
        ap=_mean(precision[:, :, :, 0]) or 0.0,
        ap50=_mean(precision[0, :, :, 0]) or 0.0,
        recall={name: _mean(recall[:, :, place]) for place, name in enumerate(SIZES)},
        class_ap=tuple(_mean(precision[:, :, kind, 0]) for kind in range(classes)),
        class_ap50=tuple(_mean(precision[0, :, kind, 0]) for kind in range(classes)),
        operating_point=operating_point(detections, labels, classes),
    )


def average_precision(detections: Array, labels: Array, classes: int) -> float:
    """Return AP over IoU thresholds 0.5 to 0.95; 0 without labels."""
    evaluator = _evaluator(detections, labels, classes, (ALL,))
    evaluator.accumulate()
    return _mean(evaluator.eval["precision"]) or 0.0


def resampled_ap(detections: Array, labels: Array, classes: int, resamples: int = RESAMPLES) -> Array:
    """Return AP and AP50 (resamples, 2) of resampled images (Efron 1979), NaN where no image with labels was drawn.

    Each image is evaluated once. The draws only depend on the number of images, so that the differences of two models on the same
    images are paired.
    """
    evaluator, count = _evaluator(detections, labels, classes, (ALL,)), len(labels)
    images: Array = np.empty(classes * count, object)
    images[:] = evaluator._evalImgs_cpp  # noqa: SLF001 - the library resamples nothing itself; its list is by class, then by image
    images = images.reshape(classes, count)
    rng, values = np.random.Generator(np.random.Philox(key=0)), []
    for _ in range(resamples):
        evaluator._evalImgs_cpp = images[:, rng.integers(0, count, count)].ravel().tolist()  # noqa: SLF001 - as above
        evaluator.accumulate()
        precision = evaluator.eval["precision"]
        values.append([_mean(part) for part in (precision, precision[0])])
    return np.array(values, dtype=float)


def interval(resampled: Array) -> tuple[float, float]:
    """Return the 2.5 % and 97.5 % percentiles of values (resamples,), without NaN."""
    known = resampled[np.isfinite(resampled)]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (0.0, 1.0)
    return float(low), float(high)


def operating_point(detections: Array, labels: Array, classes: int, threshold: float | None = None) -> OperatingPoint:
    """Return the score threshold of the best mean F1 over the classes that have labels, or F1 and recall at a `threshold`.

    COCO's matching at an IoU of 0.5 decides which detections are right; those on crowds are neither right nor wrong.
    """
    evaluator = _evaluator(detections, labels, classes, (ALL,), overlaps=(0.5,))
    evaluator.accumulate()
    kinds, scores = detections[detections[..., 0] >= 0][:, :2].T
    boxes = labels[labels[..., 0] >= 0]
    pairs = [pair.split("_") for pair in evaluator.eval["matched"]]
    found, of = np.array(pairs, dtype=int).reshape(-1, 2).T - 1
    is_crowd = boxes[of, 6] > 0
    is_right, counts_for = np.zeros(len(kinds), bool), np.ones(len(kinds), bool)
    is_right[found[~is_crowd]], counts_for[found[is_crowd]] = True, False
    thresholds = np.unique(scores) if threshold is None else np.array([threshold])
    counts = np.bincount(boxes[boxes[:, 6] == 0, 0].astype(int), minlength=classes)
    if not len(thresholds) or not counts.any():
        return OperatingPoint(1.0, 0.0, tuple(0.0 if count else None for count in counts))
    right, given = (
        np.array([_at_least(scores[chosen & (kinds == kind)], thresholds) for kind in range(classes)])
        for chosen in (is_right, counts_for)
    )
    f1 = (2 * right / np.maximum(given + counts[:, None], 1))[counts > 0].mean(0)
    best = int(f1.argmax())
    recall = (right[kind, best] / counts[kind] if counts[kind] else None for kind in range(classes))
    return OperatingPoint(float(thresholds[best]), float(f1[best]), tuple(recall))


def _at_least(scores: Array, thresholds: Array) -> Array:
    """Return how many scores are at least each threshold."""
    return len(scores) - np.searchsorted(np.sort(scores), thresholds)


def _mean(values: Array) -> float | None:
    """Return the mean of the values that are known; COCO's mark for those without labels is -1."""
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def _evaluator(
    detections: Array, labels: Array, classes: int, sizes: tuple[str, ...], overlaps: tuple[float, ...] = ()
) -> Any:
    """Return COCO's evaluator with every image evaluated, for 100 detections per image, and 10 IoU thresholds by default."""
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(_annotations(labels, classes))
    evaluator = COCOeval_faster(truth, truth.loadRes(_results(detections)), "bbox", separate_eval=True)
    evaluator.params.maxDets = [100]
    evaluator.params.areaRng, evaluator.params.areaRngLbl = [list(SIZES[name]) for name in sizes], list(sizes)
    if overlaps:
        evaluator.params.iouThrs = np.array(overlaps)
    evaluator.evaluate()
    return evaluator


def _annotations(labels: Array, classes: int) -> dict[str, Any]:
    """Return labels in COCO's format; identifiers of annotations count from 1, because 0 means unmatched."""
    image, row = np.nonzero(labels[..., 0] >= 0)
    boxes = labels[image, row].astype(float)
    boxes[:, 3:5] -= boxes[:, 1:3]
    annotations = [
        {"id": place + 1, "image_id": int(image[place]), "category_id": int(box[0]), "bbox": box[1:5].tolist(),
         "area": float(box[5]), "iscrowd": int(box[6])}
        for place, box in enumerate(boxes)
    ]  # fmt: skip
    images = [{"id": place} for place in range(len(labels))]
    return {"images": images, "annotations": annotations, "categories": [{"id": kind} for kind in range(classes)]}


def _results(detections: Array) -> Array:
    """Return detections in COCO's order: image, x, y, width, height, score, class."""
    image, row = np.nonzero(detections[..., 0] >= 0)
    kind, score, *corners = detections[image, row].astype(float).T
    return np.column_stack(
        [image, corners[0], corners[1], corners[2] - corners[0], corners[3] - corners[1], score, kind]
    )
