"""What a model takes and gives, as the data decides it."""

from __future__ import annotations

from typing import Any

from edgedistill.data.kinds import Kind, kind_of
from edgedistill.data.settings import ViewSettings, model_inputs
from edgedistill.records.base import Record
from edgedistill.records.stages import DataRecord, InputRecord


class Interface(Record):
    """The inputs of a model, channels last, in their order, how many values its output for the labels has, and its name.

    `output` is that of [data]; None stands for the first output.
    """

    inputs: tuple[InputRecord, ...]
    values: int
    output: str | None = None

    @property
    def first(self) -> InputRecord:
        """The first input, of which layouts of one input take channels and size."""
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
        """Return what a function that builds a model may ask for by name."""
        return {
            "classes": self.values,
            "channels": self.channels,
            "shape": self.kind.spatial(self.first.shape),
            "vocabulary": self.first.vocabulary,
            "inputs": {one.name: kind_of(one).model_shape(one.shape) for one in self.inputs},
        }


def interface_of(record: DataRecord, views: ViewSettings) -> Interface:
    """Return what models of this data take and give."""
    return Interface(inputs=model_inputs(record, views), values=len(record.classes), output=record.output)
