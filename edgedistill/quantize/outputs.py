"""What a model returns, by name: a tensor, a tuple or list of tensors, or a mapping or dataclass of tensors."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from edgedistill.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outputs:
    """The names of a model's outputs in their order; `keyed` where the model itself returns them by name."""

    names: tuple[str, ...] = ()
    keyed: bool = False

    def restored(self, values: Sequence[T]) -> T | tuple[T, ...] | dict[str, T]:
        """Return outputs as the model does: one by itself, several by name where it names them, else as a tuple."""
        if len(values) == 1:
            return values[0]
        return dict(zip(self.names, values, strict=True)) if self.keyed else tuple(values)


def named_outputs(result: Any, owner: str) -> tuple[Outputs, tuple[Tensor, ...]]:
    """Return the names and the tensors of what a model returned; an entry that is None is left out.

    A single tensor is named "output", the entries of a tuple or list "output_0", "output_1", ...

    Raises:
        ConfigError: something else than tensors was returned; the message names `owner`, the model's class.
    """
    if dataclasses.is_dataclass(result) and not isinstance(result, Mapping):
        result = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    keyed = isinstance(result, Mapping)
    if isinstance(result, (tuple, list)):
        result = {f"output_{place}": value for place, value in enumerate(result)}
    found = dict(result) if isinstance(result, Mapping) else {"output": result}
    found = {str(name): value for name, value in found.items() if value is not None}
    wrong = next(
        (f"{name} is a {type(value).__name__}" for name, value in found.items() if not isinstance(value, Tensor)), None
    )
    if wrong is not None or not found:
        raise ConfigError(
            f"{owner} returns {'nothing' if wrong is None else f'what is no tensor: {wrong}'}; a model must return a "
            "tensor, or a tuple, list, dict or dataclass of tensors"
        )
    return Outputs(tuple(found), keyed), tuple(found.values())


def returns_of(model: nn.Module, inputs: tuple[Tensor, ...]) -> Outputs:
    """Run a module once, without gradients, and return the names of what it returns; raises as `named_outputs`."""
    with torch.no_grad():
        return named_outputs(model(*inputs), type(model).__name__)[0]


@contextlib.contextmanager
def returning_tensors(model: nn.Module) -> Iterator[None]:
    """Let a module return its tensors alone for a while: one tensor, or a tuple of several in the model's order."""
    forward, own, owner = model.forward, model.__dict__.get("forward"), type(model).__name__

    @functools.wraps(forward)
    def tensors_only(*inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        _, tensors = named_outputs(forward(*inputs), owner)
        return tensors if len(tensors) > 1 else tensors[0]

    model.forward = tensors_only
    try:
        yield
    finally:
        # No circle of references is left: torch aborts where the garbage collector frees such a module during backward.
        del model.forward
        if own is not None:
            model.forward = own
