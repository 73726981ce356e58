"""The inputs and outputs of models for a data set."""

from __future__ import annotations

from typing import Any

from edgedistill.data.kinds import Kind, kind_of
from edgedistill.data.settings import ViewSettings, model_inputs
from edgedistill.records.base import Record
from edgedistill.records.stages import DataRecord, InputRecord


class Interface(Record):
    """The inputs of a model in order, channels last, its task, and the number of values and the name of its labelled output.

    `output` is the key [data] output; None means the first output. `classes` are the names of the values.
    """

    inputs: tuple[InputRecord, ...]
    values: int
    output: str | None = None
    classes: tuple[str, ...] = ()
    task: str = "classification"

    @property
    def first(self) -> InputRecord:
        """The first input, which gives architectures with one input their channels and size."""
        return self.inputs[0]

    @property
    def kind(self) -> Kind:
        """The kind of the first input."""
        return kind_of(self.first)

    @property
    def channels(self) -> int:
        """The channels of the first input."""
        return self.kind.channels(self.first.shape)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments for functions that build models, by name."""
        return {
            "classes": self.values,
            "channels": self.channels,
            "shape": self.kind.spatial(self.first.shape),
            "vocabulary": self.first.vocabulary,
            "inputs": {one.name: kind_of(one).model_shape(one.shape) for one in self.inputs},
        }


def interface_of(record: DataRecord, views: ViewSettings) -> Interface:
    """Return the interface of models for this data."""
    names = record.classes
    inputs = model_inputs(record, views)
    return Interface(inputs=inputs, values=len(names), output=record.output, classes=names, task=record.task)
