"""Where models of one test set differ most, and what each answered there: classes, boxes and masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from edgedistill.compare.load import LoadedMeasurement, read_samples
from edgedistill.records.details import DetectionDetails
from edgedistill.records.masks import VOID
from edgedistill.report.images import fitting_size, mask_uri
from edgedistill.report.tables import class_answers
from edgedistill.tasks.detections import SAME_PLACE, ious


class Box(NamedTuple):
    """A box in pixels of the input; `kind` is "true", "right", "wrong" or "missed"."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    text: str


class Panel(NamedTuple):
    """What one model answered, or the label: a text, boxes, or the data URI of a mask."""

    title: str
    text: str
    verdict: str
    boxes: tuple[Box, ...] = ()
    mask: str | None = None


class Differences(Protocol):
    """The answers of several models to the same samples."""

    def order(self) -> np.ndarray:
        """Return the samples on which two models differ, the largest difference first."""

    def panels(self, number: int, names: Sequence[str]) -> tuple[Panel, ...]:
        """Return the label of a sample, and the answer of each model."""


def differences_of(shown: Sequence[LoadedMeasurement]) -> Differences | None:
    """Return the answers of models with one metric, or None where they are not recorded."""
    readers: tuple[Callable[[Sequence[LoadedMeasurement]], Differences | None], ...] = (
        _boxes_of,
        _masks_of,
        _classes_of,
    )
    for read in readers:
        found = read(shown)
        if found is not None:
            return found
    return None


# --- classes ----------------------------------------------------------------------------------------------------------------------


class Classes:
    """What classifiers answered: probabilities (N, C) of each model, and the labels (N,)."""

    def __init__(self, models: Sequence[str], probabilities: Sequence[np.ndarray], labels: np.ndarray) -> None:
        self._models, self._probabilities, self._labels = models, probabilities, labels

    def order(self) -> np.ndarray:
        """Return the samples by the largest difference of two models' probabilities (total variation), without equal ones."""
        return _falling(_largest(self._probabilities, lambda one, other: np.abs(one - other).sum(1) / 2))

    def panels(self, number: int, names: Sequence[str]) -> tuple[Panel, ...]:
        """Return the label, and each model's answer with its probability."""
        label = int(self._labels[number])
        found = [Panel("label", _name(label, names), "")]
        for model, values in zip(self._models, self._probabilities, strict=True):
            best = int(values[number].argmax())
            text = f"{_name(best, names)} {100 * values[number, best]:.0f}\u00a0%"
            found.append(Panel(model, text, "right" if best == label else "wrong"))
        return tuple(found)


def _classes_of(shown: Sequence[LoadedMeasurement]) -> Classes | None:
    answers = [class_answers(one) for one in shown]
    labels = shown[0].labels
    if labels is None or any(one is None for one in answers):
        return None
    return Classes([one.label for one in shown], [_softmax(one) for one in answers if one is not None], labels)


