"""The inputs and outputs of a model: named tensors with types and shapes."""

from __future__ import annotations

from edgedistill.records.base import Record


class TensorSpec(Record):
    """One input or output: `shape` has a number for a fixed size and a name for an axis that varies."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class Signature(Record):
    """The inputs and outputs of a model, in their order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
