"""Find samples that are in several splits, and training samples whose copies have other labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgedistill.data.dataset import Split
from edgedistill.data.near_duplicates import Index, Pictures, index_pictures, near_copies
from edgedistill.data.sources import Array
from edgedistill.records.finding import Finding
from edgedistill.records.stages import KindName

Keys = npt.NDArray[np.int64]
Pairs = dict[int, tuple[Split, int]]
"""By the position of a sample, the split and the position of its copy."""

NOTEWORTHY: Final = 0.01
"""The share of a split from which on copies are a warning: fewer hardly move a figure."""

EXAMPLES: Final = 3


class Known(NamedTuple):
    """The training set, a hash of each sample, and an index of its pictures, if its single input is pictures."""

    split: Split
    keys: Keys
    pictures: Index | None


def know(train: Split, kinds: Sequence[KindName]) -> Known:
    """Return what copies of training samples are searched with; `kinds` are the kinds of the inputs."""
    return Known(train, _digests(train), index_pictures(_pictures(train)) if list(kinds) == ["image"] else None)


def find_copies(name: str, split: Split, known: Sequence[Known]) -> Iterator[Finding]:
    """Yield a finding for samples of a split that are identical to known samples, and for nearly identical pictures."""
    keys = _digests(split)
    exact: Pairs = {}
    near: Pairs = {}
    for one in known:
        at, order = np.flatnonzero(np.isin(keys, one.keys)), np.argsort(one.keys, kind="stable")
        _add(exact, at, order[np.searchsorted(one.keys[order], keys[at])], one)
        if one.pictures is not None:
            _add(near, *near_copies(_pictures(split), one.pictures), one)
    where = "training samples" if len(known) == 1 else "training or validation samples"
    yield from _copies(name, f"identical to {where}", split, exact)
    near = {at: other for at, other in near.items() if at not in exact}
    yield from _copies(name, f"nearly identical to {where}", split, near)


def _add(pairs: Pairs, positions: Array, partners: Array, known: Known) -> None:
    for at, other in zip(positions.tolist(), partners.tolist(), strict=True):
        pairs.setdefault(at, (known.split, other))


def _digests(split: Split) -> Keys:
    """Return a 64-bit hash of the content of each sample; equal hashes mean identical samples, in this process only."""
    arrays = list(split.inputs.values())
    hashes = (hash(tuple(values[row].tobytes() for values in arrays)) for row in split.rows)
    return np.fromiter(hashes, np.int64, len(split))


def _pictures(split: Split) -> Pictures:
    (values,) = split.inputs.values()
    return Pictures(values, split.rows)


def _copies(name: str, how: str, split: Split, pairs: Pairs) -> Iterator[Finding]:
    if not pairs:
        return
    share = len(pairs) / len(split)
    shown = [
        f"{split.name_of(at)} and {theirs.name_of(other)}" for at, (theirs, other) in sorted(pairs.items())[:EXAMPLES]
    ]
    yield Finding(
        severity="warning" if share >= NOTEWORTHY else "note", subject=f"data.{name}",
        text=f"{len(pairs):,} of {len(split):,} samples ({100 * share:.3g} %) are {how} (for example {', '.join(shown)}), so a "
        "model can know their answers; remove them from one of the two sets",
    )  # fmt: skip


def find_conflicts(known: Known, classes: Array, titles: tuple[str, ...]) -> Iterator[Finding]:
    """Yield a finding if identical training samples have different classes."""
    train, keys, _ = known
    order = np.lexsort((classes, keys))
    keys_there, classes_there = keys[order], classes[order]
    differ = np.flatnonzero((keys_there[1:] == keys_there[:-1]) & (classes_there[1:] != classes_there[:-1]))
    if not len(differ):
        return
    count = int(np.isin(keys, keys_there[differ]).sum())
    pairs = [sorted((int(order[at]), int(order[at + 1]))) for at in differ[:EXAMPLES]]
    shown = [" and ".join(f"{train.name_of(at)} is '{titles[classes[at]]}'" for at in pair) for pair in pairs]
    yield Finding(
        severity="warning" if count >= NOTEWORTHY * len(train) else "note", subject="data.train",
        text=f"{count:,} of {len(train):,} samples have identical copies with other labels (for example {'; '.join(shown)}); "
        "correct the labels, or remove the samples",
    )  # fmt: skip
