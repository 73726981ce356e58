"""The decoding of a detector's outputs: scores, and boxes in pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgedistill.losses.cells import Cells, cells_of, clip_boxes, decode_boxes
from edgedistill.losses.scores import Sigmoid


def decode(outputs: Tensor, size: tuple[int, int], classes: int) -> Tensor:
    """Return scores and boxes side by side (B, A, C + 4) of class logits and box distributions (B, A, C + 4 * BINS).

    Boxes are x1, y1, x2, y2 in pixels, clipped to inputs of a size (H, W).
    """
    boxes = decode_boxes(outputs[..., classes:], cells_of(*size).to(outputs))
    return torch.cat((outputs[..., :classes].sigmoid(), clip_boxes(boxes, _corner(*size).to(outputs))), 2)


def _corner(height: int, width: int) -> Tensor:
    return torch.tensor([float(width), float(height)] * 2)


class Decoded(nn.Module):
    """A detector with scores and boxes as outputs, for inputs of one size."""

    centres: Tensor
    strides: Tensor
    corner: Tensor

    def __init__(self, detector: nn.Module, height: int, width: int) -> None:
        super().__init__()
        self.detector, self.score = detector, Sigmoid()
        cells = cells_of(height, width)
        self.register_buffer("centres", cells.centres, persistent=False)
        self.register_buffer("strides", cells.strides, persistent=False)
        self.register_buffer("corner", _corner(height, width), persistent=False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map (B, C, H, W) to "scores" (B, A, classes) and "boxes" (B, A, 4): x1, y1, x2, y2 in pixels, clipped."""
        raw = self.detector(x)
        boxes = decode_boxes(raw["boxes"], Cells(self.centres, self.strides))
        return {"scores": self.score(raw["classes"]), "boxes": clip_boxes(boxes, self.corner)}
