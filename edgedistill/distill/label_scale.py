"""Values of any unit are learnt standardized: the loss divides by the deviation of the training labels, and so does the last layer.

A network learns values near 0 with a deviation of 1. Years, prices or kelvins would need weights and steps of another size, and a value in
millimetres would drown one in metres.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from edgedistill.config.training import DistillConfig, TrainingConfig
from edgedistill.data.views import plain_views
from edgedistill.distill.predictors import split_outputs
from edgedistill.distill.settings import LearningSettings
from edgedistill.losses.batch import Batch, OutputLoss, Tensors
from edgedistill.losses.terms import mse
from edgedistill.models.outputs import run
from edgedistill.models.source import ModelSource
from edgedistill.models.transfer import find_head
from edgedistill.runtime.progress import Reporter
from edgedistill.tasks.task import values_of

LAYERS: Final = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRIED: Final = 64
"""The samples that decide in which unit a model answers."""
USUAL: Final = 10.0
"""Labels whose deviation is up to so many times larger or smaller than 1, and whose mean is less than so many deviations, are learnt well as they are."""


@dataclass(frozen=True, slots=True)
class LabelScale:
    """The mean and the standard deviation (D,) of the training labels, float32; a deviation of 0 is 1."""

    mean: Tensor
    std: Tensor

    def standardize(self, values: Tensor) -> Tensor:
        """Return values (B, D) in deviations from the mean."""
        return (values - self.mean.to(values.device)) / self.std.to(values.device)

    @property
    def is_usual(self) -> bool:
        """Whether a network learns such labels well as they are."""
        near = (self.mean.abs() < USUAL * self.std).all()
        return bool(near and (self.std < USUAL).all() and (self.std > 1 / USUAL).all())

    def describe(self) -> str:
        """Say what the labels are like; of several values, those of the first."""
        first = " (the first of several values)" if len(self.std) > 1 else ""
        return f"the labels have a mean of {self.mean[0]:g} and a standard deviation of {self.std[0]:g}{first}"


def label_scale(settings: LearningSettings) -> LabelScale | None:
    """Return the scale of the training labels, None for tasks whose labels have no unit."""
    if not settings.task.has_units:
        return None
    labels = values_of(settings.dataset().train.labels).astype(np.float64)
    std = labels.std(0)
    return LabelScale(
        *(torch.from_numpy(one.astype(np.float32)) for one in (labels.mean(0), np.where(std > 0, std, 1)))
    )


def label_loss(settings: LearningSettings, plan: TrainingConfig) -> OutputLoss:
    """Return the task's loss on labels, on standardized values if the labels have a unit and the loss is the squared error."""
    loss = settings.task.label_loss(plan)
    return loss if isinstance(plan, DistillConfig) and plan.loss == "cosine" else _standardized(loss, settings)


def distillation_loss(settings: LearningSettings, plan: DistillConfig, own: Any) -> OutputLoss:
    """Return the task's loss on labels and the teacher's output, on standardized values as in `label_loss`.

    A user's function `own` gets the values as they are.
    """
    loss = settings.task.distillation_loss(plan, own)
    return loss if own is not None or plan.loss == "cosine" else _standardized(loss, settings)


def _standardized(on_output: OutputLoss, settings: LearningSettings) -> OutputLoss:
    scale = label_scale(settings)
    if scale is None:
        return on_output

    def change(values: Tensor | None) -> Tensor | None:
        return None if values is None else scale.standardize(values)

    def loss(outputs: Tensor, batch: Batch) -> Tensor:
        changed = batch._replace(
            labels=scale.standardize(batch.labels), teacher_logits=change(batch.teacher_logits), partner_labels=change(batch.partner_labels)
        )  # fmt: skip
        return on_output(scale.standardize(outputs), changed)

    return loss


