"""Planted faults of labels, and forms of labels that are taken."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from planted import Array, Fault, save_job


def _labels(
    planted: str, change: Callable[[Array], Array], code: int, says: str, split: str = "both", **tables: Any
) -> Fault:
    """Plant a fault in the labels of one split or of both."""

    def write(arrays: dict[str, Array]) -> None:
        arrays["labels"] = change(arrays["labels"])

    make = partial(save_job, change=write, split=split, **tables)
    return Fault("labels", planted, make, "run edgedistill.toml --until data", code, says, doctor=code != 0)


def _with(value: float) -> Callable[[Array], Array]:
    def change(labels: Array) -> Array:
        changed = labels.astype(np.float64 if value % 1 or not np.isfinite(value) else np.int64)
        changed[17] = value
        return changed

    return change


NAMES = np.array(["dog", "cat", "eel", "ant"])
FAULTS = (
    _labels("columns (N, 1), as Keras has them: taken", lambda labels: labels[:, None], 0, "data: done"),
    _labels("whole numbers as floats: taken", lambda labels: labels.astype(np.float32), 0, "data: done"),
    _labels("names: taken as classes", lambda labels: NAMES[labels], 0, "data: done"),
    _labels("numbers from 1 to 4: four classes", lambda labels: labels + 1, 0, "1, 2, 3, 4"),
    _labels("numbers with gaps", lambda labels: labels * 10, 0, "0, 10, 20, 30"),
    _labels("a label of 1,000,000,000", _with(10**9), 2, "1000000000", split="train"),
    _labels("a label of -1", _with(-1), 2, "-1", split="train"),
    _labels("a label that is NaN", _with(np.nan), 2, "nan", split="train"),
    _labels("a label of 1.5", _with(1.5), 2, "1.5", split="train"),
    _labels("all labels are equal", lambda labels: labels * 0, 2, "class"),
    _labels("rows of zeros and ones (N, 4)", lambda labels: np.eye(4, dtype=np.int64)[labels], 2, "argmax"),
    _labels("a test label that training data lacks", _with(9), 2, "9", split="test"),
    _labels("names in training, numbers in the test set", lambda labels: NAMES[labels], 2, "labels are", split="train"),
    _labels("a name that training data lacks", lambda labels: np.where(np.arange(len(labels)) == 5, "fox", NAMES[labels]), 2, "fox", split="both", data={"classes": list(NAMES)}),
    _labels("two names for four classes", lambda labels: labels, 2, "classes", data={"classes": ["a", "b"]}),
    _labels("objects", lambda labels: np.array([str(label) for label in labels], dtype=object), 2, "train.npz"),
)  # fmt: skip
