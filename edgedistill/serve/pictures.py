"""Select a few pictures of the test set for a page, each with its label."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgedistill.data.shown import picture_of
from edgedistill.records.base import Record
from edgedistill.records.contract import Contract, PictureRules

Array = npt.NDArray[Any]
MOST: Final = 12
"""The number of pictures; those of a large input have a few hundred kilobytes each."""


class Label(Record):
    """The label of a picture: class numbers, boxes (class, x1, y1, x2, y2, in pixels), values, or a mask, which is a picture too."""

    classes: tuple[int, ...] | None = None
    boxes: tuple[tuple[float, ...], ...] | None = None
    values: tuple[float, ...] | None = None
    mask: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture of the test set, uint8 (H, W, 3) or (H, W), its label, and its mask (H, W), if that is the label."""

    pixels: Array
    label: Label
    mask: Array | None = None


def samples_of(io: Path, contract: Contract) -> tuple[Sample, ...]:
    """Return pictures of the recorded requests, evenly spread over the test set; none if the model takes no pictures."""
    rules = contract.picture
    if rules is None:
        return ()
    with np.load(io, allow_pickle=False) as archive:
        requests, labels = archive[f"input.{contract.input}"], archive["labels"]
    chosen = np.unique(np.linspace(0, len(requests) - 1, min(MOST, len(requests))).round().astype(int))
    return tuple(_sample(requests[i], labels[i], rules, contract.task) for i in chosen)


def as_png(pixels: Array) -> bytes:
    """Return an image, uint8 (H, W, 3) or (H, W), as a PNG file."""
    from PIL import Image

    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _sample(request: Array, label: Array, rules: PictureRules, task: str) -> Sample:
    made = LABELS[task](label)
    return Sample(picture_of(request, rules), made, label if made.mask else None)


def _class(label: Array) -> Label:
    return Label(classes=(int(label),))


def _classes(label: Array) -> Label:
    return Label(classes=tuple(np.flatnonzero(label > 0).tolist()))


def _values(label: Array) -> Label:
    return Label(values=tuple(np.ravel(label).tolist()))


def _boxes(label: Array) -> Label:
    """Read boxes (M, 7), without unused rows and crowds."""
    used = label[(label[:, 0] >= 0) & (label[:, 6] == 0)]
    return Label(boxes=tuple(tuple(row) for row in used[:, :5].tolist()))


def _mask(_label: Array) -> Label:
    return Label(mask=True)


LABELS: Final[Mapping[str, Callable[[Any], Label]]] = {
    "classification": _class, "multi-label": _classes, "regression": _values, "embedding": _values, "detection": _boxes, "segmentation": _mask,
}  # fmt: skip
