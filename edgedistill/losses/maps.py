"""Losses on class maps (B, C, h, w): on masks of labels, and on a teacher's maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from edgedistill.config.training import DistillConfig
from edgedistill.losses.batch import Batch, OutputLoss
from edgedistill.losses.terms import cwd, kd, mse, standardize
from edgedistill.records.masks import VOID

MapTerm = Callable[[Tensor, Tensor, DistillConfig], Tensor]
"""A function from the student's and the teacher's class maps (B, C, h, w) of one size, and the plan, to a scalar."""


SAMPLED: Final = 2
"""The rows and columns of a mask, for each of a class map, that the loss reads: maps hold no finer detail."""


def pixel_cross_entropy(smoothing: float) -> OutputLoss:
    """Return the cross-entropy of class maps, resized to the masks (B, H, W), averaged over pixels that are not void.

    A class with the share p of the pixels of a batch has the weight 1 / ln(1.02 + p), as in ENet (Paszke et al. 2016): rare classes
    count for as much in mIoU as frequent ones. Of masks with more than SAMPLED rows and columns for each of the maps, every nth row
    and column is read, with the maps resized to the places of these pixels. For maps of stride 4, the loss then takes a fifth of
    the time of the loss over all pixels.
    """

    def loss(maps: Tensor, batch: Batch) -> Tensor:
        size = (batch.labels.shape[1], batch.labels.shape[2])
        every = max(1, min(size[0] // (SAMPLED * maps.shape[2]), size[1] // (SAMPLED * maps.shape[3])))
        labels = batch.labels[:, every // 2 :: every, every // 2 :: every].long()
        resized = resize(maps, size) if every == 1 else _resized_at(maps, size, every)
        counts = torch.bincount(labels[labels != VOID], minlength=maps.shape[1]).to(maps)
        weights = 1 / torch.log(1.02 + counts / counts.sum().clamp_min(1))
        # Not the mean, which is NaN for a batch in which every pixel is void.
        whole = functional.cross_entropy(
            resized, labels, weights, ignore_index=VOID, label_smoothing=smoothing, reduction="sum"
        )
        return whole / (weights * counts).sum().clamp_min(1)

    return loss


def _resized_at(maps: Tensor, size: tuple[int, int], every: int) -> Tensor:
    """Return every nth row and column of `resize(maps, size)`, from n // 2 on."""
    rows, columns = (
        functional.interpolate(torch.eye(old).to(maps)[None], new, mode="linear", align_corners=False)[0].T
        for old, new in zip(maps.shape[2:], size, strict=True)
    )
    resized: Tensor = rows[every // 2 :: every] @ maps @ columns[every // 2 :: every].T
    return resized


def map_term(plan: DistillConfig, term: MapTerm) -> OutputLoss:
    """Return a term as a function of the student's maps and the batch; the teacher's maps are resized to the student's."""

    def on_teacher(student: Tensor, batch: Batch) -> Tensor:
        assert batch.teacher_logits is not None
        teacher = resize(batch.teacher_logits, (student.shape[2], student.shape[3]))
        return term(student, teacher, plan)

    return on_teacher


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps (B, C, h, w) resized bilinearly to `size` (H, W), corners not aligned."""
    if maps.shape[2:] == size:
        return maps
    return functional.interpolate(maps, size, mode="bilinear", align_corners=False)


def _pixels(maps: Tensor) -> Tensor:
    """Return class maps (B, C, h, w) as one row of logits per place (B * h * w, C)."""
    return maps.movedim(1, -1).flatten(0, 2)


def _kd(student: Tensor, teacher: Tensor, plan: DistillConfig) -> Tensor:
    ours, theirs = _pixels(student), _pixels(teacher)
    if plan.standardize:
        ours, theirs = standardize(ours), standardize(theirs)
    return kd(ours, theirs, plan.temperature)


MAP_TERMS: Final[dict[str, MapTerm]] = {
    "kd": _kd,
    "cwd": lambda student, teacher, plan: cwd(student, teacher, plan.temperature),
    "mse": lambda student, teacher, _: mse(student, teacher),
}
"""The terms for class maps."""
