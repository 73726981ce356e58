"""What quantization takes from packages above this one: measurements of forms of a student and of layers, and the student as a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from edgedistill.data.dataset import Split
    from edgedistill.graphs.run import Requests
    from edgedistill.quantize.settings import Int8Target, QuantizeSettings
    from edgedistill.records.base import Encoding
    from edgedistill.records.measurement import Measurement
    from edgedistill.stages.stage import Workspace

KEPT: Final = "quantized/timings"
"""The folder of a run that keeps measurements, so that a repeated run decides by the same figures."""


class StudentForm(NamedTuple):
    """A form of the student to measure: the float student, or an int8 one; `name` is unique among the forms.

    A graph is a float model, or an int8 model in its canonical encoding. `encoding` is the one to measure, None for that of the kit.
    """

    name: str
    model: nn.Module | onnx.ModelProto
    int8: bool
    encoding: Encoding | None = None


class StudentTimer(Protocol):
    """Measures forms of a student on a target, in turns."""

    def measure(self, target: Int8Target, forms: Sequence[StudentForm]) -> list[Measurement]:
        """Return one measurement for each form; raises EdgedistillError if one of them cannot be measured."""


Timers = Callable[["Requests", "Workspace"], StudentTimer]
"""Makes a timer from inputs by name: arrays (R, 1, ...), or lists of arrays of several lengths. It keeps what it measures in the folder
KEPT of the run."""


class StudentGraph(Protocol):
    """The float student as an ONNX model, as the export stage writes it."""

    @property
    def model(self) -> onnx.ModelProto:
        """The model, whose nodes have names; the length of texts varies."""

    def requests(self, split: Split) -> Requests:
        """Return the samples of a split as inputs of the model: arrays (N, 1, ...), or texts at their own length."""


Graphs = Callable[["QuantizeSettings", "nn.Module"], StudentGraph]
"""Exports a student as a graph."""


class Services(NamedTuple):
    """What the quantize stage takes from packages above it."""

    timers: Timers
    graphs: Graphs
