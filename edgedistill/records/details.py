"""What a metric is made of: figures of boxes and masks by class and by size, and how near vectors of sentences are to the teacher's.

The host computes those of boxes and masks from what the device answered for the test set. Each figure has its 95 % interval by bootstrap over
pictures (Efron 1979).
"""

from __future__ import annotations

from typing import Literal

from edgedistill.records.base import Record


class Figure(Record):
    """A figure with its 95 % interval."""

    value: float
    ci95: tuple[float, float]


class DetectedClass(Record):
    """A class by its number, and its boxes in the test set; the figures are None if it has none.

    `recall` is the fraction of the boxes that are found at the operating point.
    """

    number: int
    boxes: int
    ap: Figure | None
    ap50: Figure | None
    recall: Figure | None


class DetectedSize(Record):
    """The boxes of one of COCO's sizes, by their area in the original picture: below 32², below 96², and above.

    `average_recall` is COCO's over IoU thresholds from 0.5 to 0.95 with 100 detections, `recall` that of the operating point.
    """

    name: str
    boxes: int
    average_recall: Figure | None
    recall: Figure | None


class DetectionDetails(Record):
    """The details of COCO's AP.

    The operating point is the score `threshold` with the largest `f1`, the mean over classes at an IoU of 0.5. The intervals of F1 and
    recall are for this threshold, and that of the threshold is over the best ones of resampled pictures.
    """

    kind: Literal["detection"] = "detection"
    ap50: Figure
    average_recall: Figure
    threshold: Figure
    f1: Figure
    recall: Figure
    classes: tuple[DetectedClass, ...]
    sizes: tuple[DetectedSize, ...]


class MaskClass(Record):
    """A class by its number, and its pixels in the test set; `recall` is the fraction of them that have this class in the answer."""

    number: int
    pixels: int
    iou: Figure | None
    recall: Figure | None


class SegmentationDetails(Record):
    """The details of the mean IoU; void pixels are left out."""

    kind: Literal["segmentation"] = "segmentation"
    pixel_accuracy: Figure
    classes: tuple[MaskClass, ...]


class PairDetails(Record):
    """The details of Spearman's correlation on pairs: the mean cosine of the vectors to those of the teacher."""

    kind: Literal["pairs"] = "pairs"
    teacher_cosine: Figure


Details = DetectionDetails | SegmentationDetails | PairDetails
"""The details of a metric; `kind` tells them apart."""
