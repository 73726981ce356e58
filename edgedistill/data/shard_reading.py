"""Read the pictures and labels of shards into the cache of decoded pictures."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from edgedistill.data.boxes import Annotations, read_boxed
from edgedistill.data.decoding import Decoding, Read, decode
from edgedistill.data.files import IMAGES, Broken, names_below
from edgedistill.data.images import Opener, decode_image, mode_of_files
from edgedistill.data.parquet import table_boxes, table_samples
from edgedistill.data.reading import Labelled, Reading
from edgedistill.data.shards import SCHEMA, Label, Shards
from edgedistill.data.webdataset import tar_samples
from edgedistill.errors import ConfigError
from edgedistill.runtime.progress import Reporter

Array = npt.NDArray[Any]


def read_shards(shards: Shards, reading: Reading, report: Reporter) -> Labelled:
    """Read pictures (N, H, W[, 3]), uint8, and their labels; raises ConfigError for shards that the task cannot use."""
    if reading.has_labels and reading.task == "detection":
        return read_boxed(list_boxed(shards, reading), reading, report)
    if reading.has_labels and reading.task == "segmentation":
        raise ConfigError(
            f"data.{reading.split}: shards hold no masks for task 'segmentation'; unpack them into folders images and masks"
        )
    listing = list_pictures(shards, reading)

    def prepare(broken: Broken) -> Read:
        broken.update(listing.broken)
        mode = "RGB" if reading.is_colour else mode_of_files(listing.files, broken, listing.opener)
        return lambda path: {"inputs": decode_image(path, reading.resizing, mode, listing.opener)}

    key = [SCHEMA, reading.content, reading.has_labels, reading.is_colour, reading.resizing]
    found = decode(listing.files, Decoding(key, prepare, IMAGES, reading.skip_bad, report))
    names, wrong = (names_below(files, shards.root) for files in (found.files, found.broken))
    left_out = tuple(f"{name} ({reason})" for name, reason in zip(wrong, found.broken.values(), strict=True))
    labels = listing.labels_of(found.files, reading)
    return Labelled(found.arrays["inputs"], labels, listing.classes, tuple(names), left_out, listing.ignored)


class Listing(NamedTuple):
    """The pictures of shards by their paths, of which `broken` cannot be used, with their labels and what opens them."""

    files: list[Path]
    labels: dict[Path, Label | None]
    broken: Broken
    opener: Opener
    classes: tuple[str, ...] | None
    ignored: tuple[str, ...]

    def labels_of(self, files: Sequence[Path], reading: Reading) -> Array:
        """Return the labels of pictures as an array: numbers, names, or rows of numbers."""
        return _labels([self.labels[file] for file in files], reading)


def list_pictures(shards: Shards, reading: Reading) -> Listing:
    """List the pictures in shards, and read their labels but for data.unlabelled; decodes nothing."""
    samples = table_samples(shards, reading) if shards.are_tables else tar_samples(shards, reading)
    paths = [shards.root / name for name in samples.names]
    number = {path: place for place, path in enumerate(paths)}
    if len(number) < len(paths):
        raise ConfigError(f"data.{reading.split}: two samples of a shard have the same name")
    broken = {paths[place]: reason for place, reason in samples.broken.items()}

    def opener(path: Path) -> BinaryIO:
        return BytesIO(samples.read(number[path]))

    labels = dict(zip(paths, samples.labels, strict=True))
    return Listing(paths, labels, broken, opener, samples.classes, samples.ignored)


def list_boxed(shards: Shards, reading: Reading) -> Annotations:
    """List the annotated pictures in shards; decodes nothing. Raises ConfigError for shards without boxes."""
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
