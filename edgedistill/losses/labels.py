"""Losses on labels, with and without mixup."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from edgedistill.losses.batch import Batch, OutputLoss


def cross_entropy(smoothing: float) -> OutputLoss:
    """Return the cross-entropy of logits (B, classes) with class numbers (B,); with mixup each input has two classes."""

    def loss(logits: Tensor, batch: Batch) -> Tensor:
        return over_labels(
            batch,
            lambda labels: functional.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none"),
        )

    return loss


def on_values(term: Callable[[Tensor, Tensor], Tensor]) -> OutputLoss:
    """Return a loss from a term on outputs and labels (B, D); with mixup, labels are mixed like inputs."""

    def loss(outputs: Tensor, batch: Batch) -> Tensor:
        return term(outputs, mixed_values(batch))

    return loss


def over_labels(batch: Batch, term: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the mean of a term (B,) over class numbers (B,); with mixup, the terms of both classes are weighted by their shares."""
    own = term(batch.labels)
    if batch.share is None or batch.partner_labels is None:
        return own.mean()
    return (batch.share * own + (1 - batch.share) * term(batch.partner_labels)).mean()


def mixed_values(batch: Batch) -> Tensor:
    """Return labels (B, D), mixed like the inputs with mixup."""
    if batch.share is None or batch.partner_labels is None:
        return batch.labels
    return batch.share[:, None] * batch.labels + (1 - batch.share[:, None]) * batch.partner_labels


def mixed_classes(batch: Batch, classes: int) -> Tensor:
    """Return class numbers (B,) or, with mixup, the shares (B, classes) of classes, which are 0 for samples without labels."""
    if batch.share is None or batch.partner_labels is None:
        return batch.labels
    own, partner = (
        functional.one_hot(labels.clamp_min(0), classes).to(batch.share) * (labels >= 0)[:, None]
        for labels in (batch.labels, batch.partner_labels)
    )
    mixed: Tensor = batch.share[:, None] * own + (1 - batch.share[:, None]) * partner
    return mixed


def binary_cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the binary cross-entropy of logits and labels (B, labels), averaged over both."""
    return torch.nn.functional.binary_cross_entropy_with_logits(outputs, labels)
