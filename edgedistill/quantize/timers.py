"""The measurements that quantization takes from a package above this one: of single layers, and of whole students."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from torch import fx, nn

    from edgedistill.quantize.settings import Int8Target
    from edgedistill.records.base import Scheme
    from edgedistill.records.stages import LayerSensitivity

LayerTimer = Callable[
    ["fx.GraphModule", "list[LayerSensitivity]", "Int8Target", "Scheme"], "Iterator[LayerSensitivity]"
]
"""Yields the layers of a captured model with each layer's own latency, in float and in int8."""


class StudentForm(NamedTuple):
    """A form of the student to measure: the float student, or an int8 one; `name` is unique among the forms."""

    name: str
    model: nn.Module
    int8: bool


class StudentTime(NamedTuple):
    """The p50 of a form in each process, and the size of its compiled file; the forms' processes take turns."""

    p50s_us: tuple[float, ...]
    size_bytes: int


class StudentTimer(Protocol):
    """Measures forms of a student on a target, in turns."""

    def measure(self, target: Int8Target, forms: Sequence[StudentForm]) -> list[StudentTime]:
        """Return one result for each form; raises EdgedistillError if one of them cannot be measured."""


class Timers(NamedTuple):
    """Both kinds; `students` makes a timer from inputs (R, 1, ...) by name."""

    layers: LayerTimer
    students: Callable[[dict[str, np.ndarray]], StudentTimer]
