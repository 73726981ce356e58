"""Soft labels of detectors: the cells with the highest scores of each view, and the mean of all others.

Most cells of a detector are background, with scores near 0 that say nothing about boxes; the distillation of boxes weighs cells by
their scores, and that of scores barely depends on how far below the floor a cell lies.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from edgedistill.data.sources import Array
from edgedistill.distill.cache import cell_entry_type


def pack_cells(answer: Tensor, classes: int, kept: int) -> Array:
    """Return a teacher's outputs (B, A, D), of which the first `classes` values are class logits, as entries (B,)."""
    entries = np.empty(len(answer), cell_entry_type(tuple(answer.shape[1:]), kept))
    cells = answer[..., :classes].amax(2).topk(entries["cells"].shape[1], dim=1).indices
    entries["cells"], entries["values"] = cells.numpy(), _at(answer, cells).numpy()
    entries["rest"] = _rest(answer, cells).numpy()
    return entries


def unpack_cells(entries: Array, cells: int) -> Tensor:
    """Return outputs (B, `cells`, D), float32: kept cells have their own values, and the others the mean of the others."""
    rest = torch.from_numpy(entries["rest"].astype(np.float32))
    whole = rest[:, None].repeat(1, cells, 1)
    values = torch.from_numpy(entries["values"].astype(np.float32))
    places = torch.from_numpy(entries["cells"].astype(np.int64))
    return whole.scatter_(1, places[..., None].expand_as(values), values)


def cell_deviation(answer: Tensor, entries: Array) -> float:
    """Return the largest difference between a teacher's outputs (B, A, D) and entries (B,)."""
    cells = torch.from_numpy(entries["cells"].astype(np.int64))
    values = _at(answer, cells).numpy() - entries["values"].astype(np.float32)
    rest = _rest(answer, cells).numpy() - entries["rest"].astype(np.float32)
    return float(max(np.abs(values).max(), np.abs(rest).max()))


def _at(answer: Tensor, cells: Tensor) -> Tensor:
    return answer.gather(1, cells[..., None].expand(-1, -1, answer.shape[2]))


def _rest(answer: Tensor, cells: Tensor) -> Tensor:
    """Return the mean (B, D) of the cells that are not kept; zeros if all are."""
    count = answer.shape[1] - cells.shape[1]
    return (answer.sum(1) - _at(answer, cells).sum(1)) / max(count, 1)
