"""Run one batch through a model before anything is trained: its outputs must be usable, and an error names the line of the module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from edgedistill.distill.predictors import split_outputs
from edgedistill.distill.settings import LearningSettings
from edgedistill.errors import ConfigError, EdgedistillError
from edgedistill.losses.batch import Tensors
from edgedistill.models.outputs import describe, fit_outputs, named_outputs, shapes_of
from edgedistill.models.teacher_view import TeacherView
from edgedistill.records.finding import Finding
from edgedistill.runtime.user_code import error_in_words, user_line
from edgedistill.tasks.chance import is_constant

MISFIT: Final = (RuntimeError, ValueError, IndexError, TypeError, AssertionError)
"""What layers of torch raise for a batch of another shape or type."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A model to try: its key and name for messages, its view if it is a teacher, and whether the run trains it."""

    title: str
    model: nn.Module
    trains: bool
    view: TeacherView | None = None


def try_model(tried: Tried, settings: LearningSettings, sample: Tensors) -> list[Finding]:
    """Run a batch through a model, and return a note if one of several outputs had to be chosen.

    Raises ConfigError for a model that does not take the batch, and for outputs of another shape or type, that are not finite,
    or that cannot be trained.
    """
    title, model, seen = tried.title, tried.model.eval(), []
    hook = model.register_forward_hook(lambda _, __, returned: seen.append(returned), prepend=True)
    count = len(next(iter(sample.values())))
    size = settings.interface.kind.spatial(settings.interface.first.shape)
    expected = settings.task.describe_shape(count, settings.interface.values, size)
    try:
        returned = _run(tried, sample, expected)
    finally:
        hook.remove()
    main = _labelled(title, returned, settings, expected)
    if len(main) != count or not settings.task.fits(tuple(main.shape[1:]), settings.interface.values, size):
        raise ConfigError(f"{title} outputs {tuple(main.shape)}; expected {expected}")
    _check_main(title, main)
    if tried.trains:
        _check_trainable(title, model, main)
    values = settings.interface.values if tried.view is None else tried.view.interface(settings.interface).values
    note = None if settings.task.is_dense else fit_outputs(seen[0], values, settings.data.output, "the module").note
    return [] if note is None else [Finding(severity="note", subject=title, text=note)]


def _run(tried: Tried, sample: Tensors, expected: str) -> Any:
    try:
        with torch.enable_grad():
            return tried.model(*sample.values())
    except EdgedistillError:
        raise
    except Exception as error:  # a module of the user can raise any error
        if user_line(error) is None and not isinstance(error, MISFIT):
            raise
        raise ConfigError(
            f"{tried.title} does not take a batch of shape {shapes_of(sample)}: {error_in_words(error)}; it must return "
            f"{expected}"
        ) from error


def _labelled(title: str, returned: Any, settings: LearningSettings, expected: str) -> Tensor:
    """Return the labelled output; raises ConfigError with what is expected if a task's own outputs are missing, or cannot be joined."""
    outputs = named_outputs(returned, title)
    if not settings.task.is_dense:
        return split_outputs(outputs, settings.data.output).main
    try:
        return split_outputs(outputs, settings.data.output).main
    except (ConfigError, RuntimeError) as error:
        raise ConfigError(f"{title}: {str(error).splitlines()[0]}; it must return {expected}") from None


def _check_main(title: str, main: Tensor) -> None:
    if not main.is_floating_point():
        raise ConfigError(
            f"{title} outputs {describe(main)}; expected logits, which are floating-point numbers, not their argmax"
        )
    if not main.isfinite().all():
        raise ConfigError(
            f"{title} outputs NaN or infinity for the first samples; check its weights, and the mean and std of its inputs"
        )


def _check_trainable(title: str, model: nn.Module, main: Tensor) -> None:
    """Raise ConfigError for outputs that no training can change, or that are the same for different inputs."""
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not weights:
        raise ConfigError(f"{title} has no parameters to train")
    if not main.requires_grad:
        raise ConfigError(
            f"{title} outputs have no gradient, so it cannot be trained; remove no_grad, detach or .data from forward"
        )
    if len(main) < 2 or not is_constant(main.detach().numpy()):
        return
    first, last = (
        torch.autograd.grad(row.sum(), weights, retain_graph=True, allow_unused=True) for row in (main[0], main[-1])
    )
    if all(
        a is b is None or (a is not None and b is not None and torch.equal(a, b))
        for a, b in zip(first, last, strict=True)
    ):
        raise ConfigError(
            f"{title} outputs the same for different inputs, and its gradients are the same too: forward ignores its input"
        )
