"""Examine a loaded data set: what `init`, `run` and `doctor` say about its splits, classes and values."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from edgedistill.data.dataset import Dataset
from edgedistill.data.duplicates import find_conflicts, find_copies, know
from edgedistill.records.finding import Finding
from edgedistill.tasks.table import find_task


@lru_cache(maxsize=1)
def examine(dataset: Dataset) -> tuple[Finding, ...]:
    """Return what is wrong or odd about a data set, whatever is built on it; errors first."""
    found = [*_examine_splits(dataset)]
    order = ("error", "warning", "note")
    return tuple(sorted(found, key=lambda one: order.index(one.severity)))


def _examine_splits(dataset: Dataset) -> Iterator[Finding]:
    record = dataset.record
    train = know(dataset.train, [one.kind for one in record.inputs])
    yield from find_copies("val", dataset.val, train)
    yield from find_copies("test", dataset.test, train)
    classes = find_task(record.task).strata(dataset.train.labels)
    if classes is not None:
        yield from find_conflicts(train, np.asarray(classes), record.classes)
