"""Find samples that are in several splits, and training samples whose copies have other labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from edgedistill.data.sources import Array, Arrays
from edgedistill.records.finding import Finding

Keys = npt.NDArray[np.int64]
Name = Callable[[int], str]
"""Names the sample of a row for a message."""

NOTEWORTHY: Final = 0.01
"""The share of a split from which on copies are a warning: fewer hardly move a figure."""

EXAMPLES: Final = 3


def digests(inputs: Arrays, rows: Array) -> Keys:
    """Return a 64-bit hash of the content of each sample; equal hashes mean identical samples, in this process only."""
    arrays = list(inputs.values())
    return np.fromiter((hash(tuple(values[row].tobytes() for values in arrays)) for row in rows), np.int64, len(rows))


def shared(split: str, found: Keys, train: Keys, names: tuple[Name, Name]) -> Iterator[Finding]:
    """Yield a finding if samples of a split are identical to training samples; `names` are those of the split and of train."""
    copied = np.flatnonzero(np.isin(found, train))
    if not len(copied):
        return
    share = len(copied) / len(found)
    pairs = [f"{names[0](int(at))} is {names[1](int(np.argmax(train == found[at])))}" for at in copied[:EXAMPLES]]
    yield Finding(
        severity="warning" if share >= NOTEWORTHY else "note", subject=f"data.{split}",
        text=f"{len(copied):,} of {len(found):,} samples ({100 * share:.2g} %) are identical to training samples ({', '.join(pairs)}); "
        "a model can know their answers by heart: remove them from one of the two sets",
    )  # fmt: skip


def conflicting(keys: Keys, classes: Array, titles: tuple[str, ...], name: Name) -> Iterator[Finding]:
    """Yield a finding if identical training samples have different classes."""
    order = np.lexsort((classes, keys))
    same = keys[order][1:] == keys[order][:-1]
    differ = same & (classes[order][1:] != classes[order][:-1])
    if not differ.any():
        return
    groups = np.unique(keys[order][1:][differ])
    count = int(np.isin(keys, groups).sum())
    pairs = [sorted((int(order[at]), int(order[at + 1]))) for at in np.flatnonzero(differ)[:EXAMPLES]]
    shown = [f"{name(a)} is '{titles[classes[a]]}', {name(b)} is '{titles[classes[b]]}'" for a, b in pairs]
    yield Finding(
        severity="warning", subject="data.train",
        text=f"{count:,} identical samples have different labels ({'; '.join(shown)}); correct the labels, or remove the samples",
    )  # fmt: skip
