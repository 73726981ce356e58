"""Features: outputs of named layers of the student in training and of the teacher."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from edgedistill.config.training import DistillConfig
from edgedistill.data.text import MASK
from edgedistill.distill.bfloat16 import autocast
from edgedistill.distill.predictors import split_outputs
from edgedistill.distill.probabilities import log_probabilities
from edgedistill.errors import ConfigError
from edgedistill.losses.batch import Batch, Loss, Tensors
from edgedistill.losses.terms import FEATURE_TERMS
from edgedistill.models.outputs import as_float, call, named_outputs

SAME_CHANNELS: Final = ("hint", "cwd-features")
"""The losses that need as many channels of the student as of the teacher."""
SPATIAL_LOSSES: Final = ("at", "cwd-features", "relations")
LISTED = 24  # layers in an error message
BY_POSITIONS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
SPATIAL: Final = (*BY_POSITIONS, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm)
TOKENWISE: Final = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.MultiheadAttention)


class WithFeatures(NamedTuple):
    """The return value of a model, and the outputs of its named layers, channels first: (B, C, ...)."""

    returned: Any
    features: tuple[Tensor, ...]


def run_with_features(model: nn.Module, layers: tuple[str, ...], inputs: Tensors) -> WithFeatures:
    """Run a model and record the outputs of its named layers.

    Raises ConfigError for a layer that does not run exactly once or does not return one tensor.
    """
    seen: dict[str, list[Any]] = {name: [] for name in layers}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: seen[name].append(_kept(output))
        )
        for name in seen
    ]
    try:
        returned = call(model, inputs)
    finally:
        for handle in handles:  # hooks must not be copied, saved or run later
            handle.remove()
    for name, outputs in seen.items():
        if len(outputs) != 1:
            raise ConfigError(f"layer '{name}' runs {len(outputs)} times per forward pass; name a layer that runs once")
        if not isinstance(outputs[0], Tensor) or outputs[0].ndim < 2:
            actual = tuple(outputs[0].shape) if isinstance(outputs[0], Tensor) else type(outputs[0]).__name__
            raise ConfigError(
                f"layer '{name}' returns {actual}; name a layer that returns one tensor (B, channels, ...)"
            )
    features = (seen[name][0].movedim(channel_axis(model.get_submodule(name)), 1) for name in layers)
    return WithFeatures(returned, tuple(features))


def _kept(output: Any) -> Any:
    # The next layer can change the tensor in place, as ReLU(inplace=True) and `out += shortcut` do, so copy it.
    return output.clone() if isinstance(output, Tensor) else output


def channel_axis(layer: nn.Module) -> int:
    """Return the axis of channels in the output of a layer: -1 for layers on tokens (transformers), otherwise 1."""
    parts = list(layer.modules())
    if any(isinstance(part, SPATIAL) for part in parts):
        return 1
    return -1 if any(isinstance(part, TOKENWISE) for part in parts) else 1


class FeatureStudent(nn.Module):
    """A student that in training also returns features, each through a regressor to the teacher's channels if needed.

    In evaluation it returns the output of the student; only the weights of the student are saved.
    """

    def __init__(self, student: nn.Module, layers: tuple[str, ...], regressors: list[nn.Module]) -> None:
        super().__init__()
        self.student, self.layers, self.regressors = student, layers, nn.ModuleList(regressors)

    def forward(self, *inputs: Tensor) -> Any:
        """Map inputs (B, ...) to the student's outputs and features, or in evaluation to its outputs."""
        if not self.training:
            return self.student(*inputs)
        answer = run_with_features(
            self.student, self.layers, dict(zip(map(str, range(len(inputs))), inputs, strict=True))
        )
        features = (regress(x) for regress, x in zip(self.regressors, answer.features, strict=True))
        return WithFeatures(answer.returned, tuple(features))


@dataclass(frozen=True, slots=True)
class FeatureTeacher:
    """A frozen teacher that returns outputs and features from one forward pass; `precision` can be bfloat16.

    If the teacher `gives_probabilities`, the loss on its outputs takes their logarithm as logits.
    """

    model: nn.Module
    layers: tuple[str, ...]
    precision: str
    gives_probabilities: bool = False

    def __call__(self, inputs: Tensors) -> WithFeatures:
        """Return the teacher's outputs and features for inputs (B, ...), in float32, on the device of the inputs."""
        device = next(iter(inputs.values())).device
        self.model.to(device).eval()
        with torch.no_grad(), autocast(device, self.precision):
            answer: WithFeatures = as_float(run_with_features(self.model, self.layers, inputs))
        return answer


