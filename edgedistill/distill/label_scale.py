"""Values of any unit are learnt standardized: the loss divides by the deviation of the labels, and so does the last layer.

A network learns values near 0 with a deviation of 1. Years, prices and vectors of length 1 would need weights and steps of another size, and
a value in millimetres would drown one in metres.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from edgedistill.config.training import DistillConfig, TrainingConfig
from edgedistill.data.dataset import Dataset
from edgedistill.data.views import plain_views
from edgedistill.distill.predictors import split_outputs
from edgedistill.distill.settings import LearningSettings
from edgedistill.losses.batch import Batch, OutputLoss, Tensors
from edgedistill.losses.terms import mse
from edgedistill.models.outputs import main_name, named_outputs, run
from edgedistill.runtime.progress import Reporter
from edgedistill.runtime.user_code import is_function

LAYERS: Final = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRIED: Final = 16
"""The samples that show which layer is the last, and in which unit it answers."""
SAME: Final = 0.05
"""The largest difference, in deviations of the labels, that rounding another bias makes in the outputs of an int8 model."""
USUAL: Final = 10.0
"""Labels are learnt well as they are if their deviation is up to so many times larger or smaller than 1, and their mean up to so many deviations."""


@dataclass(frozen=True, slots=True)
class LabelScale:
    """The mean and the deviation (D,) of labels, float32; a deviation of 0 is 1."""

    mean: Tensor
    std: Tensor

    def standardize(self, values: Tensor) -> Tensor:
        """Return values (B, D) in deviations from the mean."""
        return (values - self.mean.to(values.device)) / self.std.to(values.device)

    def is_usual(self) -> bool:
        """Return whether a network learns such labels well as they are."""
        near = (self.mean.abs() < USUAL * self.std).all()
        return bool(near and (self.std < USUAL).all() and (self.std > 1 / USUAL).all())


@dataclass(frozen=True, slots=True)
class Probe:
    """The scale of the labels, and some samples with their labels (B, D), which show how a model answers; `output` is the key [data] output."""

    scale: LabelScale
    inputs: Tensors
    labels: Tensor
    output: str | None

    def ask(self, model: nn.Module) -> Tensor:
        """Return the labelled output (B, D) of a model, float32."""
        with torch.no_grad():
            return split_outputs(run(model.eval(), self.inputs), self.output).main.float()


def probe_labels(settings: LearningSettings, dataset: Dataset, plan: TrainingConfig) -> Probe | None:
    """Return the scale of the training labels or, without them, of the validation labels; None for labels that are learnt as they are.

    Those are the labels of tasks whose labels have no unit, and all labels if the loss is the cosine, or a function of the user.
    """
    if isinstance(plan, DistillConfig) and (plan.loss == "cosine" or is_function(plan.loss)):
        return None
    split = dataset.train if dataset.train.labels.size else dataset.val
    found = settings.task.label_scale(split.labels) if split.labels.size else None
    if found is None:
        return None
    mean, std = found
    scale = LabelScale(*(torch.from_numpy(one.astype(np.float32)) for one in (mean, np.where(std > 0, std, 1))))
    rows = np.unique(np.linspace(0, len(split) - 1, TRIED).astype(np.int64))
    inputs = plain_views(split, settings.data, settings.views).batch(rows, rows * 0)
    labels = torch.from_numpy(settings.task.collate(split.labels[rows]))
    return Probe(scale, inputs, labels, settings.data.output)


def standardized(on_output: OutputLoss, scale: LabelScale | None) -> OutputLoss:
    """Return a loss that compares outputs, labels and the teacher's outputs standardized; without a scale, the loss itself."""
    if scale is None:
        return on_output

    def change(values: Tensor | None) -> Tensor | None:
        return None if values is None else scale.standardize(values)

    def loss(outputs: Tensor, batch: Batch) -> Tensor:
        changed = batch._replace(teacher_logits=change(batch.teacher_logits))
        if batch.labels.shape[1:] == scale.mean.shape:  # labels are (B, 0) if only the teacher's outputs are learnt
            labels, partners = scale.standardize(batch.labels), change(batch.partner_labels)
            changed = changed._replace(labels=labels, partner_labels=partners)
        return on_output(scale.standardize(outputs), changed)

    return loss


