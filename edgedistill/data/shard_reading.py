"""Read the pictures and labels of shards into the cache of decoded pictures."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from edgedistill.data.boxes import Annotations, read_boxed
from edgedistill.data.decoding import Decoding, Read, decode
from edgedistill.data.files import IMAGES, Broken, names_below
from edgedistill.data.images import decode_image, mode_of_files
from edgedistill.data.parquet import table_boxes, table_samples
from edgedistill.data.reading import Labelled, Reading
from edgedistill.data.shards import SCHEMA, Label, Samples, Shards
from edgedistill.data.webdataset import tar_samples
from edgedistill.errors import ConfigError
from edgedistill.runtime.progress import Reporter

Array = npt.NDArray[Any]


def samples_of(shards: Shards, reading: Reading) -> Samples:
    """Return the pictures in shards with their labels, which are read but for data.unlabelled."""
    return table_samples(shards, reading) if shards.are_tables else tar_samples(shards, reading)


def read_shards(shards: Shards, reading: Reading, report: Reporter) -> Labelled:
    """Read pictures (N, H, W[, 3]), uint8, and their labels; raises ConfigError for shards that the task cannot use."""
    if reading.has_labels and reading.task == "detection":
        return read_boxed(_annotations(shards, reading), reading, report)
    if reading.has_labels and reading.task == "segmentation":
        raise ConfigError(
            f"data.{reading.split}: shards hold no masks for task 'segmentation'; unpack them into folders images and masks"
        )
    samples = samples_of(shards, reading)
    paths = [shards.root / name for name in samples.names]
    number = {path: place for place, path in enumerate(paths)}
    if len(number) < len(paths):
        raise ConfigError(
            f"data.{reading.split}: two samples have the same name in one of {len(shards.files):,} shards"
        )

    def opener(path: Path) -> BinaryIO:
        return BytesIO(samples.read(number[path]))

    def prepare(broken: Broken) -> Read:
        broken.update({paths[place]: reason for place, reason in samples.broken.items()})
        mode = "RGB" if reading.is_colour else mode_of_files(paths, broken, opener)
        return lambda path: {"inputs": decode_image(path, reading.resizing, mode, opener)}

    key = [SCHEMA, reading.content, reading.has_labels, reading.is_colour, reading.resizing]
    found = decode(paths, Decoding(key, prepare, IMAGES, reading.skip_bad, report))
    labels = _labels([samples.labels[number[path]] for path in found.files], reading)
    left_out = tuple(f"{samples.names[number[path]]} ({reason})" for path, reason in found.broken.items())
    return Labelled(
        found.arrays["inputs"], labels, samples.classes, tuple(names_below(found.files, shards.root)), left_out, samples.ignored
    )  # fmt: skip


def _annotations(shards: Shards, reading: Reading) -> Annotations:
    if not shards.are_tables:
        raise ConfigError(
            f"data.{reading.split}: WebDataset has no convention for boxes; use Parquet with a column 'objects', or COCO, YOLO or VOC files"
        )
    return table_boxes(shards, reading)


def _labels(labels: Sequence[Label | None], reading: Reading) -> Array:
    """Return labels as an array: numbers, names, or rows of numbers."""
    if not reading.has_labels:
        return np.empty((len(labels), 0), np.float32)
    kinds = {
        "names" if isinstance(label, str) else "lists" if isinstance(label, list) else "numbers" for label in labels
    }
    if len(kinds) > 1:
        raise ConfigError(
            f"data.{reading.split}: some labels are {' and some '.join(sorted(kinds))}; store labels of one kind"
        )
    lengths = {len(label) for label in labels if isinstance(label, list)}
    if len(lengths) > 1:
        raise ConfigError(
            f"data.{reading.split}: labels are lists of {min(lengths)} to {max(lengths)} numbers; store as many for each sample"
        )
    return np.array(labels)
