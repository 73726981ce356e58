"""Training losses: the task's loss on the labelled output, and the loss on the teacher's other outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgedistill.config.training import DistillConfig
from edgedistill.distill.predictors import split_outputs
from edgedistill.errors import ConfigError
from edgedistill.losses.batch import Batch, Loss, OutputLoss
from edgedistill.losses.terms import mse
from edgedistill.models.outputs import named_outputs


def main_loss(on_output: OutputLoss, output: str | None) -> Loss:
    """Return a task's loss as a loss on all outputs of a model; `output` is the key [data] output."""

    def loss(returned: Any, batch: Batch) -> Tensor:
        return on_output(split_outputs(named_outputs(returned), output).main, batch)

    return loss


def all_outputs_loss(plan: DistillConfig, on_output: OutputLoss, output: str | None) -> Loss:
    """Return a task's loss plus other_weight * the sum of relative squared errors over the teacher's other outputs."""

    def loss(returned: Any, batch: Batch) -> Tensor:
        main, others = split_outputs(named_outputs(returned), output)
        value = on_output(main, batch)
        taught = taught_outputs(tuple(others), tuple(batch.teacher_outputs or ()), plan.other_outputs)
        if not taught or not plan.other_weight:
            return value
        assert batch.teacher_outputs is not None
        terms = [relative_error(others[name], batch.teacher_outputs[name]) for name in taught]
        return value + plan.other_weight * torch.stack(terms).sum()

    return loss


def relative_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of two outputs (B, ...) over the mean square of the teacher's in the batch.

    Outputs of any unit then have the same weight. The divisor is not the variance, which is 0 for a constant output.
    """
    return mse(student, teacher) / teacher.square().mean().clamp_min(1e-6)


def taught_outputs(
    student: tuple[str, ...], teacher: tuple[str, ...], named: tuple[str, ...] | None
) -> tuple[str, ...]:
    """Return the names of the other outputs that the student learns from the teacher."""
    return tuple(name for name in student if name in teacher and (named is None or name in named))


def check_outputs(
    student: dict[str, tuple[int, ...]], teacher: dict[str, tuple[int, ...]], named: tuple[str, ...] | None
) -> None:
    """Raise ConfigError where an other output of the student's has no like one of the teacher's.

    Both are shapes by name; `named` is what distill.other_outputs names, None for all.
    """
    for name in named or ():
        if name not in student:
            raise ConfigError(
                f"distill.other_outputs: the student has no other output '{name}'; it has: {_listed(student)}"
            )
    for name in student if named is None else named:
        if name not in teacher:
            raise ConfigError(
                f"distill: the teacher has no output '{name}' for the student to learn from; the teacher's other outputs are "
                f"{_listed(teacher)}; give both the same names, or set distill.other_outputs = [] to leave it untrained"
            )
        if teacher[name] != student[name]:
            raise ConfigError(
                f"distill: output '{name}' has shape {student[name]} in the student, and {teacher[name]} in the teacher"
            )


def _listed(outputs: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(outputs) or "none"
