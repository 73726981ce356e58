"""How a configuration asks to read a source, and what reading the pictures of a source gives."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy.typing as npt

from edgedistill.data.geometry import Resizing
from edgedistill.data.text import TextSettings
from edgedistill.records.finding import Finding
from edgedistill.records.stages import SplitName

Array = npt.NDArray[Any]


class Reading(NamedTuple):
    """What the configuration says about reading a source, apart from its place; the keys are those of [data].

    `classes` are the names that the configuration gives, or those of the training source. `split` is the key of the source, and
    `content` the hash of its content, None if it is not known. Grey images of an `is_colour` source are read as colour. `text` is how
    texts are read, None for other data.
    """

    task: str = "classification"
    split: SplitName = "train"
    resizing: Resizing | None = None
    seconds: float | None = None
    void: int = 255
    classes: tuple[str, ...] | None = None
    images: str | None = None
    skip_bad: bool = False
    content: str | None = None
    is_colour: bool = False
    text: TextSettings | None = None

    @property
    def has_labels(self) -> bool:
        """Whether labels are read with the samples."""
        return self.split != "unlabelled"


class Labelled(NamedTuple):
    """Pictures (N, H, W[, 3]), uint8, with labels (N, ...); `files` are their names, and `left_out` those of unusable ones.

    Each name in `left_out` has its reason. `findings` say what is odd about the labels and how it was handled.
    """

    inputs: Array
    labels: Array
    classes: tuple[str, ...] | None
    files: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
