"""The assignment of labelled boxes to the cells of a detector's outputs (task alignment: TOOD, Feng et al., ICCV 2021)."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from edgedistill.losses.cells import BINS, STRIDES, Cells, overlaps

CELLS_PER_BOX: Final = 13
SCORE_POWER: Final = 1.0
OVERLAP_POWER: Final = 6.0
"""A cell's alignment with a box is score ** 1 * IoU ** 6; the best 13 cells learn the box, all as in the paper."""


class Targets(NamedTuple):
    """What the cells of a batch learn.

    `boxes` (B, A, 4) and `quality` (B, A) are the box of each cell and the score that the cell shall give its class; background
    cells have quality 0. `scores` (B, A, C) has the quality at the box's class. `counts` (B, A, C) is False where nothing is
    known: at the class of a crowd that covers the cell.
    """

    boxes: Tensor
    quality: Tensor
    scores: Tensor
    counts: Tensor


@torch.no_grad()
def assign(scores: Tensor, boxes: Tensor, labels: Tensor, cells: Cells, weights: Tensor | None = None) -> Targets:
    """Assign labels (B, M, 7) to cells by the scores (B, A, C) and the boxes (B, A, 4) that a model gives them now.

    The quality of a label's cells is multiplied by its weight (B, M), by default 1; a cell that several boxes chose learns the one
    of the largest product of overlap and weight.
    """
    kinds, truth, is_crowd = labels[..., 0].long(), labels[..., 1:5], labels[..., 6] > 0
    is_box = (kinds >= 0) & ~is_crowd
    image, row, cell = _candidates(truth, is_box, cells)
    overlap = torch.zeros(*kinds.shape, len(cells.strides), device=scores.device)
    overlap[image, row, cell] = overlaps(truth[image, row], boxes[image, cell])
    alignment = torch.zeros_like(overlap)
    own = scores[image, cell, kinds[image, row]]
    alignment[image, row, cell] = own**SCORE_POWER * overlap[image, row, cell] ** OVERLAP_POWER
    least = alignment.topk(min(CELLS_PER_BOX, len(cells.strides)), 2)[0][..., -1:]
    chosen = (alignment >= least) & (alignment > 0)
    weights = torch.ones_like(overlap[..., 0]) if weights is None else weights
    covered, owner = torch.where(chosen, overlap * weights[..., None], 0.0).max(1)
    image, cell = torch.nonzero(covered > 0, as_tuple=True)
    row = owner[image, cell]
    shape = kinds.shape
    strongest, widest = (_highest(values[image, row, cell], image, row, shape) for values in (alignment, overlap))
    quality = torch.zeros_like(covered)
    quality[image, cell] = alignment[image, row, cell] / strongest[image, row] * (widest * weights)[image, row]
    targets = torch.zeros_like(scores)
    targets[image, cell, kinds[image, row]] = quality[image, cell]
    return Targets(
        boxes=truth.gather(1, owner[..., None].expand(-1, -1, 4)), quality=quality, scores=targets,
        counts=~_crowded(truth, kinds, is_crowd, cells, scores.shape[2]) | (targets > 0),
    )  # fmt: skip


def _highest(values: Tensor, image: Tensor, row: Tensor, shape: torch.Size) -> Tensor:
    """Return the highest value (B, M) of each box, from values of cells that belong to the boxes `row` of `image`."""
    highest = torch.zeros(shape.numel(), device=values.device)
    return highest.scatter_reduce_(0, image * shape[1] + row, values, "amax").view(shape)


def _candidates(truth: Tensor, is_box: Tensor, cells: Cells) -> tuple[Tensor, ...]:
    """Return the images, the boxes of (B, M, 4), and the cells that may learn them, as three equally long lists of numbers.

    The cell's centre is within the box, which counts as at least one stride wide and high, so that every box has candidates of
    every level; and the sides are at most BINS - 1 strides away, except on the coarsest level.
    """
    middle, half = (truth[..., :2] + truth[..., 2:]) / 2, (truth[..., 2:] - truth[..., :2]) / 2
    near = is_box[..., None]
    for axis in (0, 1):
        offset = (cells.centres[:, axis] - middle[..., axis, None]).abs()
        near = near & (offset <= torch.maximum(half[..., axis, None], cells.strides / 2))
    image, row, cell = torch.nonzero(near, as_tuple=True)
    farthest = ((cells.centres[cell] - middle[image, row]).abs() + half[image, row]).amax(1)
    strides = cells.strides[cell]
    fits = (farthest <= (BINS - 1) * strides) | (strides == max(STRIDES))
    return image[fits], row[fits], cell[fits]


def _crowded(truth: Tensor, kinds: Tensor, is_crowd: Tensor, cells: Cells, classes: int) -> Tensor:
    """Return where (B, A, C) a crowd of the class covers the centre of a cell."""
    if not is_crowd.any():
        return torch.zeros(len(truth), len(cells.strides), classes, dtype=torch.bool, device=truth.device)
    after, before = cells.centres >= truth[:, :, None, :2], cells.centres < truth[:, :, None, 2:]
    covered = (after & before).all(3) & is_crowd[..., None] & (kinds >= 0)[..., None]
    named = functional.one_hot(kinds.clamp_min(0), classes).bool()
    return (covered[..., None] & named[:, :, None]).any(1)
