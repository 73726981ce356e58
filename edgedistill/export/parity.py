"""Parity: compare the outputs of an exported model with those of its source model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgedistill.errors import ParityError
from edgedistill.graphs.run import Arrays
from edgedistill.records.stages import OutputParity, Parity
from edgedistill.tasks.classification import TASK as CLASSIFICATION

Array = NDArray[Any]


class Limits(NamedTuple):
    """The largest difference (relative to the largest output if above 1), the least agreement, and the next step."""

    difference: float
    agreement: float
    step: str


# fp16: ten times the difference measured on five families of nets. int8: rounding at a boundary goes either way with
# the order of a sum, and a step can change an answer.
FLOAT: Final = Limits(1e-3, 0.999, "look for the operator that differs")
LIMITS: Final = {
    "fp16": Limits(1e-2, 0.99, "deploy fp32, or scale the model's values down"),
    "int8": Limits(math.inf, 0.98, "keep its sensitive layers in float ([quantize] skip)"),
}


MOST_SHOWN: Final = 100.0
"""The largest fraction that is shown as a number: that of an output without variance has hundreds of digits."""


def percent(fraction: float) -> str:
    """Return a fraction as a percentage, or a bound where the number of digits would say nothing."""
    if abs(fraction) > MOST_SHOWN:
        return f"more than {MOST_SHOWN:,.0%}" if fraction > 0 else f"less than -{MOST_SHOWN:,.0%}"
    return f"{fraction:.2%}"


Agreement = Callable[[Array, Array], float]
"""Returns the agreement of the outputs (N, D) of two forms of a model; 1 is full agreement."""


def compare_outputs(expected: Array, got: Array, agreement: Agreement = CLASSIFICATION.agreement) -> OutputParity:
    """Compare two arrays of one output, both (N, ..., D); by default as scores of classes."""
    if expected.shape != got.shape:
        raise ParityError(f"the outputs have shape {got.shape}, expected {expected.shape}")
    difference = np.abs(expected.astype(np.float64) - got.astype(np.float64))
    rows = (array.reshape(-1, array.shape[-1]) for array in (got, expected))
    return OutputParity(max_abs_diff=float(difference.max()), agreement=agreement(*rows))


def compare_all(expected: Arrays, got: Arrays, main: str, agreement: Agreement) -> Parity:
    """Compare all outputs (N, ...) of two forms of a model by name; `main` is the output that the labels describe."""
    outputs = {
        name: compare_outputs(values, got[name], agreement if name == main else relative_agreement)
        for name, values in expected.items()
    }
    return Parity(
        max_abs_diff=max(one.max_abs_diff for one in outputs.values()),
        agreement=min(one.agreement for one in outputs.values()),
        outputs=outputs if len(outputs) > 1 else {},
    )


def relative_agreement(got: Array, expected: Array) -> float:
    """Return 1 - squared error / variance of an output without labels; 1 for equal outputs, even if constant."""
    ours, theirs = got.astype(np.float64), expected.astype(np.float64)
    wrong, spread = float(((ours - theirs) ** 2).sum()), float(((theirs - theirs.mean(0)) ** 2).sum())
    if wrong == 0:
        return 1.0
    return 1 - wrong / max(spread, float(np.finfo(np.float64).tiny))


def require_all(parity: Parity, expected: Arrays, precision: str, name: str) -> None:
    """Raise ParityError unless each output is within the limits of the precision; see require_parity."""
    if not parity.outputs:
        require_parity(parity, next(iter(expected.values())), precision, name)
        return
    for output, one in parity.outputs.items():
        require_parity(one, expected[output], precision, f"{name}, output '{output}'")


def require_parity(parity: Parity | OutputParity, expected: Array, precision: str, name: str) -> None:
    """Raise unless a model's outputs are within the limits of its precision.

    fp32 must be within 0.001 of the expected outputs, relative to the largest where that is above 1, and agree on 99.9
    % of the answers; fp16 within 0.01 and on 99 %; int8 must be finite and agree on 98 %. Agreement is the
    task's metric.

    Raises:
        ParityError: the outputs are outside the limits; the message has the figures, the limit and the next step.
    """
    limits = LIMITS.get(precision, FLOAT)
    most = limits.difference * max(1.0, float(np.abs(expected).max()))
    near = math.isfinite(parity.max_abs_diff) and parity.max_abs_diff <= most
    if near and parity.agreement >= limits.agreement:
        return
    bound = f"at most {most:.3g}" if math.isfinite(most) else "finite"
    raise ParityError(
        f"{name} ({precision}): answers agree on {percent(parity.agreement)} (at least {limits.agreement:.1%} required), "
        f"outputs differ by up to {parity.max_abs_diff:.3g} ({bound} required); do not deploy this file: {limits.step}, "
        "or report it with the model"
    )
