"""Rows of arrays that may be larger than memory, as one array that is read where it is indexed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Rows:
    """The rows `index` of arrays of the same type and shape, which are counted through as if they were concatenated.

    Nothing is copied but what is indexed: by numbers, slices and arrays along the first axis, and anything along the others.
    """

    def __init__(self, parts: Sequence[Array], index: Array) -> None:
        self.parts, self.index = parts, index
        self.starts = np.cumsum([0, *(len(part) for part in parts)])
        self.shape: tuple[int, ...] = (len(index), *parts[0].shape[1:])
        self.dtype, self.ndim = parts[0].dtype, parts[0].ndim

    @property
    def size(self) -> int:
        """The number of values."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return len(self.index)

    def __iter__(self) -> Iterator[Array]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, key: Any) -> Array:
        rows, others = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
        chosen = self.index[rows]
        owners = np.searchsorted(self.starts, chosen, "right") - 1
        if chosen.ndim == 0:
            owner = int(owners)
            return self.parts[owner][(chosen - self.starts[owner], *others)]
        read = np.empty((*chosen.shape, *self.shape[1:]), self.dtype)
        for number in np.unique(owners):
            mine = owners == number
            read[mine] = self.parts[number][chosen[mine] - self.starts[number]]
        return read[(slice(None), *others)] if others else read

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:  # noqa: FBT001 - numpy's signature
        return self[:] if dtype is None else self[:].astype(dtype, copy=False)


def pick(values: Array, rows: Array) -> Array:
    """Return rows of an array without reading them."""
    whole: object = values  # an array to its users
    parts, index = (whole.parts, whole.index) if isinstance(whole, Rows) else ([values], np.arange(len(values)))
    return cast("Array", Rows(parts, index[rows]))


def join(parts: Sequence[Array]) -> Array:
    """Return arrays one after the other, without reading them."""
    return cast("Array", Rows(parts, np.arange(sum(map(len, parts)))))