def feature_student(
    plan: DistillConfig, student: nn.Module, teacher: FeatureTeacher, sample: Tensors, seed: int
) -> FeatureStudent:
    """Wrap a student for feature losses; the regressors of SAME_CHANNELS are initialised from `seed`.

    Shapes are determined by running both models on a sample batch. Raises ConfigError for missing layers and for layers that
    the loss cannot compare.
    """
    check_layers(student, plan.student_layers, "student_layers")
    check_layers(teacher.model, plan.teacher_layers, "teacher_layers")
    with torch.no_grad():
        ours = run_with_features(student.eval(), plan.student_layers, sample)
    theirs = teacher(sample)
    shapes = [{name: tuple(x.shape) for name, x in named_outputs(one.returned).items()} for one in (ours, theirs)]
    if shapes[0] != shapes[1]:
        raise ConfigError(f"teacher.model: outputs {_shown(shapes[1])}; expected logits of shape {_shown(shapes[0])}")
    names = zip(plan.student_layers, plan.teacher_layers, strict=True)
    regressors = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for pair, x, y in zip(names, ours.features, theirs.features, strict=True):
            _check_pair(plan, pair, x, y)
            _check_tokens(plan.loss, pair, (x, y), sample.get(MASK))
            regressors.append(regressor(x, y) if plan.loss in SAME_CHANNELS else nn.Identity())
    return FeatureStudent(student, plan.student_layers, regressors)


def _shown(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(str(shape) if len(shapes) == 1 else f"{name} {shape}" for name, shape in shapes.items())


def feature_loss(plan: DistillConfig, on_outputs: Loss, teacher: FeatureTeacher, output: str | None) -> Loss:
    """Return the loss on outputs + feature_weight * the sum of the feature terms over the pairs of layers.

    The loss runs the teacher, for its outputs and features together. Padding of texts does not count in features of tokens.
    """
    term, weight = FEATURE_TERMS[plan.loss], plan.feature_scale

    def loss(answer: WithFeatures, batch: Batch) -> Tensor:
        theirs = teacher(batch.inputs)
        pairs = zip(answer.features, theirs.features, strict=True)
        mask = batch.inputs.get(MASK)
        on_features = torch.stack([term(*pair, plan, _kept_tokens(pair, mask)) for pair in pairs]).sum()
        main, others = split_outputs(named_outputs(theirs.returned), output)
        main = log_probabilities(main) if teacher.gives_probabilities else main
        return (
            on_outputs(answer.returned, batch._replace(teacher_logits=main, teacher_outputs=others))
            + weight * on_features
        )

    return loss


def _kept_tokens(features: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor | None:
    """Return which positions of features are tokens (B, T), or None where none is padding: in pictures, signals and vectors."""
    return None if mask is None or all(one.ndim == 2 for one in features) else mask.bool()


def regressor(student: Tensor, teacher: Tensor) -> nn.Module:
    """Build a 1x1 convolution from the student's to the teacher's number of channels, or the identity if both are equal."""
    if student.shape[1] == teacher.shape[1]:
        return nn.Identity()
    if student.ndim == 2:
        return nn.Linear(student.shape[1], teacher.shape[1])
    return BY_POSITIONS[student.ndim - 3](student.shape[1], teacher.shape[1], 1)


def _check_pair(plan: DistillConfig, names: tuple[str, str], student: Tensor, teacher: Tensor) -> None:
    loss, heads = plan.loss, plan.relation_heads
    pair = f"'{names[0]}' {tuple(student.shape)} and '{names[1]}' {tuple(teacher.shape)}"
    if loss != "rkd" and student.ndim != teacher.ndim:
        raise ConfigError(
            f"distill: loss '{loss}' cannot compare {pair}; name layers with the same number of axes, or use rkd"
        )
    if student.ndim > 5:
        raise ConfigError(
            f"distill: loss '{loss}' cannot compare {pair}; features have at most three axes of positions"
        )
    if loss in SPATIAL_LOSSES and min(student[0, 0].numel(), teacher[0, 0].numel()) < 2:
        raise ConfigError(
            f"distill: loss '{loss}' compares spatial maps, but {pair} are not maps; name layers before pooling"
        )
    if loss == "relations" and (student.shape[1] % heads or teacher.shape[1] % heads):
        raise ConfigError(
            f"distill.relation_heads: {heads} does not divide the channels of {pair}; set a common divisor"
        )


def _check_tokens(loss: str, names: tuple[str, str], features: tuple[Tensor, Tensor], mask: Tensor | None) -> None:
    """Raise ConfigError for features of texts whose positions are not the tokens, because padding could not be left out."""
    for name, feature in zip(names, features, strict=True):
        if mask is not None and feature.ndim != 2 and feature.shape[2:] != mask.shape[1:]:
            raise ConfigError(
                f"distill: loss '{loss}' leaves padding out, but the positions of '{name}' {tuple(feature.shape)} are not the "
                f"{mask.shape[1]} tokens; name a layer that returns (B, tokens, channels), or one behind the pooling"
            )


def check_layers(model: nn.Module, layers: tuple[str, ...], key: str) -> None:
    """Raise ConfigError, with the nearest match and the list of layers, for an unknown layer name."""
    names = [name for name, _ in model.named_modules() if name]
    for layer in layers:
        if layer not in names:
            close = difflib.get_close_matches(layer, names, n=1)
            perhaps = f"; perhaps '{close[0]}'?" if close else ";"
            raise ConfigError(f"distill.{key}: no layer '{layer}'{perhaps} the layers are {_listed(names)}")


def _listed(names: list[str]) -> str:
    """List as many complete levels of names, from the top, as fit."""
    for depth in range(max(name.count(".") for name in names), -1, -1):
        shown = [name for name in names if name.count(".") <= depth]
        if len(shown) <= LISTED:
            break
    hidden = len(names) - len(shown[:LISTED])
    return ", ".join(shown[:LISTED]) + (f", and {hidden} within these" if hidden else "")
