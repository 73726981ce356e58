"""Name the outputs of a module, which returns a tensor, a tuple, a dictionary, or an object with named tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from torch import Tensor, nn

from edgedistill.errors import ConfigError
from edgedistill.losses.batch import Tensors
from edgedistill.records.contract import JOIN
from edgedistill.runtime.user_code import user_code

SINGLE: Final = "logits"
"""The name of a single output."""
LISTED: Final = 8
"""The entries of a return value in a message."""


class Fitted(NamedTuple):
    """The outputs of a module, the labelled output first; `note` says which of several entries it is, None for one tensor.

    `is_same` is whether the module returns just these outputs, in this order, as a tensor, tuple, list or dictionary.
    """

    outputs: Tensors
    note: str | None
    is_same: bool


def named_outputs(value: Any, model: str = "the model") -> Tensors:
    """Return the output tensors of a module by name, in order.

    A single tensor is "logits"; the tensors of a tuple are "output_0", "output_1", …; the tensors of a dictionary, a named
    tuple or a dataclass keep their names. Raises ConfigError for anything else.
    """
    named = _entries(value)
    if not named or not all(isinstance(item, Tensor) for item in named.values()):
        raise ConfigError(f"{model} returns {describe(value)}; return a tensor, or a tuple or dictionary of tensors")
    return named


def fit_outputs(value: Any, values: int, wanted: str | None, model: str = "the model") -> Fitted:
    """Return what a module returns as named tensors with the labelled output first, or in their order if it is `wanted`.

    The labelled output is `wanted`, the key [data] output; or the first of shape (N, `values`), "logits" before others. Entries
    that are not tensors of a batch, such as a missing loss or hidden states, are left out. Raises ConfigError if nothing is left.
    """
    entries = _entries(value)
    tensors = {name: item for name, item in entries.items() if isinstance(item, Tensor) and item.ndim}
    if not tensors:
        raise ConfigError(
            f"{model} returns {describe(value)}; return a tensor (N, {values}), or a tuple or dictionary of tensors"
        )
    fitting = [name for name, item in tensors.items() if item.ndim == 2 and item.shape[1] == values] or list(tensors)
    main = wanted if wanted in tensors else SINGLE if SINGLE in fitting else fitting[0]
    outputs = tensors if wanted == main else {main: tensors[main], **tensors}
    left = [name for name in entries if name not in outputs]
    dropped = f"; {', '.join(left)} left out" if left else ""
    note = f"{model} returns {describe(value)}; '{main}' is taken as its output{dropped}"
    is_said = left or not (isinstance(value, Tensor) or wanted == main)
    return Fitted(outputs, note if is_said else None, list(outputs) == list(entries) and _is_plain(value))


def _is_plain(value: Any) -> bool:
    """Return whether a value is of a type that torch.export knows."""
    return isinstance(value, Tensor) or type(value) in (tuple, list, dict)


def _entries(value: Any) -> dict[str, Any]:
    """Return the entries of a return value by name, without those of a structure with names that are None."""
    if isinstance(value, Tensor):
        return {SINGLE: value}
    if isinstance(value, Mapping):
        return {str(name): item for name, item in value.items() if item is not None}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {name: item for name, item in zip(value._fields, value, strict=True) if item is not None}
    if isinstance(value, (tuple, list)):
        return {f"output_{place}": item for place, item in enumerate(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (field.name for field in dataclasses.fields(value))
        return {name: item for name in fields if (item := getattr(value, name)) is not None}
    logits = getattr(value, SINGLE, None)
    return {SINGLE: logits} if isinstance(logits, Tensor) else {}


def describe(value: Any) -> str:
    """Return the type of a return value, with the types and shapes of its entries."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{tuple(value.shape)}"
    name, entries = type(value).__name__, _entries(value)
    if not entries:
        return name
    shown = [f"{key}: {_brief(item)}" for key, item in list(entries.items())[:LISTED]]
    return f"{name} ({', '.join(shown)}{', ...' if len(entries) > LISTED else ''})"


def _brief(item: Any) -> str:
    return describe(item) if isinstance(item, Tensor) else type(item).__name__


def main_name(names: tuple[str, ...], wanted: str | None, model: str = "the model") -> str:
    """Return the name of the labelled output: the key [data] output, or the first output."""
    if wanted is None or len(names) == 1:
        return names[0]
    if wanted not in names:
        raise ConfigError(f"data.output: {model} has no output '{wanted}'; it has: {', '.join(names)}")
    return wanted


def labelled_names(names: tuple[str, ...], wanted: str | None, model: str = "the model") -> tuple[str, ...]:
    """Return the names of the outputs that are the labelled output side by side: one, or those that `wanted` joins with "+"."""
    if wanted is None or JOIN not in wanted:
        return (main_name(names, wanted, model),)
    parts = tuple(wanted.split(JOIN))
    for part in parts:
        if part not in names:
            raise ConfigError(f"{model} has no output '{part}'; it has: {', '.join(names)}")
    return parts


def call(model: nn.Module, inputs: Tensors) -> Any:
    """Run a module on its inputs, passed by position, and return its return value; raises ConfigError for an error of the user's code."""
    with user_code(lambda: f"{type(model).__name__}, for inputs of shape {shapes_of(inputs)},"):
        return model(*inputs.values())


def shapes_of(inputs: Tensors) -> str:
    """Return the shapes of inputs for a message."""
    shapes = {name: tuple(value.shape) for name, value in inputs.items()}
    return str(next(iter(shapes.values()))) if len(shapes) == 1 else str(shapes)


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
