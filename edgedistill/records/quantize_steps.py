"""The attempts to quantize a student: their drops, the sensitivity of layers, and whether int8 is faster."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgedistill.records.base import Ranges, Record
from edgedistill.records.training import Epoch


class LayerSensitivity(Record):
    """The cost and gain of quantizing one layer alone; `output_error` is the squared error of the outputs over their variance.

    `drop` is in percentage points of the metric; `weights` is the number of weights. The latencies are those of the layer alone, on
    the kit `measured_on`: `int8_us` is `fp32_us` times the ratio of the two, whose 95 % interval gives `saved_us_ci95`, or None.
    """

    layer: str
    output_error: float
    drop: float
    weights: int | None = None
    fp32_us: float | None = None
    int8_us: float | None = None
    saved_us_ci95: tuple[float, float] | None = None
    measured_on: str | None = None
    reason: str | None = None

    @property
    def saved_us(self) -> float | None:
        """The microseconds that int8 saves; None if one of the two latencies is missing."""
        return None if self.fp32_us is None or self.int8_us is None else self.fp32_us - self.int8_us


QuantizeMethod = Literal["ptq", "mixed", "qat", "mixed-qat", "static", "dynamic", "weights"]
"""Post-training quantization, or quantization-aware training; in the mixed methods, sensitive layers stay in float.

A transformer has activations of static or dynamic scales after training, or only its weights are int8.
"""


LimitVerdict = Literal["holds", "exceeds", "cannot tell"]
"""Whether a drop is within a limit: the limit is above the drop's 95 % interval, below it, or inside it."""


class QuantizeStep(Record):
    """One attempt; `drop` is in percentage points on the `samples` of the validation data, with its 95 % interval.

    `verdict` says what the interval shows about `max_drop`; if "cannot tell", about `samples_needed` samples would show it, or
    none would. `holds` is what "auto" acts on: the drop is at most `max_drop`, or at most one sample. `speed_kept` is the fraction of
    the time saved by int8 that is left, `size_kept` that of the int8 layers' weights; `reasons` says by field why a value is null.
    `ranges` says how activations were calibrated, also before a fine-tuning.
    """

    method: QuantizeMethod
    ranges: Ranges = "mse"
    float_layers: tuple[str, ...]
    val_accuracy: float
    drop: float
    drop_ci95: tuple[float, float] | None = None
    samples: int | None = None
    verdict: LimitVerdict | None = None
    samples_needed: int | None = None
    holds: bool
    seconds: float
    speed_kept: float | None = None
    speed_kept_ci95: tuple[float, float] | None = None
    size_kept: float | None = None
    history: tuple[Epoch, ...] = ()
    reasons: dict[str, str] = Field(default_factory=dict)


class Int8Speed(Record):
    """Post-training int8 beside the float student on a target, before anything more is tried; `method` is the form of a transformer.

    `latency_ratio` and `size_ratio` are int8 over `compared_with`: a ratio of 2 is half the speed; `longest_ratio` is that of the longest
    input, of `longest` tokens, if lengths vary. "slower" is beyond the interval and the noise of a bench; None, with `reason`, if not measured.
    """

    target: str
    method: QuantizeMethod | None = None
    compared_with: str | None = None
    latency_ratio: float | None = None
    ci95: tuple[float, float] | None = None
    longest: int | None = None
    longest_ratio: float | None = None
    size_ratio: float | None = None
    verdict: Literal["faster", "slower", "no difference seen", "cannot tell"] | None = None
    reason: str | None = None
