"""Find out which form the outputs of a detector have: the table of known forms, recognised by shapes, names and values."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from edgedistill.errors import ConfigError, nearest
from edgedistill.tasks.decoders import Decoder, as_rows, grid
from edgedistill.tasks.task import Array

BACKGROUND: Final = "background"
"""The name of a class that means no object."""
DECODER: Final = "decoder"
"""The name of the recorded array that holds a decoder; targets/harness/check.py reads it."""
LARGEST_SHARE: Final = 2.0
"""Coordinates up to this value are shares of the input, because no box in pixels is so small."""
ORDERED: Final = 0.95
"""Boxes are corners if at least this fraction of them has x1 <= x2 and y1 <= y2."""
FEWEST_BINS: Final = 4
STRIDES: Final = ((8, 16, 32), (8, 16, 32, 64), (8, 16, 32, 64, 128), (16, 32), (4, 8, 16, 32))
"""The strides of levels that are recognised."""


class NothingFoundError(ConfigError):
    """A detector that suppresses boxes itself found nothing, so that the unit of its boxes is not known."""


class Outputs(NamedTuple):
    """The outputs of a few requests by name, the number of the model's classes (with a background that has a name), and the input's size."""

    answers: Sequence[Mapping[str, Array]]
    classes: int
    size: tuple[int, int]
    background: int | None

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an output without the axes of size 1 before its last two axes."""
        shape = self.answers[0][name].shape
        return shape[-2:] if math.prod(shape[:-2]) == 1 else shape

    def rows(self, name: str) -> Array:
        """Return an output (A, D) of all requests, one after the other."""
        return np.concatenate([as_rows(one[name]) for one in self.answers])

    def flat(self, name: str) -> Array:
        """Return all values of an output."""
        return np.concatenate([one[name].ravel() for one in self.answers])

    def tables(self) -> Iterator[tuple[str, int, int]]:
        """Yield the name, the rows and the columns of each output with two axes."""
        for name in self.answers[0]:
            shape = self.shape(name)
            if len(shape) == 2:
                yield name, shape[0], shape[1]

    def decoder(
        self, layout: str, names: Sequence[str], boxes: str, values: Array, columns: int | None = None
    ) -> Decoder:
        """Return a decoder; `values` are all class scores or logits."""
        columns = self.classes if columns is None else columns
        background = self.background if columns == self.classes else columns - 1
        is_score = bool(((values >= 0) & (values <= 1)).all())
        activation = "none" if is_score else "sigmoid" if background is None else "softmax"
        return Decoder(layout, tuple(names), columns, self.size, boxes, background, activation)


class Form(NamedTuple):
    """A form: what it is in words, and the function that returns its decoder, or None for other outputs."""

    words: str
    match: Callable[[Outputs], Decoder | None]


def recognise(
    answers: Sequence[Mapping[str, Array]], names: Sequence[str], size: tuple[int, int], wanted: str | None = None
) -> tuple[str, Decoder]:
    """Return the form and the decoder of outputs of a few requests, for a detector of classes with `names`.

    `size` is the height and width of the input, `wanted` a key of FORMS. Raises ConfigError for outputs of no known form or several,
    and NothingFoundError.
    """
    if wanted is not None and wanted not in FORMS:
        raise ConfigError(f"decode: no form '{wanted}'{nearest(wanted, FORMS)} The forms are: {', '.join(FORMS)}")
    outputs = Outputs(answers, len(names), size, names.index(BACKGROUND) if BACKGROUND in names else None)
    tried = FORMS if wanted is None else {wanted: FORMS[wanted]}
    found = {name: decoder for name, form in tried.items() if (decoder := form.match(outputs)) is not None}
    shown = ", ".join(f"{name} {tuple(array.shape)}" for name, array in answers[0].items())
    if not found:
        known = "; ".join(f"{name}: {form.words}" for name, form in tried.items())
        raise ConfigError(f"no known form of outputs for {len(names)} classes: {shown}; known forms are {known}")
    if len(found) > 1:
        raise ConfigError(f"the outputs {shown} fit several forms: {', '.join(found)}; choose one with decode")
    return next(iter(found.items()))


