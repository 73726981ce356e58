"""Values of any unit are learnt standardized: the loss divides by the deviation of the training labels, and so does the last layer.

A network learns values near 0 with a deviation of 1. Years, prices or kelvins would need weights and steps of another size, and a value in
millimetres would drown one in metres.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
from edgedistill.models.outputs import main_name, named_outputs, run
from edgedistill.runtime.progress import Reporter
from edgedistill.tasks.task import values_of

LAYERS: Final = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRIED: Final = 16
"""The samples that show which layer is the last, and in which unit it answers."""
SAME: Final = 0.05
"""The largest difference, in deviations of the labels, that rounding another bias makes in the outputs of an int8 model."""
USUAL: Final = 10.0
"""Labels whose deviation is up to so many times larger or smaller than 1, and whose mean is less than so many deviations, are learnt well as they are."""


ADVICE: Final = (
    "the model does not end in a linear layer with a bias, so it learns them as they are; if it learns badly, subtract the mean from the "
    "labels, and divide them by the deviation"
)


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
def standardized_head(settings: LearningSettings, model: nn.Module, label: str, report: Reporter) -> Iterator[None]:
    """Let the last layer of a model learn standardized values, while the model's outputs have the unit of the labels.

    A model that does not end in a linear layer or convolution with a bias learns values as they are, which is reported if labels are
    unusual; `label` names the model.
    """
    scale = label_scale(settings)
    if scale is None:
        yield
        return
    inputs, labels = _sample(settings)
    outputs, wanted = _main(model, inputs, settings.data.output), scale.standardize(labels)
    name = _last_layer(model, inputs, outputs)
    if name is None:
        if not scale.is_usual:
            report.info(f"{label}: {scale.describe()}; {ADVICE}")
        yield
        return
    layer = model.get_submodule(name)
    # An untrained layer gives standardized values; a trained one gives values in the unit of the labels.
    if mse(scale.standardize(outputs), wanted) < mse(outputs, wanted):
        _standardize(layer, scale)
    axis = -1 if isinstance(layer, nn.Linear) else 1
    handle = layer.register_forward_hook(lambda _, __, returned: _in_unit(returned, scale, axis))
    try:
        yield
    finally:
        handle.remove()
        _restore(layer, scale)


@contextmanager
def standardized_copy(
    settings: LearningSettings, model: nn.Module, copy: nn.Module, layers: nn.Module
) -> Iterator[None]:
    """Do the same for an int8 form of a trained model; `layers` is the module in it that has the layers of the model by name.

    A form that would give other outputs, because it computes with the values of the last layer, learns values as they are.
    """
    scale, output = label_scale(settings), settings.data.output
    if scale is None:
        yield
        return
    inputs, _ = _sample(settings)
    name = _last_layer(model, inputs, _main(model, inputs, output))
    layer = None if name is None else dict(layers.named_modules()).get(name)
    if layer is None:
        yield
        return
    before = scale.standardize(_main(copy, inputs, output))
    _standardize(layer, scale)
    handle = copy.register_forward_hook(lambda _, __, returned: _changed(returned, scale, output))
    is_same = bool((scale.standardize(_main(copy, inputs, output)) - before).abs().max() < SAME)
    if not is_same:
        handle.remove()
        _restore(layer, scale)
    try:
        yield
    finally:
        if is_same:
            handle.remove()
            _restore(layer, scale)


def _changed(returned: Any, scale: LabelScale, output: str | None) -> Any:
    """Return what a model returns with its labelled output in the unit of the labels."""
    names = tuple(named_outputs(returned))
    main = main_name(names, output)
    if isinstance(returned, Tensor):
        return _in_unit(returned, scale, 1)
    if isinstance(returned, Mapping):
        return {name: _in_unit(one, scale, 1) if name == main else one for name, one in returned.items()}
    return tuple(_in_unit(one, scale, 1) if name == main else one for name, one in zip(names, returned, strict=True))


def _sample(settings: LearningSettings) -> tuple[Tensors, Tensor]:
    """Return inputs of training samples from all parts of the data, and their labels (B, D)."""
    train = settings.dataset().train
    views = plain_views(train, settings.data, settings.views)
    rows = np.unique(np.linspace(0, len(train) - 1, TRIED).astype(np.int64))
    return views.batch(rows, rows * 0), torch.from_numpy(settings.task.collate(train.labels[rows]))


def _main(model: nn.Module, inputs: Tensors, output: str | None) -> Tensor:
    with torch.no_grad():
        return split_outputs(run(model.eval(), inputs), output).main.float()


def _last_layer(model: nn.Module, inputs: Tensors, outputs: Tensor) -> str | None:
    """Return the name of the layer with a bias that gives the labelled outputs (B, D) of the model."""
    seen: dict[str, list[bool]] = {}

    def compare(name: str, returned: Tensor) -> None:
        is_same = returned.numel() == outputs.numel() and torch.equal(returned.float().flatten(), outputs.flatten())
        seen.setdefault(name, []).append(is_same)

    handles = [
        module.register_forward_hook(lambda _, __, returned, name=name: compare(name, returned))
        for name, module in model.named_modules() if isinstance(module, LAYERS) and module.bias is not None
    ]  # fmt: skip
    try:
        _main(model, inputs, None)
    finally:
        for handle in handles:
            handle.remove()
    return next((name for name, found in seen.items() if found == [True]), None)


def _in_unit(outputs: Tensor, scale: LabelScale, axis: int) -> Tensor:
    """Return standardized outputs, with the values on an axis, in the unit of the labels and in float32."""
    shape = [1] * outputs.ndim
    shape[axis] = -1
    mean, std = (one.to(outputs.device).reshape(shape) for one in (scale.mean, scale.std))
    return outputs.float() * std + mean


def _standardize(layer: nn.Module, scale: LabelScale) -> None:
    """Let a layer whose outputs have the unit of the labels give standardized values."""
    std = scale.std.double()
    _convert(layer, 1 / std, -scale.mean / std)


def _restore(layer: nn.Module, scale: LabelScale) -> None:
    """Let a layer that gives standardized values give them in the unit of the labels."""
    _convert(layer, scale.std.double(), scale.mean.double())


@torch.no_grad()
def _convert(layer: nn.Module, factor: Tensor, offset: Tensor) -> None:
    """Let a layer give its outputs times `factor` (D,) plus `offset` (D,), float64."""
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    factor, offset = factor.to(weight.device), offset.to(weight.device)
    weight.copy_(weight.double() * factor.reshape(-1, *(1,) * (weight.ndim - 1)))
    bias.copy_(bias.double() * factor + offset)
