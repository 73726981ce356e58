"""The cells of a detector's outputs, the decoding of its box distributions, and the overlap of boxes.

Boxes are (..., 4): x1, y1, x2, y2 in pixels of the input, x1 and y1 inclusive, x2 and y2 not.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Final, NamedTuple

import torch
from torch import Tensor

STRIDES: Final = (8, 16, 32)
BINS: Final = 8
"""A distance is a distribution over 0 to 7 strides."""


class Cells(NamedTuple):
    """The cells of all levels, row by row, level by level: their centres (A, 2) in pixels, x first, and their strides (A,)."""

    centres: Tensor
    strides: Tensor

    def to(self, like: Tensor) -> Cells:
        """Return the cells with the type and the device of another tensor."""
        return Cells(self.centres.to(like), self.strides.to(like))


@cache
def cells_of(height: int, width: int) -> Cells:
    """Return the cells for inputs of a size; a level has ceil(height / stride) rows of ceil(width / stride) cells."""
    centres, strides = [], []
    for stride in STRIDES:
        rows, columns = math.ceil(height / stride), math.ceil(width / stride)
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        centres.append((torch.stack((x, y), -1).view(-1, 2) + 0.5) * stride)
        strides.append(torch.full((rows * columns,), float(stride)))
    return Cells(torch.cat(centres), torch.cat(strides))


def decode_boxes(distributions: Tensor, cells: Cells) -> Tensor:
    """Return the boxes (B, A, 4), not clipped, of logits (B, A, 4 * BINS) over distances (GFL, Li et al. 2020, equation 5)."""
    # Not a softmax: ONNX Runtime transposes the input of one over any axis but the last, which takes longer than these sums. Not a
    # product of matrices: engines would count it as a layer with weights.
    logits = by_side(distributions)
    shares = (logits - logits.detach().amax(1, keepdim=True)).exp()
    steps = torch.arange(BINS, dtype=shares.dtype, device=shares.device)
    expected = (shares * steps[:, None]).sum(1) / shares.sum(1)
    distances = expected.view(-1, 4, len(cells.strides)) * cells.strides
    centres = cells.centres.t()
    return torch.cat((centres - distances[:, :2], centres + distances[:, 2:]), 1).transpose(1, 2)


def by_side(distributions: Tensor) -> Tensor:
    """Return logits (B, A, 4 * BINS) as (B * 4, BINS, A).

    The cells come last, because torch and OpenVINO take longer for a softmax over a last axis of 8. Pictures and sides are one axis,
    because ONNX Runtime would otherwise move the transposition behind the subtraction of the largest logit, which then takes ten times
    as long: benchmarks/dense/decoding.py.
    """
    return distributions.transpose(1, 2).reshape(-1, BINS, distributions.shape[1])


def clip_boxes(boxes: Tensor, corner: Tensor) -> Tensor:
    """Return boxes (..., 4) clipped to inputs whose width, height, width and height are `corner` (4,)."""
    return torch.minimum(boxes.clamp_min(0), corner)


def overlaps(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return the intersection over union of boxes of shapes that broadcast."""
    both = _intersection(ours, theirs)
    return both / (_area(ours) + _area(theirs) - both).clamp_min(EPSILON)


def generalised_overlaps(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return the generalised intersection over union of boxes of shapes that broadcast (Rezatofighi et al., CVPR 2019).

    It is less than `overlaps` by the fraction of the smallest enclosing box that neither box covers: near -1 for boxes far apart.
    """
    around = torch.maximum(ours[..., 2:], theirs[..., 2:]) - torch.minimum(ours[..., :2], theirs[..., :2])
    enclosing = around.prod(-1).clamp_min(EPSILON)
    both = _intersection(ours, theirs)
    union = (_area(ours) + _area(theirs) - both).clamp_min(EPSILON)
    return both / union - (enclosing - union) / enclosing


def _intersection(ours: Tensor, theirs: Tensor) -> Tensor:
    sides = torch.minimum(ours[..., 2:], theirs[..., 2:]) - torch.maximum(ours[..., :2], theirs[..., :2])
    return sides.clamp_min(0).prod(-1)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)


EPSILON: Final = 1e-7
