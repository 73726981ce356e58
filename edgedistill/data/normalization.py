"""Whether the mean and std of a configuration fit the data: what models get should lie around 0."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from edgedistill.data.kinds import kind_of
from edgedistill.data.settings import Normalization, ViewSettings
from edgedistill.records.finding import Finding

if TYPE_CHECKING:
    from edgedistill.data.dataset import Dataset

SAMPLES: Final = 256
FEWEST, LARGEST = 16, 1 << 23
"""At least this many samples, and otherwise at most this many values are read."""

FARTHEST: Final = 20.0
"""The largest mean and deviation of inputs that are plausible; fitting ones are about 0 and 1, images in [0, 1] are smaller."""


def find_misfits(dataset: Dataset, views: ViewSettings) -> Iterator[Finding]:
    """Yield a finding for each input whose normalised values are far from 0: `mean` and `std` do not fit, or are missing.

    A std without a mean is taken for a scale that the user chose, such as 1/255 for a network that takes raw pixels.
    """
    from edgedistill.data.views import plain_views

    train = dataset.train
    largest = max(max(1, values[0].size) for values in train.inputs.values())
    count = min(SAMPLES, len(train), max(FEWEST, LARGEST // largest))
    some = np.linspace(0, len(train) - 1, count).astype(np.int64)
    batch = plain_views(train, dataset.record, views).batch(some, some * 0)
    for record in dataset.record.inputs:
        given = views.inputs.get(record.name, Normalization())
        if not kind_of(record).normalised or (given.std is not None and not any(given.mean or ())):
            continue
        values = batch[record.name].double().movedim(1, -1).flatten(0, -2).numpy()
        mean, std = values.mean(0), values.std(0)
        if max(np.abs(mean).max(), std.max()) > FARTHEST:
            prefix = "data" if len(train.inputs) == 1 else f"data.inputs.{record.name}"
            yield _misfit(prefix, given, mean, std)


def _misfit(subject: str, given: Normalization, mean: np.ndarray, std: np.ndarray) -> Finding:
    offset, scale = np.array(given.mean or 0.0), np.array(given.std or 1.0)
    fitting = {"mean": mean * scale + offset, "std": np.maximum(std * scale, 1e-3)}
    keys = [f"{key} = [{', '.join(f'{x:.3g}' for x in values)}]" for key, values in fitting.items()]
    are = "are not normalised" if given == Normalization() else "have mean and std that do not fit"
    return Finding(
        severity="warning", subject=f"{subject}.mean",
        text=f"inputs {are}: models get values around {mean[np.abs(mean).argmax()]:.3g} with deviation {std.max():.3g}; "
        f"set {' and '.join(keys)}, as measured on training samples",
    )  # fmt: skip
