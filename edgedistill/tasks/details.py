"""The details of the metrics of boxes and masks: figures by class and by size, with intervals by bootstrap over pictures."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgedistill.records.details import DetectedClass, DetectedSize, DetectionDetails, MaskClass, SegmentationDetails
from edgedistill.tasks import coco
from edgedistill.tasks.matches import (
    SIZES,
    best_threshold,
    class_recall,
    f1_at,
    matches_of,
    resampled_thresholds,
    size_recall,
)
from edgedistill.tasks.resampling import figure, figure_or_none, mean_known, ratios, resampled_counts

Array = npt.NDArray[Any]


class DetectionFindings(NamedTuple):
    """The details of detections, AP of resampled pictures (R,), and the row of the label that each detection found (N, K), or -1."""

    details: DetectionDetails
    resampled: Array
    matched: Array


class SegmentationFindings(NamedTuple):
    """The details of masks, and the mean IoU of resampled pictures (R,)."""

    details: SegmentationDetails
    resampled: Array


def detection_findings(detections: Array, labels: Array) -> DetectionFindings:
    """Return what detections (N, K, 6) and labels (N, M, 7) show."""
    classes = int(max(detections[..., 0].max(initial=0), labels[..., 0].max(initial=0))) + 1
    counts, matched = resampled_counts(len(labels)), coco.match(detections, labels, classes)
    matches = matches_of(detections, labels, matched)
    value, drawn = (
        coco.coco_scores(detections, labels, classes),
        coco.resampled_scores(detections, labels, classes),
    )
    threshold = best_threshold(matches, classes)
    by_class, by_size = class_recall(matches, classes, threshold), size_recall(matches, threshold)
    class_draws, size_draws = by_class.resampled(counts), by_size.resampled(counts)
    details = DetectionDetails(
        ap50=figure(np.nan_to_num(value.ap50), drawn.ap50),
        average_recall=figure(np.nan_to_num(value.recall), drawn.recall),
        threshold=figure(threshold, resampled_thresholds(matches, classes, counts)),
        f1=figure(f1_at(matches, classes, threshold), f1_at(matches, classes, threshold, counts)),
        recall=figure(np.nan_to_num(mean_known(by_class.values)), mean_known(class_draws)),
        classes=tuple(
            DetectedClass(
                number=kind, boxes=int(by_class.boxes[:, kind].sum()),
                ap=figure_or_none(value.class_ap[kind], drawn.class_ap[:, kind]),
                ap50=figure_or_none(value.class_ap50[kind], drawn.class_ap50[:, kind]),
                recall=figure_or_none(by_class.values[kind], class_draws[:, kind]),
            )
            for kind in range(classes)
        ),
        sizes=tuple(
            DetectedSize(
                name=name, boxes=int(by_size.boxes[:, place].sum()),
                average_recall=figure_or_none(value.size_recall[place], drawn.size_recall[:, place]),
                recall=figure_or_none(by_size.values[place], size_draws[:, place]),
            )
            for place, name in enumerate(SIZES)
        ),
    )  # fmt: skip
    return DetectionFindings(details, drawn.ap, matched)


def segmentation_findings(confusions: Array) -> SegmentationFindings:
    """Return what the confusion matrices of pictures (N, C, C + 1) show."""
    whole, classes = confusions.sum(0), confusions.shape[1]
    drawn = (resampled_counts(len(confusions)) @ confusions.reshape(len(confusions), -1)).reshape(-1, *whole.shape)
    value, draws = class_ious(whole), class_ious(drawn)
    recall, recall_draws = (ratios(np.diagonal(one, 0, -2, -1), one.sum(-1)) for one in (whole, drawn))
    correct, correct_draws = (
        ratios(np.trace(one, 0, -2, -1).astype(float), one.sum((-2, -1))) for one in (whole, drawn)
    )
    details = SegmentationDetails(
        pixel_accuracy=figure(np.nan_to_num(correct), correct_draws),
        classes=tuple(
            MaskClass(
                number=kind, pixels=int(whole[kind].sum()), iou=figure_or_none(value[kind], draws[:, kind]),
                recall=figure_or_none(recall[kind], recall_draws[:, kind]),
            )
            for kind in range(classes)
        ),
    )  # fmt: skip
    return SegmentationFindings(details, mean_known(draws))


def class_ious(confusions: Array) -> Array:
    """Return the IoU of each class (..., C) of confusion matrices (..., C, C + 1), rows by label; NaN for classes without labels."""
    hits = np.diagonal(confusions, 0, -2, -1).astype(np.float64)
    wanted, answered = confusions.sum(-1), confusions.sum(-2)[..., : confusions.shape[-2]]
    found: Array = np.where(wanted > 0, ratios(hits, wanted + answered - hits), np.nan)
    return found
