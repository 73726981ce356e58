"""What checks need to know of the content of samples, in one pass over each split: the data may be larger than memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgedistill.data.checks import samples_at_once
from edgedistill.data.dataset import Split
from edgedistill.data.near_duplicates import Floats, thumbnails_of
from edgedistill.data.sources import Array
from edgedistill.records.stages import KindName

Keys = npt.NDArray[np.int64]
PROBES: Final = 16
"""Only samples with one value at this many places are searched whole."""


class Contents(NamedTuple):
    """The contents of the samples of a split, in its order.

    `keys` (N,) are 64-bit hashes; equal hashes mean identical samples, in this process only. `are_constant` (N,) are samples that
    hold one value everywhere. `thumbnails` (N, height, width) are those of a single input of pictures, otherwise None.
    """

    keys: Keys
    are_constant: npt.NDArray[np.bool_]
    thumbnails: Floats | None


def contents_of(split: Split, kinds: Sequence[KindName]) -> Contents:
    """Read all samples of a split once; `kinds` are the kinds of its inputs."""
    inputs = split.inputs.values()
    keys, constant = np.empty(len(split), np.int64), np.ones(len(split), bool)
    thumbnails: list[Floats | None] = []
    step = min(samples_at_once(values) for values in inputs)
    for start in range(0, len(split), step):
        part = slice(start, start + step)
        blocks = [np.ascontiguousarray(values[split.rows[part]]) for values in inputs]
        keys[part] = [hash(tuple(block[i].tobytes() for block in blocks)) for i in range(len(blocks[0]))]
        for block in blocks:
            constant[part] &= _are_constant(block)
        thumbnails.append(thumbnails_of(blocks[0]) if list(kinds) == ["image"] else None)
    found = [one for one in thumbnails if one is not None]
    return Contents(keys, constant, np.concatenate(found) if found else None)


def _are_constant(block: Array) -> npt.NDArray[np.bool_]:
    """Return which samples hold one value everywhere."""
    flat = block.reshape(len(block), -1)
    probes = flat[:, np.linspace(0, flat.shape[1] - 1, PROBES).astype(int)]
    found: npt.NDArray[np.bool_] = (probes == probes[:, :1]).all(1)
    candidates = np.flatnonzero(found)
    found[candidates] = (flat[candidates] == flat[candidates, :1]).all(1)
    return found