def object_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the classes that are objects."""
    return tuple(name for name in names if name != BACKGROUND)


def decoder_array(decoder: Decoder) -> dict[str, Array]:
    """Return a decoder as the array that a device reads beside recorded inputs."""
    return {DECODER: np.array([json.dumps(decoder._asdict())])}


def requests_of(outputs: Mapping[str, Array], count: int) -> list[dict[str, Array]]:
    """Return the first `count` requests of stacked outputs (R, ...)."""
    least = min(count, *(len(values) for values in outputs.values()))
    return [{name: values[place] for name, values in outputs.items()} for place in range(least)]


def describe_decoder(form: str, decoder: Decoder) -> str:
    """Return a form and its details in words."""
    unit = "shares of the input" if decoder.relative else "pixels"
    boxes = {
        "corners": f"corners in {unit}", "corners-yx": f"corners in {unit}, y first", "centres": f"centres and sizes in {unit}",
        "cells": "centres and sizes in relation to cells", "distances": "distributions over distances from cells",
    }[decoder.boxes]  # fmt: skip
    scores = "scores" if decoder.activation == "none" else f"logits for a {decoder.activation}"
    background = "" if decoder.background is None else f", class {decoder.background} is the background"
    final = ", suppression is part of the model" if decoder.suppressed else ""
    return f"{form}: {scores}, boxes are {boxes}{background}{final}"


# --- forms: functions of outputs, which return a decoder or None -------------------------------------------------------------------


def _pair(outputs: Outputs, width: Callable[[int], bool]) -> tuple[str, str, int] | None:
    """Return the names of the class output and the box output, and the columns of the class output, if there is one such pair.

    Names decide between several pairs.
    """
    boxes = [(name, rows) for name, rows, columns in outputs.tables() if width(columns)]
    found = [
        (scores, name, columns)
        for name, count in boxes
        for scores, rows, columns in outputs.tables()
        if rows == count and columns in (outputs.classes, outputs.classes + 1) and scores != name
    ]
    if len(found) > 1:
        found = [one for one in found if "box" in one[1].lower() and "box" not in one[0].lower()]
    return found[0] if len(found) == 1 else None


def _scores_and_boxes(outputs: Outputs) -> Decoder | None:
    found = _pair(outputs, lambda columns: columns == 4)
    return None if found is None or not _are_corners(outputs.rows(found[1])) else _plain_pair(outputs, found, "corners")


def _detr(outputs: Outputs) -> Decoder | None:
    found = _pair(outputs, lambda columns: columns == 4)
    if found is None or _are_corners(outputs.rows(found[1])):
        return None
    return _plain_pair(outputs, found, "centres")._replace(suppressed=True)


def _plain_pair(outputs: Outputs, found: tuple[str, str, int], boxes: str) -> Decoder:
    """Return the decoder of class scores beside boxes; a class that has no name is the first for corners, as in SSD, else the last."""
    scores, name, columns = found
    decoder = outputs.decoder("apart", (scores, name), boxes, outputs.rows(scores), columns)
    if columns > outputs.classes and boxes == "corners":
        decoder = decoder._replace(background=0)
    return _measured(decoder, outputs.rows(name))


def _measured(decoder: Decoder, boxes: Array) -> Decoder:
    return decoder._replace(relative=bool(np.abs(boxes).max(initial=0) <= LARGEST_SHARE))


def _are_corners(boxes: Array) -> bool:
    return bool(((boxes[:, 2] >= boxes[:, 0]) & (boxes[:, 3] >= boxes[:, 1])).mean() >= ORDERED)


def _joined(outputs: Outputs, columns: int) -> tuple[str, Array] | None:
    """Return the name and the rows (A, columns) of the only output of this form, transposed or not."""
    found = [(name, width == columns) for name, rows, width in outputs.tables() if columns in (rows, width)]
    if len(found) != 1:
        return None
    name, is_upright = found[0]
    parts = [as_rows(one[name]) for one in outputs.answers]
    return name, np.concatenate(parts if is_upright else [part.T for part in parts])


def _yolo(outputs: Outputs) -> Decoder | None:
    found = _joined(outputs, 4 + outputs.classes)
    if found is None:
        return None
    name, rows = found
    decoder = outputs.decoder("boxes first", [name], "centres", rows[:, 4:])
    return _measured(decoder, rows[:, :4]) if (rows[:, 2:4] >= 0).all() else None


def _yolo_objectness(outputs: Outputs) -> Decoder | None:
    found = _joined(outputs, 5 + outputs.classes)
    if found is None or (found[1][:, 2:4] < 0).any():
        return None
    name, rows = found
    return _measured(outputs.decoder("boxes, objectness", [name], "centres", rows[:, 4:]), rows[:, :4])


def _yolox(outputs: Outputs) -> Decoder | None:
    found = _joined(outputs, 5 + outputs.classes)
    if found is None or not (found[1][:, 2:4] < 0).any():
        return None
    name, rows = found
    strides = _strides(outputs, len(rows) // len(outputs.answers))
    decoder = outputs.decoder("boxes, objectness", [name], "cells", rows[:, 4:])
    return None if strides is None else decoder._replace(strides=strides)


def _strides(outputs: Outputs, cells: int) -> tuple[int, ...] | None:
    return next((strides for strides in STRIDES if len(grid(outputs.size, strides)[0]) == cells), None)


def _gfl(outputs: Outputs) -> Decoder | None:
    joined = _joined_distributions(outputs)
    return _levels(outputs) if joined is None else joined


def _nanodet_plus(outputs: Outputs) -> Decoder | None:
    joined = _joined_distributions(outputs)
    return None if joined is None or len(joined.strides) < 4 else joined._replace(offset=0.0)


def _joined_distributions(outputs: Outputs) -> Decoder | None:
    """Return the decoder of one output with class scores, then box distributions."""
    classes = outputs.classes
    found = [
        (name, rows, strides)
        for name, rows, columns in outputs.tables()
        if _is_distribution(columns - classes) and (strides := _strides(outputs, rows)) is not None
    ]
    if len(found) != 1:
        return None
    name, _, strides = found[0]
    decoder = outputs.decoder("classes first", [name], "distances", outputs.rows(name)[:, :classes])
    return decoder._replace(strides=strides)


def _levels(outputs: Outputs) -> Decoder | None:
    """Return the decoder of outputs for class scores and for box distributions, one pair for all levels or one for each."""
    tables = list(outputs.tables())
    counts = sorted({rows for _, rows, _ in tables}, reverse=True)
    names: list[str] = []
    for count in counts:
        scores = [name for name, rows, columns in tables if (rows, columns) == (count, outputs.classes)]
        boxes = [
            name for name, rows, columns in tables if rows == count and name not in scores and _is_distribution(columns)
        ]
        if (len(scores), len(boxes)) == (1, 1):
            names += scores + boxes
    strides = _strides(outputs, sum(outputs.shape(name)[0] for name in names[::2])) if names else None
    if strides is None:
        return None
    values = np.concatenate([outputs.flat(name) for name in names[::2]])
    return outputs.decoder("apart", names, "distances", values)._replace(strides=strides)


def _is_distribution(columns: int) -> bool:
    return columns % 4 == 0 and columns >= 4 * FEWEST_BINS


def _rows(outputs: Outputs) -> Decoder | None:
    found = [name for name, _, columns in outputs.tables() if columns == 6]
    if len(found) != 1:
        return None
    rows = outputs.rows(found[0])
    if not _are_numbers(rows[:, 5], outputs.classes) or not ((rows[:, 4] >= 0) & (rows[:, 4] <= 1)).all():
        return None
    return _final(outputs, "final rows", found, rows[:, :4], "corners")


def _lists(outputs: Outputs) -> Decoder | None:
    return None if _is_tensorflow(outputs) else _final_lists(outputs, "corners")


def _lists_yx(outputs: Outputs) -> Decoder | None:
    return _final_lists(outputs, "corners-yx") if _is_tensorflow(outputs) else None


def _is_tensorflow(outputs: Outputs) -> bool:
    """Return whether outputs have the names of TensorFlow's object detection, whose boxes have y first."""
    return any(name.startswith(("detection_", "TFLite_Detection")) for name in outputs.answers[0])