def _softmax(values: np.ndarray) -> np.ndarray:
    """Return probabilities; rows that are probabilities already stay."""
    if values.min() >= 0 and np.allclose(values.sum(1), 1, atol=1e-3):
        return values
    exponentials = np.exp(values.astype(np.float64) - values.max(1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(1, keepdims=True))


# --- boxes ------------------------------------------------------------------------------------------------------------------------


class Boxes:
    """What detectors found from their best thresholds on, and the labels (N, M, 7)."""

    def __init__(
        self, models: Sequence[str], detections: Sequence[np.ndarray], matched: Sequence[np.ndarray], labels: np.ndarray
    ) -> None:
        self._models, self._detections, self._matched, self._labels = models, detections, matched, labels

    def order(self) -> np.ndarray:
        """Return the pictures by the number of detections without a partner in another model, without equal ones."""
        return _falling(_largest(self._detections, _unpaired))

    def panels(self, number: int, names: Sequence[str]) -> tuple[Panel, ...]:
        """Return the labelled boxes, and each model's: right, wrong and missed."""
        labels = self._labels[number]
        rows = np.flatnonzero(labels[:, 0] >= 0)
        truth = tuple(_box(labels[row, 1:5], "true", _name(int(labels[row, 0]), names)) for row in rows)
        return (
            Panel("label", f"{len(truth)} {'box' if len(truth) == 1 else 'boxes'}", "", truth),
            *(self._panel(place, number, names) for place in range(len(self._models))),
        )

    def _panel(self, place: int, number: int, names: Sequence[str]) -> Panel:
        labels, found = self._labels[number], self._detections[place][number]
        matched = self._matched[place][number]
        boxes, reached = [], set()
        for row in np.flatnonzero(found[:, 0] >= 0):
            of = int(matched[row])
            is_crowd = of >= 0 and labels[of, 6] > 0
            reached.add(of)
            text = f"{_name(int(found[row, 0]), names)} {found[row, 1]:.2f}"
            boxes.append(
                _box(found[row, 2:], "right" if of >= 0 and not is_crowd else "crowd" if is_crowd else "wrong", text)
            )
        missed = [row for row in np.flatnonzero((labels[:, 0] >= 0) & (labels[:, 6] == 0)) if row not in reached]
        boxes += [_box(labels[row, 1:5], "missed", _name(int(labels[row, 0]), names)) for row in missed]
        counts = {kind: sum(one.kind == kind for one in boxes) for kind in ("right", "wrong", "missed")}
        text = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        return Panel(self._models[place], text, "", tuple(boxes))


def _boxes_of(shown: Sequence[LoadedMeasurement]) -> Boxes | None:
    detections, matched, labels = [], [], np.zeros(0)
    for one in shown:
        details = one.measurement.details
        if not isinstance(details, DetectionDetails) or one.file is None:
            return None
        arrays = read_samples(one.file, one.measurement, ("outputs", "labels", "matched"))
        if arrays is None:
            return None
        kept, labels = arrays["outputs"].copy(), arrays["labels"]
        kept[kept[..., 1] < details.threshold.value, 0] = -1
        detections.append(kept)
        matched.append(arrays["matched"])
    return Boxes([one.label for one in shown], detections, matched, labels)


def _unpaired(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return how many detections (N, K, 6) of each picture have no partner of the same class and place in the other model."""
    return np.array([_lonely(ours, theirs) + _lonely(theirs, ours) for ours, theirs in zip(one, other, strict=True)])


def _lonely(ours: np.ndarray, theirs: np.ndarray) -> int:
    mine, others = ours[ours[:, 0] >= 0], theirs[theirs[:, 0] >= 0]
    overlaps = ious(mine[:, 2:].astype(float), others[:, 2:].astype(float))
    pairs = (overlaps >= SAME_PLACE) & (mine[:, None, 0] == others[None, :, 0])
    return int((~pairs.any(axis=1)).sum())


def _box(corners: np.ndarray, kind: str, text: str) -> Box:
    x1, y1, x2, y2 = (round(float(value), 1) for value in corners)
    return Box(x1, y1, round(x2 - x1, 1), round(y2 - y1, 1), kind, text)


# --- masks ------------------------------------------------------------------------------------------------------------------------


class Masks:
    """Class maps (N, C, h, w) of each model, and the labels (N, H, W)."""

    def __init__(self, models: Sequence[str], maps: Sequence[np.ndarray], labels: np.ndarray) -> None:
        self._models, self._maps, self._labels = models, maps, labels

    def order(self) -> np.ndarray:
        """Return the pictures by the share of places of the class maps where two models differ, without equal ones."""
        best = [one.argmax(1) for one in self._maps]
        return _falling(_largest(best, lambda one, other: (one != other).mean((1, 2))))

    def panels(self, number: int, names: Sequence[str]) -> tuple[Panel, ...]:  # noqa: ARG002 - as for other tasks
        """Return the picture, the labelled mask, and each model's with the share of pixels of the right class."""
        label = self._labels[number]
        size = fitting_size(label.shape[1], label.shape[0])
        truth = np.asarray(Image.fromarray(label).resize(size, Image.Resampling.NEAREST))
        found = [Panel("picture", "", ""), Panel("label", "", "", (), mask_uri(truth))]
        for model, maps in zip(self._models, self._maps, strict=True):
            answer = _answer(maps[number], size)
            known = truth != VOID
            share = (
                f"{100 * float((answer == truth)[known].mean()):.1f} % of the pixels right"
                if known.any()
                else "all void"
            )
            found.append(Panel(model, share, "", (), mask_uri(np.where(known, answer, VOID).astype(np.uint8))))
        return tuple(found)


def _masks_of(shown: Sequence[LoadedMeasurement]) -> Masks | None:
    maps, labels = [], np.zeros(0)
    for one in shown:
        if one.confusions is None or one.file is None:
            return None
        arrays = read_samples(one.file, one.measurement, ("outputs", "labels"))
        if arrays is None:
            return None
        outputs, labels = arrays["outputs"], arrays["labels"]
        maps.append(outputs.reshape((len(outputs), *outputs.shape[-3:])))
    return Masks([one.label for one in shown], maps, labels)


def _answer(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the class of each pixel, uint8, of class maps (C, h, w) resized bilinearly to (width, height)."""
    whole = [
        np.asarray(Image.fromarray(one.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)) for one in maps
    ]
    return np.argmax(whole, axis=0).astype(np.uint8)


# --- what tasks share ------------------------------------------------------------------------------------------------


def _largest(models: Sequence[np.ndarray], difference: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Return the largest difference of two models for each sample (N,)."""
    pairs = [(i, j) for i in range(len(models)) for j in range(i)]
    return np.max([difference(models[i], models[j]) for i, j in pairs], axis=0)


def _falling(values: np.ndarray) -> np.ndarray:
    order = np.argsort(-values, kind="stable")
    return order[values[order] > 0]


def _name(number: int, names: Sequence[str]) -> str:
    return names[number] if number < len(names) else str(number)