@contextmanager
def standardized_head(model: nn.Module, probe: Probe | None) -> Iterator[LabelScale | None]:
    """Let the last layer of a model learn standardized values, while the model's outputs have the unit of the labels.

    Yields the scale, for the loss. It is None for labels that are learnt as they are, and for a model that does not end in a linear
    layer or a convolution with a bias for each value.
    """
    name = None if probe is None else _last_layer(model, probe)
    if probe is None or name is None:
        yield None
        return
    layer, scale, outputs = model.get_submodule(name), probe.scale, probe.ask(model)
    wanted = scale.standardize(probe.labels)
    # An untrained layer gives standardized values; a trained one gives values in the unit of the labels.
    if mse(scale.standardize(outputs), wanted) < mse(outputs, wanted):
        _standardize(layer, scale)
    axis = -1 if isinstance(layer, nn.Linear) else 1
    handle = layer.register_forward_hook(lambda _, __, returned: _in_unit(returned, scale, axis))
    try:
        yield scale
    finally:
        handle.remove()
        _restore(layer, scale)


def report_unscaled(
    settings: LearningSettings, probe: Probe | None, used: LabelScale | None, label: str, report: Reporter
) -> None:
    """Report labels of an unusual unit that the model `label` learns as they are, because it uses no scale."""
    if probe is None or used is not None or probe.scale.is_usual() or not settings.task.has_units:
        return
    mean, std = probe.scale.mean, probe.scale.std
    first = " (the first of several values)" if len(std) > 1 else ""
    report.info(
        f"{label}: the labels have a mean of {mean[0]:g} and a standard deviation of {std[0]:g}{first}; the model does not end in a "
        "linear layer with a bias, so it learns them as they are; if it learns badly, subtract the mean from the labels, and divide "
        "them by the deviation"
    )


@contextmanager
def standardized_copy(
    model: nn.Module, copy: nn.Module, layers: nn.Module, probe: Probe | None
) -> Iterator[LabelScale | None]:
    """Do the same for an int8 form of a trained model; `layers` is the module in it that has the layers of the model by name.

    A form that would give other outputs, because it computes with the values of the last layer, learns values as they are.
    """
    name = None if probe is None else _last_layer(model, probe)
    layer = None if name is None else dict(layers.named_modules()).get(name)
    if probe is None or layer is None:
        yield None
        return
    scale, before = probe.scale, probe.scale.standardize(probe.ask(copy))
    _standardize(layer, scale)
    handle = copy.register_forward_hook(lambda _, __, returned: _changed(returned, scale, probe.output))
    is_same = bool((scale.standardize(probe.ask(copy)) - before).abs().max() < SAME)
    if not is_same:
        handle.remove()
        _restore(layer, scale)
    try:
        yield scale if is_same else None
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


def _last_layer(model: nn.Module, probe: Probe) -> str | None:
    """Return the name of the layer with a bias that gives the labelled output of a model."""
    outputs = probe.ask(model)
    uses = Counter(id(one) for _, one in model.named_parameters(remove_duplicate=False))
    seen: dict[str, list[bool]] = {}

    def compare(name: str, returned: Tensor) -> None:
        is_same = returned.numel() == outputs.numel() and torch.equal(returned.float().flatten(), outputs.flatten())
        seen.setdefault(name, []).append(is_same)

    handles = [
        module.register_forward_hook(lambda _, __, returned, name=name: compare(name, returned))
        for name, module in model.named_modules() if _can_convert(module, uses)
    ]  # fmt: skip
    try:
        probe.ask(model)
    finally:
        for handle in handles:
            handle.remove()
    return next((name for name, found in seen.items() if found == [True]), None)


def _can_convert(module: nn.Module, uses: Counter[int]) -> bool:
    """Return whether a module computes with its weight and its bias alone, and no other module does; `uses` counts parameters by id."""
    own = dict(module.named_parameters())
    # A subclass, or a layer with weight normalization, may compute with other parameters.
    return (
        type(module) in LAYERS and own.keys() == {"weight", "bias"} and all(uses[id(one)] == 1 for one in own.values())
    )


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
