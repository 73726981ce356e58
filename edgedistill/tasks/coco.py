"""COCO's metrics of detections, computed by faster-coco-eval, with intervals by bootstrap over images.

Detections are (N, K, 6): class, score, x1, y1, x2, y2. Labels are (N, M, 7): class, x1, y1, x2, y2, area, crowd. Rows of class -1
are unused. The areas are in pixels of the original image, and only the recall by size depends on them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgedistill.tasks.matches import SIZES
from edgedistill.tasks.resampling import RESAMPLES, resampled_rows

Array = npt.NDArray[Any]
ALL = [[0, 1e10]]
"""The areas of all boxes."""
BY_SIZE = [*ALL, *(list(area) for area in SIZES.values())]


class CocoScores(NamedTuple):
    """COCO's metrics: AP (over IoU thresholds 0.5 to 0.95), AP50, and the average recall of 100 detections.

    `size_recall` (3,) is that by size, `class_ap` and `class_ap50` (classes,) are those of each class; all may have a first axis of
    resampled images. A value without labels to judge by is NaN.
    """

    ap: Array
    ap50: Array
    recall: Array
    size_recall: Array
    class_ap: Array
    class_ap50: Array


def coco_scores(detections: Array, labels: Array, classes: int) -> CocoScores:
    """Return COCO's metrics of detections."""
    return _scores(_evaluator(detections, labels, classes, BY_SIZE))


def resampled_scores(detections: Array, labels: Array, classes: int, resamples: int = RESAMPLES) -> CocoScores:
    """Return the metrics of resampled images (Efron 1979), with a first axis of `resamples`; each image is evaluated once."""
    evaluator, count = _evaluator(detections, labels, classes, BY_SIZE), len(labels)
    images: Array = np.empty(classes * len(BY_SIZE) * count, object)
    images[:] = evaluator._evalImgs_cpp  # noqa: SLF001 - the library resamples nothing itself; its list is by class, size and image
    images = images.reshape(-1, count)
    values = []
    for rows in resampled_rows(count, resamples):
        evaluator._evalImgs_cpp = images[:, rows].ravel().tolist()  # noqa: SLF001 - as above
        values.append(_scores(evaluator))
    return CocoScores(*(np.stack(each) for each in zip(*values, strict=True)))


def average_precision(detections: Array, labels: Array, classes: int) -> float:
    """Return AP over IoU thresholds 0.5 to 0.95; 0 without labels."""
    evaluator = _evaluator(detections, labels, classes, ALL)
    evaluator.accumulate()
    return float(np.nan_to_num(_mean(evaluator.eval["precision"])))


def match(detections: Array, labels: Array, classes: int) -> Array:
    """Return the row of the label that each detection (N, K) found at an IoU of 0.5, as COCO matches them, or -1."""
    evaluator = _evaluator(detections, labels, classes, ALL, overlaps=(0.5,))
    evaluator.accumulate()
    pairs = [pair.split("_") for pair in evaluator.eval["matched"]]
    found, of = np.array(pairs, dtype=int).reshape(-1, 2).T - 1
    image, place = np.nonzero(detections[..., 0] >= 0)
    _, row = np.nonzero(labels[..., 0] >= 0)
    matched = np.full(detections.shape[:2], -1, np.int32)
    matched[image[found], place[found]] = row[of]
    return matched


def _scores(evaluator: Any) -> CocoScores:
    evaluator.accumulate()
    # (IoU, recall, classes, sizes, 1) and (IoU, classes, sizes, 1)
    precision, recall = evaluator.eval["precision"][..., 0], evaluator.eval["recall"][..., 0]
    return CocoScores(
        ap=_mean(precision[..., 0]), ap50=_mean(precision[0, ..., 0]), recall=_mean(recall[..., 0]),
        size_recall=_mean(recall[..., 1:], kept=2), class_ap=_mean(precision[..., 0], kept=2),
        class_ap50=_mean(precision[0, ..., 0], kept=1),
    )  # fmt: skip


def _mean(values: Array, kept: int | None = None) -> Array:
    """Return the mean of the values that are known, for each place on the axis `kept`; COCO's mark for those without labels is -1."""
    axes = tuple(axis for axis in range(values.ndim) if axis != kept)
    is_known = values > -1
    count = is_known.sum(axes)
    found: Array = np.where(count > 0, np.where(is_known, values, 0).sum(axes) / np.maximum(count, 1), np.nan)
    return found


def _evaluator(
    detections: Array, labels: Array, classes: int, areas: list[list[float]], overlaps: tuple[float, ...] = ()
) -> Any:
    """Return COCO's evaluator with every image evaluated, for 100 detections per image, and 10 IoU thresholds by default."""
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(_annotations(labels, classes))
    evaluator = COCOeval_faster(
        truth, truth.loadRes(_results(detections)), "bbox", separate_eval=True, extra_calc=False
    )
    evaluator.params.maxDets = [100]
    evaluator.params.areaRng, evaluator.params.areaRngLbl = areas, [str(area) for area in areas]
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
