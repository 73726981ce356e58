"""Metrics that the host computes from what a device answered, because their libraries are not on devices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from edgedistill.runtime.files import atomic_path, write_atomic
from edgedistill.tasks import coco
from edgedistill.tasks.detection import TASK as DETECTION


def with_host_metric(file: Path, metric: str | None, table: dict[str, Any]) -> dict[str, Any]:
    """Return a measurement's table with the metric that the host computes, and write it to the measurement's file.

    The device's answers and the labels are in the raw samples beside the file, which gain the array `resampled`: the metric of
    resampled images. Other metrics leave the table as it is.
    """
    samples = file.with_suffix(".npz")
    if metric != DETECTION.metric or table["accuracy"] is not None or not samples.is_file():
        return table
    with np.load(samples, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    if "labels" not in arrays:
        return table
    detections, labels = arrays["outputs"], arrays["labels"]
    value, classes = (
        DETECTION.score(detections, labels),
        int(max(detections[..., 0].max(), labels[..., 0].max(), 0)) + 1,
    )
    resampled = coco.resampled_ap(detections, labels, classes)[:, 0]
    low, high = coco.interval(resampled)
    accuracy = {"metric": metric, "value": value, "ci95": [min(low, value), max(high, value)], "n": len(labels)}
    with atomic_path(samples) as scratch, scratch.open("wb") as archive_file:
        np.savez_compressed(archive_file, allow_pickle=False, **arrays, resampled=resampled)
    reasons = {key: why for key, why in table["reasons"].items() if key != "accuracy"}
    completed = table | {"accuracy": accuracy, "reasons": reasons}
    write_atomic(file, (json.dumps(completed, indent=2, allow_nan=False) + "\n").encode())
    return completed
