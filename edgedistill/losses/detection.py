"""The losses of detectors, on labels and on a teacher's outputs.

Outputs are (B, A, C + 4 * BINS) for the cells of inputs of a size: C class logits, then the logits of four distributions. Labels
are (B, M, 7): class, x1, y1, x2, y2 in pixels of the input, area, and 1 for a crowd; unused rows have class -1.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from edgedistill.losses.assignment import Targets, assign
from edgedistill.losses.batch import Batch, OutputLoss
from edgedistill.losses.cells import BINS, Cells, by_side, cells_of, decode_boxes, generalised_overlaps

FOCUS: Final = 2.0
OVERLAP_WEIGHT: Final = 2.0
DISTRIBUTION_WEIGHT: Final = 0.25
"""The exponent of the quality focal loss, and the weights of the box losses, all as in GFL."""
LEAST_SCORE: Final = 0.05
"""A teacher's detections with lower scores are not learned, because most of them are no objects."""


def on_boxes(outputs: Tensor, batch: Batch) -> Tensor:
    """Return the loss on the labels of a batch, whose first input is (B, channels, H, W)."""
    return detection_loss(outputs, batch.labels, size_of(batch), outputs.shape[2] - 4 * BINS)


def on_teacher(temperature: float) -> OutputLoss:
    """Return the distillation of scores plus that of box distributions, which are softened by a temperature.

    A teacher from an ONNX file gives detections, which are learned as labels with weights.
    """

    def loss(student: Tensor, batch: Batch) -> Tensor:
        assert batch.teacher_logits is not None
        classes = student.shape[2] - 4 * BINS
        if batch.teacher_logits.shape[2] != student.shape[2]:
            return on_detections(student, batch.teacher_logits, size_of(batch))
        scores = class_kd(student, batch.teacher_logits, classes)
        return scores + box_kd(student, batch.teacher_logits, classes, temperature)

    return loss


def on_detections(outputs: Tensor, found: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the loss on a teacher's detections (B, K, 6): class, score, x1, y1, x2, y2, the highest scores first.

    They are labels of which the scores are the weights: the target of a cell is the quality of its box times the score.
    """
    count = max(int((found[..., 1] >= LEAST_SCORE).sum(1).max()), 1)
    found = found[:, :count]
    kinds = torch.where(found[..., 1:2] >= LEAST_SCORE, found[..., :1], -1.0)
    sides = found[..., 4:] - found[..., 2:4]
    labels = torch.cat((kinds, found[..., 2:], sides.prod(2, keepdim=True), torch.zeros_like(kinds)), 2)
    return detection_loss(outputs, labels, size, outputs.shape[2] - 4 * BINS, found[..., 1])


def size_of(batch: Batch) -> tuple[int, int]:
    """Return the height and width of the first input of a batch."""
    height, width = next(iter(batch.inputs.values())).shape[-2:]
    return height, width


def detection_loss(
    outputs: Tensor, labels: Tensor, size: tuple[int, int], classes: int, weights: Tensor | None = None
) -> Tensor:
    """Return the loss on labels: quality focal loss + 2 * GIoU loss + 0.25 * distribution focal loss (GFL, Li et al. 2020).

    Each is a sum over the batch, the box losses weighted by the quality of each cell's box, divided by the sum of qualities
    (TOOD, Feng et al. 2021). `size` is the height and width of the inputs; `weights` (B, M) of the labels are 1 by default.
    """
    logits, distributions = outputs[..., :classes], outputs[..., classes:]
    cells = cells_of(*size).to(outputs)
    boxes = decode_boxes(distributions, cells)
    targets = assign(logits.detach().sigmoid(), boxes.detach(), labels, cells, weights)
    total = quality_focal(logits, targets).sum()
    learning = targets.quality > 0
    if learning.any():
        weight = targets.quality[learning]
        overlap = 1 - generalised_overlaps(boxes[learning], targets.boxes[learning])
        steps = distances(targets, cells)[learning]
        focal = distribution_focal(distributions[learning], steps)
        total = total + (weight * (OVERLAP_WEIGHT * overlap + DISTRIBUTION_WEIGHT * focal)).sum()
    return total / targets.quality.sum().clamp_min(1)


def quality_focal(logits: Tensor, targets: Targets) -> Tensor:
    """Return |target - score|^2 times the binary cross-entropy (B, A, C), 0 where a target does not count (GFL, equation 2)."""
    distance = (targets.scores - logits.sigmoid()).abs() ** FOCUS
    entropy = functional.binary_cross_entropy_with_logits(logits, targets.scores, reduction="none")
    return distance * entropy * targets.counts


def distances(targets: Targets, cells: Cells) -> Tensor:
    """Return the distances (B, A, 4) of the sides left, top, right and bottom from the cells' centres, in strides, within the bins."""
    before, after = cells.centres - targets.boxes[..., :2], targets.boxes[..., 2:] - cells.centres
    return (torch.cat((before, after), 2) / cells.strides[:, None]).clamp(0, BINS - 1)


def distribution_focal(distributions: Tensor, steps: Tensor) -> Tensor:
    """Return the cross-entropy with the two bins next to each distance, weighted by nearness, averaged over sides (GFL, equation 6).

    Logits are (K, 4 * BINS), distances (K, 4) from 0 to BINS - 1; the result is (K,).
    """
    logs = distributions.reshape(-1, 4, BINS).log_softmax(2)
    bins = torch.arange(BINS, device=steps.device)
    nearness = (1 - (steps[..., None] - bins).abs()).clamp_min(0)  # 0 but for the two bins next to the distance
    return -(nearness * logs).sum(2).mean(1)


def class_kd(student: Tensor, teacher: Tensor, classes: int) -> Tensor:
    """Return the divergence of each cell's and class's score from the teacher's, weighted by the difference of the scores.

    The weight |teacher's score - student's score| keeps the many background cells, on which both agree, from drowning the others
    (Yang et al., ICCV 2023, "Bridging Cross-task Protocol Inconsistency for Distillation in Dense Object Detection"). As in the
    paper, there is no temperature: it would raise the scores of the background. The sum is divided by the number of cells with an
    object, as the teacher sees it.
    """
    ours, theirs = student[..., :classes], teacher[..., :classes]
    soft = theirs.sigmoid()
    cross_entropy, entropy = (
        functional.binary_cross_entropy_with_logits(x, soft, reduction="none") for x in (ours, theirs)
    )
    weight = (soft - ours.detach().sigmoid()).abs()
    return (weight * (cross_entropy - entropy)).sum() / objectness(teacher, classes).sum().clamp_min(1)


def box_kd(student: Tensor, teacher: Tensor, classes: int, temperature: float) -> Tensor:
    """Return T^2 * the divergence of the box distributions from the teacher's, averaged over sides (LD, Zheng et al., CVPR 2022).

    Cells are weighted by the teacher's highest score, because distributions on background mean nothing.
    """
    ours, theirs = ((by_side(x[..., classes:]) / temperature).log_softmax(1) for x in (student, teacher))
    divergence = (
        functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(1).view(len(student), 4, -1).mean(1)
    )
    weight = objectness(teacher, classes)
    return (weight * divergence).sum() * temperature**2 / weight.sum().clamp_min(1)


def objectness(outputs: Tensor, classes: int) -> Tensor:
    """Return the highest score (B, A) of each cell."""
    return outputs[..., :classes].sigmoid().amax(2)
