"""Recompute blocks of cached soft labels, and compare them with the teacher's answers of today."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from edgedistill.data.sources import Array
from edgedistill.data.views import Views
from edgedistill.distill.loading import Ask
from edgedistill.distill.predictors import Answer, ask_in_batches
from edgedistill.distill.top_k import deviation

MAIN: Final = "the logits"  # not the name of another output, which has no spaces
TOLERANCE: Final = 0.02
"""The largest difference, relative to the largest output: bfloat16 has 8 bits, and the order of sums differs between machines."""


def recompute(ask: Ask, views: Views, entries: Mapping[str, Array], place: tuple[int, Array]) -> Array:
    """Return the largest difference from the entries of a block, and the largest output, each by output (2, outputs).

    `entries` begin with the logits, under MAIN; `place` is the view and the positions of the block.
    """
    view, block = place
    answer = ask_in_batches(ask, views, block, view)
    if any(name != MAIN and name not in answer.others for name in entries):
        return np.full((2, len(entries)), np.inf)
    return _differences(answer, {name: kept[view, block] for name, kept in entries.items()})


def differing(names: Mapping[str, Array], worst: Array) -> list[str]:
    """Return the names of the outputs that differ by more than rounding."""
    return [name for name, difference, scale in zip(names, *worst, strict=True) if not difference <= TOLERANCE * scale]


def _differences(answer: Answer, entries: Mapping[str, Array]) -> Array:
    others = [(answer.others[name].numpy(), kept) for name, kept in entries.items() if name != MAIN]
    worst = [
        deviation(answer.main, entries[MAIN]),
        *(np.abs(new - kept.astype(np.float32)).max() for new, kept in others),
    ]
    return np.array([worst, [float(answer.main.abs().max()), *(np.abs(new).max() for new, _ in others)]])
