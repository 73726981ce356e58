"""Examine a loaded data set: what `init`, `run` and `doctor` say about its splits, classes and values."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgedistill.data.dataset import Dataset
from edgedistill.data.duplicates import conflicting, digests, shared
from edgedistill.records.finding import Finding
from edgedistill.tasks.table import find_task


def examine(dataset: Dataset) -> tuple[Finding, ...]:
    """Return what is wrong or odd about a data set, whatever is built on it; errors first."""
    found = [*_examine_splits(dataset)]
    order = ("error", "warning", "note")
    return tuple(sorted(found, key=lambda one: order.index(one.severity)))


def _examine_splits(dataset: Dataset) -> Iterator[Finding]:
    train = dataset.train
    keys = digests(train.inputs, train.rows)
    for name, split in (("val", dataset.val), ("test", dataset.test)):
        yield from shared(name, digests(split.inputs, split.rows), keys, (split.name_of, train.name_of))
    classes = find_task(dataset.record.task).strata(train.labels)
    if classes is not None:
        yield from conflicting(keys, np.asarray(classes), dataset.record.classes, train.name_of)
