"""What the host computes from what a device answered: COCO's metrics, whose library is not on devices, and the details of masks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgedistill.errors import DeviceError
from edgedistill.runtime.arrays import read_arrays, write_arrays
from edgedistill.runtime.files import SEAL, atomic_path, seal_of, sha256_of, write_atomic
from edgedistill.tasks.details import detection_findings, segmentation_findings
from edgedistill.tasks.detection import TASK as DETECTION
from edgedistill.tasks.resampling import interval
from edgedistill.tasks.segmentation import TASK as SEGMENTATION
from edgedistill.tasks.segmentation import confusions_of

Arrays = dict[str, np.ndarray]


def with_host_metric(file: Path, metric: str | None, table: dict[str, Any]) -> dict[str, Any]:
    """Return a measurement's table with what the host computes for its metric, and write it to the measurement's file.

    The device's answers and the labels are in the raw samples beside the file, which gain `resampled`, the metric of resampled
    pictures, and what the details are computed from. Other metrics, and answers without labels, leave the table as it is. Raises
    DeviceError for answers and labels that do not fit the metric.
    """
    samples = file.with_suffix(".npz")
    if metric not in COMPLETED or not samples.is_file():
        return table
    arrays = read_arrays(samples, "its raw samples")
    if "labels" not in arrays:
        return table
    try:
        completed, more = COMPLETED[metric](table, arrays)
    except (
        ValueError,
        TypeError,
        LookupError,
        OverflowError,
    ) as error:  # arrays of a shape or type that no answers have
        raise DeviceError(
            f"{file.stem}: its outputs and labels in the raw samples do not fit {metric}: {error}"
        ) from None
    with atomic_path(samples) as scratch:
        write_arrays(scratch, arrays | more, compressed=True)
    completed |= {"samples_sha256": sha256_of(samples)}
    sealed = completed | {SEAL: seal_of(completed)}
    write_atomic(file, (json.dumps(sealed, indent=2, allow_nan=False) + "\n").encode())
    return completed


def _with_boxes(table: dict[str, Any], arrays: Arrays) -> tuple[dict[str, Any], Arrays]:
    """Return the table with AP and its details, and the arrays `resampled` and `matched`."""
    detections, labels = arrays["outputs"], arrays["labels"]
    value, found = DETECTION.score(detections, labels), detection_findings(detections, labels)
    accuracy = {"metric": DETECTION.metric, "value": value, "ci95": interval(value, found.resampled), "n": len(labels)}
    reasons = {key: why for key, why in table["reasons"].items() if key != "accuracy"}
    completed = table | {"accuracy": accuracy, "reasons": reasons, "details": found.details.model_dump(mode="json")}
    return completed, {"resampled": found.resampled, "matched": found.matched}


def _with_masks(table: dict[str, Any], arrays: Arrays) -> tuple[dict[str, Any], Arrays]:
    """Return the table with the details of the mean IoU, and the arrays `resampled` and `confusions`."""
    maps, labels = arrays["outputs"], arrays["labels"]
    maps = maps.reshape((len(maps), *maps.shape[-3:])).astype(np.float32)
    answers = SEGMENTATION.answers(maps, labels.shape[1:], maps.shape[1])
    confusions = confusions_of(answers, labels, maps.shape[1])
    found = segmentation_findings(confusions)
    details = found.details.model_dump(mode="json")
    return table | {"details": details}, {"resampled": found.resampled, "confusions": confusions}


COMPLETED: Final[dict[str, Callable[[dict[str, Any], Arrays], tuple[dict[str, Any], Arrays]]]] = {
    DETECTION.metric: _with_boxes,
    SEGMENTATION.metric: _with_masks,
}
