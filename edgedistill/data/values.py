"""Find values that teach nothing: constant samples, constant channels, and classes whose samples are all identical."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from edgedistill.data.checks import samples_at_once
from edgedistill.data.contents import Contents
from edgedistill.data.dataset import Split
from edgedistill.data.kinds import kind_of
from edgedistill.data.sources import Array
from edgedistill.records.finding import Finding
from edgedistill.records.stages import InputRecord

SAMPLES: Final = 2000
EXAMPLES: Final = 3
NOTEWORTHY: Final = 0.01
"""The share of samples from which on constant samples are a warning."""


def find_constant_samples(name: str, split: Split, contents: Contents) -> Iterator[Finding]:
    """Yield a finding if every value of some samples is the same, as in black pictures and silent clips."""
    at = np.flatnonzero(contents.are_constant)
    if len(at) and next(iter(split.inputs.values()))[0].size > 1:
        share = len(at) / len(split)
        shown = ", ".join(split.name_of(int(one)) for one in at[:EXAMPLES])
        yield Finding(
            severity="warning" if share >= NOTEWORTHY else "note", subject=f"data.{name}",
            text=f"{len(at):,} of {len(split):,} samples ({100 * share:.3g} %) hold one value everywhere, as a black picture does "
            f"(for example {shown}); remove them, or check how they were made",
        )  # fmt: skip


def find_constant_channels(train: Split, record: InputRecord) -> Iterator[Finding]:
    """Yield a finding if channels or features of an input have one value in all training samples."""
    kind, values = kind_of(record), train.inputs[record.name]
    count = kind.channels(record.shape)
    if not kind.normalised or count == 1:
        return
    flat, block = values.reshape(len(values), -1, count), samples_at_once(values)
    first = np.array(flat[train.rows[0], 0])
    some = train.rows[:: max(1, len(train) // min(SAMPLES, block))]
    suspects = np.flatnonzero((flat[some] == first).all((0, 1)))
    blocks = [train.rows[start : start + block] for start in range(0, len(train), block)]
    constant = [int(one) for one in suspects if all((flat[rows, :, one] == first[one]).all() for rows in blocks)]
    if constant:
        what = "values" if kind.name == "features" else "channels"
        shown = ", ".join(f"{one} ({first[one]:.4g})" for one in constant[:EXAMPLES])
        more = f" and {len(constant) - EXAMPLES:,} more" if len(constant) > EXAMPLES else ""
        where = "" if len(train.inputs) == 1 else f", input '{record.name}'"
        yield Finding(
            severity="warning", subject=f"data.train{where}",
            text=f"{len(constant):,} of {count:,} {what} are the same in all samples: {shown}{more}; remove them, or check how the data was made",
        )  # fmt: skip


def find_uniform_classes(keys: Array, classes: Array, titles: Sequence[str]) -> Iterator[Finding]:
    """Yield a finding if all training samples of a class are identical; `keys` are the hashes of the samples."""
    counts = np.bincount(classes, minlength=len(titles))
    distinct = np.bincount(np.unique(np.stack([classes, keys], 1), axis=0)[:, 0], minlength=len(titles))
    for number in map(int, np.flatnonzero((counts > 1) & (distinct == 1))):
        yield Finding(
            severity="warning", subject="data.train",
            text=f"all {counts[number]:,} samples of class '{titles[number]}' are identical; check how the data was made",
        )  # fmt: skip
