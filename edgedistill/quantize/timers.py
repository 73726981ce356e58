"""The measurements that quantization takes from a package above this one: of forms of a student, and of single layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from edgedistill.quantize.settings import Int8Target
    from edgedistill.records.measurement import Measurement
    from edgedistill.stages.stage import Workspace

KEPT: Final = "quantized/timings"
"""The folder of a run that keeps measurements, so that a repeated run decides by the same figures."""


class StudentForm(NamedTuple):
    """A form of the student to measure: the float student, or an int8 one; `name` is unique among the forms."""

    name: str
    model: nn.Module
    int8: bool


class StudentTimer(Protocol):
    """Measures forms of a student on a target, in turns."""

    def measure(self, target: Int8Target, forms: Sequence[StudentForm]) -> list[Measurement]:
        """Return one measurement for each form; raises EdgedistillError if one of them cannot be measured."""


Timers = Callable[["dict[str, np.ndarray]", "Workspace"], StudentTimer]
"""Makes a timer from inputs (R, 1, ...) by name; it keeps what it measures in the folder KEPT of the run."""
