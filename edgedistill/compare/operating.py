"""Compare the operating points of two detectors: AP can hold while all scores halve, and an app keeps its score threshold."""

from __future__ import annotations

import numpy as np

from edgedistill.compare.load import LoadedMeasurement
from edgedistill.compare.per_class import same_boxes
from edgedistill.records.base import Record
from edgedistill.records.details import DetectionDetails
from edgedistill.tasks.matches import Matches, class_recall, resampled_thresholds
from edgedistill.tasks.resampling import interval, mean_known, resampled_counts


class OperatingChange(Record):
    """The operating point beside that of the model `reference`, on the same pictures; intervals are over resampled pictures.

    `thresholds` are the score thresholds of the best F1, of the reference and of this model, and `shift` is their difference. `recall`
    is that of both at the threshold of the reference, the mean over classes at an IoU of 0.5, and `points` how many percentage
    points lower that of this model is.
    """

    reference: str
    thresholds: tuple[float, float]
    shift: float
    shift_ci95: tuple[float, float]
    recall: tuple[float, float]
    points: float
    ci95_points: tuple[float, float]
    pictures: int


def operating_change(reference: LoadedMeasurement, candidate: LoadedMeasurement) -> OperatingChange | str | None:
    """Return how the operating point moved, the reason why that is not known, or None for models that are no detectors."""
    before, after = reference.measurement.details, candidate.measurement.details
    if not isinstance(before, DetectionDetails) or not isinstance(after, DetectionDetails):
        return None
    ours, theirs = candidate.matches, reference.matches
    if ours is None or theirs is None:
        return "the detections of both models are not recorded"
    if not same_boxes(ours, theirs):
        return f"{reference.label} was tested on other pictures"
    counts, classes = resampled_counts(ours.pictures), len(before.classes)
    thresholds = before.threshold.value, after.threshold.value
    shifts = resampled_thresholds(ours, classes, counts) - resampled_thresholds(theirs, classes, counts)
    shift = thresholds[1] - thresholds[0]
    (recall, drawn), (own_recall, own_drawn) = (_recall(one, classes, thresholds[0], counts) for one in (theirs, ours))
    points = 100 * (recall - own_recall)
    return OperatingChange(
        reference=reference.label, thresholds=thresholds, shift=shift, shift_ci95=interval(shift, shifts),
        recall=(recall, own_recall), points=points, ci95_points=interval(points, 100 * (drawn - own_drawn)),
        pictures=ours.pictures,
    )  # fmt: skip


def _recall(matches: Matches, classes: int, threshold: float, counts: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the mean recall over classes, and that in resampled pictures (R,)."""
    recall = class_recall(matches, classes, threshold)
    return float(np.nan_to_num(mean_known(recall.values))), mean_known(recall.resampled(counts))
