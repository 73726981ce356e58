"""Loss terms on a teacher's logits: built-in terms by name, and user functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from torch import Tensor

from edgedistill.config.training import DistillConfig
from edgedistill.errors import ConfigError
from edgedistill.losses.batch import Batch, OutputLoss
from edgedistill.losses.labels import over_labels
from edgedistill.losses.terms import cosine, decoupled, dist, group, kd, ls, mse, standardize
from edgedistill.runtime.user_code import error_in_words

Term = Callable[[Tensor, Tensor, Batch, DistillConfig], Tensor]
"""A function from the student's and the teacher's logits (B, D), the batch and the plan to a scalar."""
MixedLabels = Callable[[Batch, int], Tensor]
"""A function from a batch and the number of outputs to labels, which are mixed with mixup."""

CLASS_TERMS: Final[dict[str, Term]] = {
    "kd": lambda student, teacher, _, plan: kd(student, teacher, plan.temperature),
    "dkd": lambda student, teacher, batch, plan: over_labels(
        batch, lambda labels: _dkd_per_sample(student, teacher, labels, plan)
    ),
    "dist": lambda student, teacher, _, plan: dist(student, teacher, plan.temperature),
    "ls": lambda student, teacher, _, plan: ls(student, teacher, plan.temperature),
    "mse": lambda student, teacher, _batch, _plan: mse(student, teacher),
}
"""The terms for classification."""
VALUE_TERMS: Final[dict[str, Term]] = {
    "mse": lambda student, teacher, _batch, _plan: mse(student, teacher),
    "cosine": lambda student, teacher, _batch, _plan: cosine(student, teacher),
}
"""The terms for values and vectors."""


def weighted(plan: DistillConfig, on_labels: OutputLoss, on_teacher: OutputLoss) -> OutputLoss:
    """Return hard_weight * the loss on labels + (1 - hard_weight) * the term on the teacher's logits.

    The loss on labels is that of the samples with labels, so that it has the same weight however few they are.
    """
    hard, soft = plan.hard_weight, 1 - plan.hard_weight

    def loss(logits: Tensor, batch: Batch) -> Tensor:
        distilled = soft * on_teacher(logits, batch)
        known = batch.is_labelled
        if not hard or (known is not None and not known.any()):
            return distilled
        if known is None or known.all():
            return distilled + hard * on_labels(logits, batch)
        return distilled + hard * on_labels(logits[known], batch.map(lambda tensor: tensor[known]))

    return loss


def teacher_term(plan: DistillConfig, term: Term) -> OutputLoss:
    """Return a term as a function of the student's logits and the batch, with the plan's temperature and standardization."""
    prepare = standardize if plan.standardize else _unchanged

    def on_teacher(student: Tensor, batch: Batch) -> Tensor:
        assert batch.teacher_logits is not None
        if batch.teacher_classes is not None:
            student = group(student, batch.teacher_classes, plan.temperature)
        return term(prepare(student), prepare(batch.teacher_logits), batch, plan)

    return on_teacher


def custom_term(spec: str, function: Any, labels_of: MixedLabels) -> OutputLoss:
    """Return a loss from a user's function(student_logits, teacher_logits, labels), which must return a finite scalar with gradient.

    With mixup, the labels come from `labels_of`. Raises ConfigError that names the function, now or when the loss is called.
    """
    if not callable(function):
        raise ConfigError(f"distill.loss: '{spec}' is not a function but {type(function).__name__}")

    def term(student: Tensor, batch: Batch) -> Tensor:
        try:
            value = function(student, batch.teacher_logits, labels_of(batch, student.shape[1]))
        except Exception as error:  # user code can raise any error
            given = f"logits of shape {tuple(student.shape)}; it must return a scalar tensor"
            raise ConfigError(f"distill.loss: '{spec}' raises {error_in_words(error)} for {given}") from error
        _check_custom(spec, value, student)
        return value

    return term


def _check_custom(spec: str, value: object, student: Tensor) -> None:
    if not isinstance(value, Tensor) or value.ndim:
        actual = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ConfigError(f"distill.loss: '{spec}' returns {actual}; expected a scalar tensor, for example loss.mean()")
    if student.requires_grad and not value.requires_grad:
        raise ConfigError(
            f"distill.loss: '{spec}' has no gradient; compute it from student_logits with torch operations"
        )
    if not value.isfinite() and student.isfinite().all():  # otherwise the training diverges, which `fit` reports
        raise ConfigError(f"distill.loss: '{spec}' returns {value.item()} for finite logits")


def _dkd_per_sample(student: Tensor, teacher: Tensor, labels: Tensor, plan: DistillConfig) -> Tensor:
    """Return T^2 * (dkd_alpha * TCKD + dkd_beta * NCKD) of each sample (B,); the paper uses dkd_beta from 0.5 to 10."""
    target, non_target = decoupled(student, teacher, labels, plan.temperature)
    return plan.dkd_alpha * target + plan.dkd_beta * non_target


def _unchanged(logits: Tensor) -> Tensor:
    return logits
