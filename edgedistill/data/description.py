"""The description of training data, which a configuration is written from."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from edgedistill.errors import ConfigError
from edgedistill.records.base import Record
from edgedistill.records.stages import KindName

Array = npt.NDArray[Any]
FEWEST = 4
"""The smallest number of samples per class: fewer cannot be split into training, validation and test sets."""

CONSTANT: Final = 1e-7
"""A channel whose deviation is at most this share of its largest value is constant: less than float32 can tell apart."""

DataForm = Literal["images", "audio", "signals", "tokens", "boxes", "masks", "texts"]
FORMS: Final[dict[KindName, DataForm]] = {"image": "images", "signal": "signals", "tokens": "tokens"}


class DataProfile(Record):
    """A description of training data.

    `summary` is one line for the user; `keys` are the keys of [data]; `train` is the number of training samples; `fewest`
    is the number of samples in the smallest class. `side` is the smaller side of an image after resizing, in pixels, or
    the number of bins of a log-mel spectrogram.
    """

    form: DataForm
    summary: str
    keys: dict[str, Any]
    train: int
    classes: int
    fewest: int
    side: int

    @property
    def is_regression(self) -> bool:
        """Whether the labels are values, not classes."""
        return self.keys.get("task") == "regression"


def profile_of(
    form: DataForm, summary: str, keys: dict[str, Any], side: int, names: Sequence[str], count: int | None = None
) -> DataProfile:
    """Return the profile of samples with the names of their classes, if they have classes; ConfigError for a class that is too small."""
    classes = Counter(names)
    few = min(classes, key=lambda name: classes[name], default=None)
    if few is not None and classes[few] < FEWEST:
        raise ConfigError(f"data: class '{few}' has {classes[few]} samples; each class needs at least {FEWEST}")
    described = f"{summary}; {len(classes)} classes with {_sizes(classes)}" if classes else summary
    return DataProfile(
        form=form, summary=described, keys=keys, train=len(names) if count is None else count, classes=len(classes),
        fewest=min(classes.values(), default=0), side=side,
    )  # fmt: skip


def statistics(values: Array, scale: int) -> dict[str, Any]:
    """Return the mean and standard deviation per channel of samples (N, positions, channels), as [data] mean and std.

    A mean that is large beside its deviation, such as that of an air pressure, has more digits. Constant channels have the deviation 1.
    """
    flat = values.reshape(-1, values.shape[-1]).astype(np.float64) / scale
    mean, std = flat.mean(axis=0), flat.std(axis=0)
    std[std <= CONSTANT * np.abs(flat).max(axis=0)] = 1
    return {
        "mean": [float(f"{x:.{_digits(x / y)}g}") for x, y in zip(mean, std, strict=True)],
        "std": [float(f"{x:.3g}") for x in std],
    }


def _digits(ratio: float) -> int:
    """Return the digits of a mean that is `ratio` deviations from 0: the error is at most 0.05 deviations."""
    return 3 if abs(ratio) <= 10 else 2 + math.ceil(math.log10(abs(ratio)))


def _sizes(classes: Counter[str]) -> str:
    """Return how many samples the classes have, in words: "20 to 100 samples each"."""
    least, most = min(classes.values()), max(classes.values())
    return f"{least} samples each" if least == most else f"{least} to {most} samples each"
