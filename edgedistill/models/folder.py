"""Models from a Hugging Face folder: encoders of texts, and vision transformers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from edgedistill.config.encoder import WEIGHTS, EncoderConfig, read_encoder_config
from edgedistill.config.vit import VitConfig, fits_classes, is_vit, read_vit_config
from edgedistill.data.text import IDS, MASK
from edgedistill.errors import ConfigError
from edgedistill.models.encoder import Encoder, LayerStack
from edgedistill.models.interface import Interface
from edgedistill.models.source import EncoderFolder, ModelSource
from edgedistill.models.teacher_view import TeacherView
from edgedistill.models.vit import POSITIONS, PROJECTION, Vit, resized_positions
from edgedistill.models.weights import load_weights
from edgedistill.tasks.table import find_task


def build_folder(source: ModelSource, folder: EncoderFolder, interface: Interface) -> nn.Module:
    """Build a model with the weights of its folder; a head that the folder lacks, or has for other classes, is untrained."""
    model: nn.Module
    if is_vit(folder.path):
        model = _vit(source, read_vit_config(folder.path), interface)
    else:
        model = _encoder(source, folder, read_encoder_config(folder.path), interface)
    load_folder(model, source, interface)
    return model


def load_folder(model: nn.Module, source: ModelSource, interface: Interface) -> list[str]:
    """Load the weights of a model's folder, and return what was changed or left out; `interface` is that of the model itself."""
    assert source.encoder is not None
    path = source.encoder.path / WEIGHTS
    if isinstance(model, Vit):
        names = tuple(f"{name}.{part}" for name in model.heads for part in ("weight", "bias"))
        return load_weights(model, path, head=names, reason=_misfit(model, source, interface))
    classifies = read_encoder_config(source.encoder.path).classifies
    return load_weights(model, path, () if classifies else ("classifier.",))


def _misfit(model: Vit, source: ModelSource, interface: Interface) -> str:
    """Return why the head of the folder does not fit, empty if it does."""
    named = source.view is not None and source.view.classes is not None
    if named or fits_classes(model.config.labels, interface.classes):
        return ""
    return f"for {_shown(model.config.labels)}"


def _shown(labels: tuple[str, ...]) -> str:
    return f"the classes {', '.join(labels[:3])}{', ...' if len(labels) > 3 else ''}"


def _encoder(source: ModelSource, folder: EncoderFolder, config: EncoderConfig, interface: Interface) -> Encoder:
    first, where = interface.first, f"model '{source.spec}'"
    if [one.name for one in interface.inputs][:2] != [IDS, MASK]:
        raise ConfigError(f"{where} takes texts; this is {interface.kind.name} data")
    if (first.vocabulary or 0) > config.vocabulary:
        raise ConfigError(
            f"{where} has embeddings of {config.vocabulary:,} tokens, but the tokenizer has {first.vocabulary:,}; set data.tokenizer "
            "to the tokenizer of this model"
        )
    if first.shape[0] > config.positions:
        raise ConfigError(f"{where} takes at most {config.positions} tokens; lower data.max_length")
    assert folder.pooling is not None
    classes = _head_size(where, config.hidden, interface)
    return Encoder(config, folder.pooling, classes, normalize=classes is None)


def _vit(source: ModelSource, config: VitConfig, interface: Interface) -> Vit:
    where, task = f"model '{source.spec}'", find_task(interface.task)
    if len(interface.inputs) > 1 or not interface.kind.is_picture:
        raise ConfigError(f"{where} takes images; this is {interface.kind.name} data")
    if task.is_dense:
        raise ConfigError(
            f"{where} has one output per image, which task '{interface.task}' cannot use; name another model"
        )
    if interface.channels != config.channels:
        raise ConfigError(f"{where} takes images of {config.channels} channel(s); the data has {interface.channels}")
    height, width = interface.kind.spatial(interface.first.shape)
    (rows, columns), trained = config.grid((height, width)), config.grid(config.image)
    if not rows * columns:
        raise ConfigError(f"{where} cuts images into patches of {config.patch}; those of {height}x{width} are smaller")
    if (rows, columns) != trained and rows * columns == trained[0] * trained[1]:
        raise ConfigError(
            f"{where} has position embeddings of {trained[0]}x{trained[1]} patches, and images of {height}x{width} have as many in "
            f"{rows}x{columns}; use another size"
        )
    return Vit(config, (height, width), _head_size(where, config.hidden, interface))


def _head_size(where: str, hidden: int, interface: Interface) -> int | None:
    """Return the number of values of the head, or None for a task without labels, which takes the vectors themselves."""
    if find_task(interface.task).needs_labels:
        return interface.values
    if interface.values != hidden:
        raise ConfigError(f"{where} gives {hidden} values; set data.dimensions = {hidden}")
    return None


def take_weights(model: nn.Module, teacher: nn.Module, view: TeacherView, interface: Interface) -> None:
    """Copy a teacher's weights into the same architecture that sees samples as the student does.

    Position embeddings are interpolated for the size of the data, the head has the rows of the data's classes, and the conversion to
    the teacher's mean, std and order of channels is part of the first layer, exactly.
    """
    assert isinstance(model, LayerStack)
    state, columns = dict(teacher.state_dict()), view.columns(interface)
    for name in model.heads if columns is not None else ():
        for part in ("weight", "bias"):
            state[f"{name}.{part}"] = state[f"{name}.{part}"][columns]
    if isinstance(model, Vit) and isinstance(teacher, Vit):
        config, grids = model.config, [model.config.grid(one.image) for one in (teacher, model)]
        state[POSITIONS] = resized_positions(state[POSITIONS], config.tokens, grids[0], grids[1])
        state |= _projection(state, view)
    model.load_state_dict(state)


def _projection(state: Mapping[str, torch.Tensor], view: TeacherView) -> dict[str, torch.Tensor]:
    """Return the weights of the patch projection for the student's inputs."""
    weight, bias = state[f"{PROJECTION}.weight"], state[f"{PROJECTION}.bias"]
    factor, offset = (torch.tensor(values) for values in view.scaling(weight.shape[1]))
    bias = bias + (weight * offset.reshape(1, -1, 1, 1)).sum((1, 2, 3))
    weight = weight * factor.reshape(1, -1, 1, 1)
    return {f"{PROJECTION}.weight": weight.flip(1) if view.channels == "bgr" else weight, f"{PROJECTION}.bias": bias}