def _final_lists(outputs: Outputs, boxes: str) -> Decoder | None:
    """Return the decoder of boxes (N, 4), scores (N) and class numbers (N), and a number of detections if there is one."""
    answer = outputs.answers[0]
    tables = [(name, rows) for name, rows, columns in outputs.tables() if columns == 4]
    if len(tables) != 1:
        return None
    ((table, count),) = tables
    counts = [name for name, array in answer.items() if array.size == 1 and count != 1]
    lists = [name for name, array in answer.items() if name not in (table, *counts) and array.size == count]
    classes = [name for name in lists if _are_numbers(outputs.flat(name), outputs.classes)]
    scores = [name for name in lists if name not in classes]
    if (len(classes), len(scores)) != (1, 1):
        return None
    return _final(outputs, "final lists", (table, scores[0], classes[0], *counts[:1]), outputs.rows(table), boxes)


def _are_numbers(values: Array, classes: int) -> bool:
    """Return whether values are class numbers; unused rows may have -1."""
    return bool((values == np.rint(values)).all() and (values >= -1).all() and (values < classes).all())


def _final(outputs: Outputs, layout: str, names: Sequence[str], boxes: Array, kind: str) -> Decoder:
    if not boxes.any():
        raise NothingFoundError(
            f"the detector finds nothing in the first {len(outputs.answers)} inputs, so the unit of its boxes is unknown; give inputs "
            "in which it finds something, and check their mean, std and channels"
        )
    return _measured(outputs.decoder(layout, names, kind, np.zeros(0)), boxes)._replace(suppressed=True)


FORMS: Final[dict[str, Form]] = {
    "scores+boxes": Form("class scores (A, C) beside boxes (A, 4) of x1, y1, x2, y2", _scores_and_boxes),
    "detr": Form("class scores (A, C) beside boxes (A, 4) of x, y, width, height, without suppression", _detr),
    "yolo": Form("(A, 4 + C) or (4 + C, A): x, y, width, height and class scores", _yolo),
    "yolo-objectness": Form("(A, 5 + C): x, y, width, height, objectness and class scores", _yolo_objectness),
    "yolox": Form("(A, 5 + C): the same in relation to cells", _yolox),
    "gfl": Form("class scores and distributions over the distances of sides from cells, in one output or in levels", _gfl),
    "nanodet-plus": Form("one output as of gfl, with four levels and distances from the corners of cells", _nanodet_plus),
    "rows": Form("detections (N, 6) of x1, y1, x2, y2, score, class", _rows),
    "lists": Form("detections as boxes (N, 4), scores (N) and classes (N)", _lists),
    "lists-yx": Form("the same with y first, named as in TensorFlow", _lists_yx),
}  # fmt: skip
"""The known forms of outputs by name; A boxes or cells, C classes, N detections."""
