"""Losses: pure functions of logits, and how a configuration composes them."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from edgedistill.config import DistillConfig, TrainingConfig
from edgedistill.distill.training import Batch, Loss


def kd(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return T^2 * KL(softmax(teacher / T) || softmax(student / T)), averaged over the batch.

    Logits are (B, classes). Softening by T shrinks gradients by 1 / T^2; the factor restores their scale, so that the
    weight of this term means the same at every temperature (Hinton, Vinyals and Dean 2015, section 2).
    """
    student = functional.log_softmax(student_logits / temperature, 1)
    teacher = functional.log_softmax(teacher_logits / temperature, 1)
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def label_loss(plan: TrainingConfig) -> Loss:
    """Return the cross-entropy with the labels, smoothed as the plan says."""

    def loss(logits: Tensor, batch: Batch) -> Tensor:
        return functional.cross_entropy(logits, batch.labels, label_smoothing=plan.label_smoothing)

    return loss


def distillation_loss(plan: DistillConfig) -> Loss:
    """Return hard_weight * cross-entropy + (1 - hard_weight) * kd."""
    hard, soft = plan.hard_weight, 1 - plan.hard_weight
    on_labels = label_loss(plan)

    def loss(logits: Tensor, batch: Batch) -> Tensor:
        assert batch.teacher_logits is not None
        distilled = soft * kd(logits, batch.teacher_logits, plan.temperature)
        return distilled + hard * on_labels(logits, batch) if hard else distilled

    return loss
