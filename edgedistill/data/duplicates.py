"""Find samples that are in several splits, and training samples whose copies have other labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from edgedistill.data.contents import Contents, Keys
from edgedistill.data.dataset import Split
from edgedistill.data.near_duplicates import Index, index_pictures, near_copies
from edgedistill.data.sources import Array
from edgedistill.records.finding import Finding

Pairs = dict[int, tuple[Split, int]]
"""By the position of a sample, the split and the position of its copy."""

NOTEWORTHY: Final = 0.01
"""The share of a split from which on copies are a warning: fewer hardly move a figure."""

EXAMPLES: Final = 3


class Known(NamedTuple):
    """Samples that copies are looked for of: their split, their hashes, and an index of their pictures, if they are pictures."""

    split: Split
    keys: Keys
    pictures: Index | None


def know(split: Split, contents: Contents) -> Known:
    """Return what copies of the samples of a split are searched with."""
    thumbnails = contents.thumbnails
    return Known(split, contents.keys, None if thumbnails is None else index_pictures(thumbnails))


def find_copies(name: str, split: Split, contents: Contents, known: Sequence[Known]) -> Iterator[Finding]:
    """Yield a finding for samples of a split that are identical to known samples, and for nearly identical pictures."""
    exact, near = _pairs(contents, known)
    where = "training samples" if len(known) == 1 else "training or validation samples"
    yield from _copies(name, f"identical to {where}", split, exact)
    yield from _copies(name, f"nearly identical to {where}", split, near)


def find_overlap(split: Split, contents: Contents, train: Known, held: Sequence[Known]) -> Iterator[Finding]:
    """Yield an error for samples without labels that are identical to validation or test samples, `held`, and warn of near copies.

    Copies of training samples are a note: they add nothing.
    """
    exact, near = _pairs(contents, held)
    if exact:
        yield Finding(
            severity="error", subject="data.unlabelled",
            text=f"{len(exact):,} of {len(split):,} samples are identical to validation or test samples (for example "
            f"{_shown(split, exact)}), so a student would learn the teacher's answers to them; remove them from data.unlabelled",
        )  # fmt: skip
    yield from _copies("unlabelled", "nearly identical to validation or test samples", split, near)
    again, _ = _pairs(contents, [train._replace(pictures=None)])
    if again:
        text = f"{len(again):,} of {len(split):,} samples are identical to training samples (for example {_shown(split, again)})"
        yield Finding(severity="note", subject="data.unlabelled", text=text)


def _pairs(contents: Contents, known: Sequence[Known]) -> tuple[Pairs, Pairs]:
    """Return the samples that are identical to known samples, and the others that are nearly identical to one."""
    keys = contents.keys
    exact: Pairs = {}
    near: Pairs = {}
    for one in known:
        at, order = np.flatnonzero(np.isin(keys, one.keys)), np.argsort(one.keys, kind="stable")
        _add(exact, at, order[np.searchsorted(one.keys[order], keys[at])], one)
        if one.pictures is not None and contents.thumbnails is not None:
            _add(near, *near_copies(contents.thumbnails, one.pictures), one)
    return exact, {at: other for at, other in near.items() if at not in exact}


def _add(pairs: Pairs, positions: Array, partners: Array, known: Known) -> None:
    for at, other in zip(positions.tolist(), partners.tolist(), strict=True):
        pairs.setdefault(at, (known.split, other))


def _copies(name: str, how: str, split: Split, pairs: Pairs) -> Iterator[Finding]:
    if not pairs:
        return
    share = len(pairs) / len(split)
    yield Finding(
        severity="warning" if share >= NOTEWORTHY else "note", subject=f"data.{name}",
        text=f"{len(pairs):,} of {len(split):,} samples ({100 * share:.3g} %) are {how} (for example {_shown(split, pairs)}), so a "
        "model can know their answers; remove them from one of the two sets",
    )  # fmt: skip


def _shown(split: Split, pairs: Pairs) -> str:
    """Return the first pairs in words."""
    first = sorted(pairs.items())[:EXAMPLES]
    return ", ".join(f"{split.name_of(at)} and {theirs.name_of(other)}" for at, (theirs, other) in first)


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