@contextmanager
def standardized_head(
    settings: LearningSettings, model: nn.Module, source: ModelSource, report: Reporter
) -> Iterator[None]:
    """Let the last layer of a model learn standardized values, while the model's outputs have the unit of the labels.

    `source` is what the model, or the model that it is a part of, is built from. A model that does not end in a linear layer with a
    bias for each value learns values as they are, which is reported if labels are unusual.
    """
    scale = label_scale(settings)
    if scale is None:
        yield
        return
    sample, labels = _sample(settings)
    name = _head(model, find_head(source, settings.interface), sample, settings.data.output)
    if name is None:
        if not scale.is_usual:
            report.info(
                f"{source.spec}: {scale.describe()}; the model does not end in a linear layer with a bias, so it learns them as they are; "
                "if it learns slowly, subtract the mean from the labels, and divide them by the deviation"
            )
        yield
        return
    head, outputs, wanted = (
        model.get_submodule(name),
        _main(model, sample, settings.data.output),
        scale.standardize(labels),
    )
    # An untrained layer gives standardized values; a trained one gives values in the unit of the labels.
    if mse(scale.standardize(outputs), wanted) < mse(outputs, wanted):
        _standardize(head, scale)
    axis = -1 if isinstance(head, nn.Linear) else 1
    handle = head.register_forward_hook(lambda _, __, returned: _in_unit(returned, scale, axis))
    try:
        yield
    finally:
        handle.remove()
        _restore(head, scale)


@contextmanager
def standardized_copy(
    settings: LearningSettings, model: nn.Module, source: ModelSource, copy: nn.Module, place: int
) -> Iterator[None]:
    """Do the same for another form of a trained model, which has its layers by name and returns tensors, the labelled output at `place`."""
    scale, output = label_scale(settings), settings.data.output
    name = None if scale is None else _head(model, find_head(source, settings.interface), _sample(settings)[0], output)
    if scale is None or name is None:
        yield
        return
    head = copy.get_submodule(name)

    def change(_: nn.Module, __: Any, returned: Any) -> Any:
        if isinstance(returned, Tensor):
            return _in_unit(returned, scale, 1)
        return tuple(_in_unit(one, scale, 1) if at == place else one for at, one in enumerate(returned))

    _standardize(head, scale)
    handle = copy.register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()
        _restore(head, scale)


def _sample(settings: LearningSettings) -> tuple[Tensors, Tensor]:
    """Return inputs of training samples from all parts of the data, and their labels (B, D)."""
    train = settings.dataset().train
    views = plain_views(train, settings.data, settings.views)
    rows = np.unique(np.linspace(0, len(train) - 1, TRIED).astype(np.int64))
    return views.batch(rows, rows * 0), torch.from_numpy(settings.task.collate(train.labels[rows]))


def _main(model: nn.Module, inputs: Tensors, output: str | None) -> Tensor:
    with torch.no_grad():
        return split_outputs(run(model.eval(), inputs), output).main.float()


def _head(model: nn.Module, names: tuple[str, ...], inputs: Tensors, output: str | None) -> str | None:
    """Return the name of the layer whose outputs are the labelled output of the model, if it has a weight and a bias for each value.

    `names` are those of the weights that depend on the number of values.
    """
    layers = {name.rpartition(".")[0] for name in names}
    found = dict(model.named_modules()).get(layers.pop()) if len(layers) == 1 else None
    if not isinstance(found, LAYERS) or {name.rpartition(".")[2] for name in names} != {"weight", "bias"}:
        return None
    seen: list[Tensor] = []
    handle = found.register_forward_hook(lambda _, __, returned: seen.append(returned.detach().clone()))
    try:
        main = _main(model, inputs, output)
    finally:
        handle.remove()
    is_last = len(seen) == 1 and torch.equal(seen[0].float().flatten(), main.flatten())
    return names[0].rpartition(".")[0] if is_last else None


def _in_unit(outputs: Tensor, scale: LabelScale, axis: int) -> Tensor:
    """Return standardized outputs, with the values on an axis, in the unit of the labels and in float32."""
    shape = [1] * outputs.ndim
    shape[axis] = -1
    mean, std = (one.to(outputs.device).reshape(shape) for one in (scale.mean, scale.std))
    return outputs.float() * std + mean


def _standardize(head: nn.Module, scale: LabelScale) -> None:
    """Let a layer whose outputs have the unit of the labels give standardized values."""
    std = scale.std.double()
    _convert(head, 1 / std, -scale.mean / std)


def _restore(head: nn.Module, scale: LabelScale) -> None:
    """Let a layer that gives standardized values give them in the unit of the labels."""
    _convert(head, scale.std.double(), scale.mean.double())


@torch.no_grad()
def _convert(head: nn.Module, factor: Tensor, offset: Tensor) -> None:
    """Let a layer give its outputs times `factor` (D,) plus `offset` (D,), float64."""
    weight, bias = head.get_parameter("weight"), head.get_parameter("bias")
    factor, offset = factor.to(weight.device), offset.to(weight.device)
    weight.copy_(weight.double() * factor.reshape(-1, *(1,) * (weight.ndim - 1)))
    bias.copy_(bias.double() * factor + offset)
