"""Checks of the values of inputs that hold for data of every kind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill.errors import ConfigError

Array = npt.NDArray[Any]


def check_varied(where: str, inputs: Iterable[Array]) -> None:
    """Raise ConfigError if all samples are identical in every input; stops at the first sample that differs."""
    arrays = list(inputs)
    count = len(arrays[0])
    if count > 1 and all(np.array_equal(row, values[0]) for values in arrays for row in values[1:]):
        raise ConfigError(f"{where}: all {count} samples are identical; check how the data was made")
