"""What the labels of samples say about a form of an ONNX file: its metric, and the class and the slice that lost most."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from edgedistill.data.requests import Samples
from edgedistill.data.sources import Array
from edgedistill.errors import ConfigError
from edgedistill.export.output_errors import has_row
from edgedistill.records.masks import VOID
from edgedistill.statistics import ClassDrop, drops_by_class, worst_class
from edgedistill.tasks.classification import TASK as CLASSIFICATION
from edgedistill.tasks.mask_drops import mask_drops
from edgedistill.tasks.segmentation import TASK as SEGMENTATION
from edgedistill.tasks.segmentation import confusions_of, mean_iou

METRICS: Final = {"classes": CLASSIFICATION.metric, "masks": SEGMENTATION.metric}
"""The metric of the first output, by what the labels are; boxes are judged by the detections of all outputs."""


def metric_of(samples: Samples) -> str | None:
    """Return the metric of the first output that the labels of samples are for, or None."""
    return None if samples.label_form is None else METRICS.get(samples.label_form)


def require_scores(path: Path, samples: Samples, output: Array) -> None:
    """Raise ConfigError if a model's first output (R, ...) is not what the labels in a file are for."""
    shape = "x".join(map(str, output.shape[1:]))
    if samples.label_form == "classes" and not has_row(output.shape):
        raise ConfigError(f"{path}: has labels, but the model's first output, {shape}, has no score per class")
    if samples.label_form != "masks":
        return
    if output.ndim != 5 or output.shape[1] != 1:
        raise ConfigError(f"{path}: has masks, but the model's first output, {shape}, is no class maps (1, C, h, w)")
    assert samples.labels is not None
    largest = max(int(mask[mask != VOID].max(initial=0)) for mask in samples.labels)
    if largest >= output.shape[2]:
        raise ConfigError(
            f"{path}: masks hold class {largest}, but the model's first output has {output.shape[2]} maps, for classes 0 to "
            f"{output.shape[2] - 1}; if {largest} marks pixels without a class, give --view void={largest}"
        )


def score(samples: Samples, output: Array) -> float | None:
    """Return the metric of a first output (R, ...), a fraction; None without labels of classes or masks."""
    if samples.labels is None or samples.label_form == "boxes":
        return None
    if samples.label_form == "masks":
        return mean_iou(_confusions(samples.labels, output).sum(0))
    return CLASSIFICATION.score(output.reshape(len(output), -1), samples.labels)


def worst_parts(
    samples: Samples, names: tuple[str, ...], output: Array, original: Array
) -> tuple[ClassDrop | None, ClassDrop | None]:
    """Return the class and the slice that lost most from one first output to another; None where the labels do not tell.

    A class of masks loses IoU, other parts lose accuracy. `names` are those of the classes of masks.
    """
    labels, slices = samples.labels, samples.slices
    if labels is None or samples.label_form == "boxes":
        return None, None
    if samples.label_form == "masks":
        return worst_class(mask_drops(_confusions(labels, original), _confusions(labels, output), names)), None
    ours, theirs = (np.reshape(one, (len(one), -1)).argmax(1) == labels for one in (output, original))
    by_class = worst_class(drops_by_class(labels, theirs, ours))
    if slices is None:
        return by_class, None
    parts, numbers = np.unique(slices, return_inverse=True)
    return by_class, worst_class(drops_by_class(numbers, theirs, ours, parts.tolist()))


def _confusions(masks: Array, output: Array) -> Array:
    """Return the confusion matrix of each picture (R, C, C + 1) of class maps (R, 1, C, h, w)."""
    maps = output[:, 0].astype(np.float32)
    return confusions_of(SEGMENTATION.answers(maps, masks.shape[1:], maps.shape[1]), masks, maps.shape[1])
