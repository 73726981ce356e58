"""Semantic segmentation: class maps (N, C, h, w), with any axes of size 1 before C, against masks (N, H, W) of classes.

edgedistill has the same formulas on the host, in its task segmentation; these run where edgedistill is not installed.
"""

from __future__ import annotations

import math
from typing import Iterator, Tuple

import numpy as np

VOID = 255
"""The label of pixels that count for nothing."""


def confusions(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return the confusion matrix of each image (N, C, C + 1), rows by label; the last column counts outputs that are not finite.

    Raises ValueError for masks that do not fit, or that name a class without a map.
    """
    flat = _stacked(maps)
    classes = flat.shape[1]
    largest = int(masks[masks != VOID].max(initial=0))
    if masks.ndim != 3 or len(masks) != len(flat) or largest >= classes:
        raise ValueError(
            f"miou needs a mask per request and a map per class; masks have shape {masks.shape} and the largest class is "
            f"{largest}, and there are {len(flat)} requests of {classes} maps"
        )
    return np.stack([_confusion(*pair, classes) for pair in zip(_answers(flat, masks.shape[1:]), masks)])


def mean_iou(confusion: np.ndarray) -> float:
    """Return the intersection over union of a confusion matrix (C, C + 1), averaged over the classes with a label; NaN without any."""
    hits = np.diagonal(confusion).astype(np.float64)
    wanted = confusion.sum(1)
    union = wanted + confusion.sum(0)[: len(confusion)] - hits
    there = wanted > 0
    return float((hits[there] / union[there]).mean()) if there.any() else math.nan


def same_class(got: np.ndarray, wanted: np.ndarray) -> float:
    """Return the fraction of places of class maps whose highest class is the same."""
    ours, theirs = _stacked(got), _stacked(wanted)
    return float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean())


def resized(maps: np.ndarray, size: Tuple[int, int]) -> np.ndarray:
    """Return maps (C, h, w) resized bilinearly to `size` (H, W), corners not aligned, as torch's interpolate does."""
    if maps.shape[1:] == tuple(size):
        return maps
    rows, columns = _weights(maps.shape[1], size[0]), _weights(maps.shape[2], size[1])
    whole: np.ndarray = rows @ maps @ columns.T
    return whole


def _weights(size: int, wanted: int) -> np.ndarray:
    """Return the weight of each of `size` values in each of `wanted` values (wanted, size)."""
    places = np.maximum((np.arange(wanted) + 0.5) * (size / wanted) - 0.5, 0)
    low = np.minimum(places.astype(np.int64), size - 1)
    high = np.minimum(low + 1, size - 1)
    share = (places - low).astype(np.float32)
    weights = np.zeros((wanted, size), np.float32)
    np.add.at(weights, (np.arange(wanted), low), 1 - share)
    np.add.at(weights, (np.arange(wanted), high), share)
    return weights


def _answers(maps: np.ndarray, size: Tuple[int, ...]) -> Iterator[np.ndarray]:
    """Yield the highest class of each pixel of each image; a pixel with a logit that is not finite has the class -1."""
    for each in maps:
        whole = resized(each.astype(np.float32), (size[0], size[1]))
        yield np.where(np.isfinite(whole).all(axis=0), whole.argmax(axis=0), -1)


def _confusion(answers: np.ndarray, mask: np.ndarray, classes: int) -> np.ndarray:
    known = mask != VOID
    pairs = mask[known].astype(np.int64) * (classes + 1) + np.where(answers[known] < 0, classes, answers[known])
    return np.bincount(pairs, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def _stacked(maps: np.ndarray) -> np.ndarray:
    """Return class maps as (N, C, h, w)."""
    if maps.ndim < 4 or math.prod(maps.shape[1:-3]) != 1:
        raise ValueError(f"miou needs class maps (N, C, h, w); the outputs have shape {maps.shape}")
    return maps.reshape((len(maps), *maps.shape[-3:]))
