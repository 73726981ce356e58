"""Whether an exported model answers as the model it was made from."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgedistill.errors import ParityError
from edgedistill.records.stages import Parity
from edgedistill.tasks.tasks import TaskName, agreement_of


class Limits(NamedTuple):
    """How far outputs may be off, as a part of the largest where that is above 1, and how often answers must agree."""

    difference: float
    agreement: float
    step: str


# fp16: ten times what five families of nets are off by. int8: rounding at a boundary falls either way with the order of
# a sum, and a step can change an answer.
FLOAT: Final = Limits(1e-3, 0.999, "look for the operator that differs")
LIMITS: Final = {
    "fp16": Limits(1e-2, 0.99, "deploy fp32, or scale the model's values down"),
    "int8": Limits(math.inf, 0.98, "keep its sensitive layers in float ([quantize] skip)"),
}


def compare_outputs(
    expected: NDArray[np.generic], got: NDArray[np.generic], task: TaskName = "classification"
) -> Parity:
    """Compare two arrays of outputs of one shape (N, ..., D)."""
    if expected.shape != got.shape:
        raise ParityError(f"the outputs have shape {got.shape}, where {expected.shape} was expected")
    difference = np.abs(expected.astype(np.float64) - got.astype(np.float64))
    return Parity(
        max_abs_diff=float(difference.max()),
        agreement=agreement_of(task, *(array.reshape(-1, array.shape[-1]) for array in (got, expected))),
    )


def require_parity(parity: Parity, expected: NDArray[np.generic], precision: str, name: str) -> None:
    """Raise unless a model's outputs are as near to the expected ones as its precision allows.

    fp32 must be within 0.001 of the expected outputs, relative to the largest where that is above 1, and agree on 99.9 %
    of the answers; fp16 within 0.01 and on 99 %; int8 must be finite and agree on 98 %. Agreement is the task's metric.

    Raises:
        ParityError: they are not; the message has the figures, the limit and the next step.
    """
    limits = LIMITS.get(precision, FLOAT)
    most = limits.difference * max(1.0, float(np.abs(expected).max()))
    near = math.isfinite(parity.max_abs_diff) and parity.max_abs_diff <= most
    if near and parity.agreement >= limits.agreement:
        return
    bound = f"at most {most:.3g}" if math.isfinite(most) else "finite"
    raise ParityError(
        f"{name} ({precision}): answers agree on {parity.agreement:.2%} (at least {limits.agreement:.1%} required), "
        f"outputs differ by up to {parity.max_abs_diff:.3g} ({bound} required); do not deploy this file: {limits.step}, "
        "or report it with the model"
    )
