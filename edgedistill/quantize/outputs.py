"""A model's outputs by name: a tensor, a tuple or list of tensors, or a mapping or dataclass of tensors."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from edgedistill.models.outputs import named_outputs as named

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outputs:
    """The names of a model's outputs, in order; `keyed` if the model itself returns its outputs by name."""

    names: tuple[str, ...] = ()
    keyed: bool = False

    def restored(self, values: Sequence[T]) -> T | tuple[T, ...] | dict[str, T]:
        """Return the outputs in the form that the model returns: a dict if `keyed`, else one value or a tuple."""
        if self.keyed:
            return dict(zip(self.names, values, strict=True))
        return values[0] if len(values) == 1 else tuple(values)


def named_outputs(result: Any, owner: str) -> tuple[Outputs, tuple[Tensor, ...]]:
    """Return the names and the tensors of a model's result, without entries that are None.

    The names are those of `models.outputs`. Anything but tensors raises ConfigError, with `owner` in the message.
    """
    tensors = named(result, owner)
    keyed = isinstance(result, Mapping) or dataclasses.is_dataclass(result) or hasattr(result, "_fields")
    return Outputs(tuple(tensors), keyed), tuple(tensors.values())


def returns_of(model: nn.Module, inputs: tuple[Tensor, ...]) -> Outputs:
    """Run a module once, without gradients, and return the names of its outputs; raises as `named_outputs`."""
    with torch.no_grad():
        return named_outputs(model(*inputs), type(model).__name__)[0]


@contextlib.contextmanager
def returning_tensors(model: nn.Module) -> Iterator[None]:
    """Make a module return plain tensors inside the context: one tensor, or a tuple of several in the model's order."""
    owner = type(model).__name__

    def tensors_only(_: nn.Module, __: object, returned: object) -> Tensor | tuple[Tensor, ...]:
        tensors = named_outputs(returned, owner)[1]
        return tensors if len(tensors) > 1 else tensors[0]

    hook = model.register_forward_hook(tensors_only)
    try:
        yield
    finally:
        hook.remove()
