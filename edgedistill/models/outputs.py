"""Name the outputs of a module, which returns a tensor, a tuple, a dictionary, or an object with named tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor, nn

from edgedistill.errors import ConfigError
from edgedistill.losses.batch import Tensors

SINGLE: Final = "logits"
"""The name of a single output."""


def named_outputs(value: Any, model: str = "the model") -> Tensors:
    """Return the output tensors of a module by name, in order.

    A single tensor is "logits"; the tensors of a tuple are "output_0", "output_1", …; the tensors of a dictionary, a named
    tuple or a dataclass keep their names. Raises ConfigError for anything else.
    """
    if isinstance(value, Tensor):
        return {SINGLE: value}
    if isinstance(value, Mapping):
        named = {str(name): item for name, item in value.items() if item is not None}
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        named = {name: item for name, item in zip(value._fields, value, strict=True) if item is not None}
    elif isinstance(value, (tuple, list)):
        named = {f"output_{place}": item for place, item in enumerate(value)}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (field.name for field in dataclasses.fields(value))
        named = {name: item for name in fields if (item := getattr(value, name)) is not None}
    else:
        named = {}
    wrong = next((name for name, item in named.items() if not isinstance(item, Tensor)), None)
    if not named or wrong is not None:
        what = type(value).__name__ if wrong is None else f"{type(named[wrong]).__name__} as '{wrong}'"
        raise ConfigError(f"{model} returns {what}; return a tensor, or a tuple or dictionary of tensors")
    return named


def main_name(names: tuple[str, ...], wanted: str | None, model: str = "the model") -> str:
    """Return the name of the labelled output: the key [data] output, or the first output."""
    if wanted is None or len(names) == 1:
        return names[0]
    if wanted not in names:
        raise ConfigError(f"data.output: {model} has no output '{wanted}'; it has: {', '.join(names)}")
    return wanted


def call(model: nn.Module, inputs: Tensors) -> Any:
    """Run a module on its inputs, passed by position, and return its return value."""
    return model(*inputs.values())


def run(model: nn.Module, inputs: Tensors) -> Tensors:
    """Run a module on its inputs and return its outputs by name."""
    return named_outputs(call(model, inputs), type(model).__name__)


def as_float(value: Any) -> Any:
    """Convert each tensor of a module's return value to float32."""
    if isinstance(value, Tensor):
        return value.float()
    if isinstance(value, Mapping):
        return {name: as_float(item) for name, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(as_float(item) for item in value))
    if isinstance(value, (tuple, list)):
        return tuple(as_float(item) for item in value)
    if dataclasses.is_dataclass(value):
        return {name: as_float(item) for name, item in named_outputs(value).items()}
    return value
