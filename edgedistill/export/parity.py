"""Parity: compare the outputs of an exported model with those of its source model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgedistill.errors import ParityError
from edgedistill.graphs.run import Arrays
from edgedistill.records.contract import JOIN
from edgedistill.records.parity import OutputParity, Parity
from edgedistill.tasks.chance import is_constant, rounding
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


LARGEST: Final = float(np.finfo(np.float64).max)
"""The error of outputs that are not finite."""


CLOSE: Final = 0.01
"""An output that is the same for all samples has to be reproduced within this fraction of its largest magnitude, or of 1."""


def percent(fraction: float | None) -> str:
    """Return a fraction as a percentage, or a bound where the number of digits would say nothing; None is "not known"."""
    if fraction is None:
        return "not known"
    if abs(fraction) > MOST_SHOWN:
        return f"more than {MOST_SHOWN:,.0%}" if fraction > 0 else f"less than -{MOST_SHOWN:,.0%}"
    return f"{fraction:.2%}"


Agreement = Callable[[Array, Array], float]
"""Returns the agreement of the outputs (N, D) of two forms of a model; 1 is full agreement."""


def same_class(got: Array, expected: Array) -> float:
    """Return the fraction of rows of scores (..., D) with the same largest score."""
    return CLASSIFICATION.agreement(*(array.reshape(-1, array.shape[-1]) for array in (got, expected)))


def compare_outputs(expected: Array, got: Array, agreement: Agreement = same_class) -> OutputParity:
    """Compare two arrays of one output, both (N, ...); by default as scores of classes."""
    ours, theirs = comparable_values(got, expected)
    difference = float(np.abs(ours - theirs).max())
    if why_no_agreement(theirs) is not None:
        return OutputParity(max_abs_diff=difference, agreement=_reproduced(theirs, difference))
    return OutputParity(max_abs_diff=difference, agreement=agreement(got, expected))


def compare_all(expected: Arrays, got: Arrays, labelled: str, agreement: Agreement) -> Parity:
    """Compare all outputs (N, ...) of two forms of a model by name.

    `labelled` is the output that the labels describe, or several that are compared side by side: "a+b". The agreement is
    then that of all of them.
    """
    parts = labelled.split(JOIN)
    whole = [np.concatenate([one[name] for name in parts], -1) for one in (expected, got)]
    judged = compare_outputs(whole[0], whole[1], agreement).agreement
    outputs = {}
    for name, values in expected.items():
        one = compare_outputs(values, got[name], relative_agreement)
        outputs[name] = one.model_copy(update={"agreement": judged}) if name in parts else one
    return _summary(outputs, expected)


def compare_file(expected: Arrays, got: Arrays, *, classifies: bool) -> tuple[float, Parity]:
    """Compare all outputs (N, ...) of an ONNX file's forms: return the largest squared error over variance, and the parity.

    The agreement is that of the first output's largest values if it has scores of classes, otherwise 1 - error.
    """
    pairs = {name: comparable_values(got[name], values) for name, values in expected.items()}
    outputs = {}
    for place, (name, (mine, wanted)) in enumerate(pairs.items()):
        difference = float(np.abs(mine - wanted).max(initial=0))
        if why_no_agreement(wanted) is not None:
            agreement = _reproduced(wanted, difference)
        elif classifies:
            scores = [one[name].reshape(len(mine), -1) for one in (got, expected)]
            agreement = CLASSIFICATION.agreement(*scores) if not place else None
        else:
            agreement = relative_agreement(mine, wanted)
        outputs[name] = OutputParity(max_abs_diff=difference, agreement=agreement)
    errors = [squared_error(*pair) for pair in pairs.values() if why_no_agreement(pair[1]) is None]
    wanted_values = {name: wanted for name, (_, wanted) in pairs.items()}
    return max(errors, default=0.0), _summary(outputs, wanted_values).model_copy(update={"outputs": {}})


def _summary(outputs: dict[str, OutputParity], expected: Arrays) -> Parity:
    reasons = {name: why for name, values in expected.items() if (why := why_no_agreement(values)) is not None}
    known = [one.agreement for one in outputs.values() if one.agreement is not None]
    said = [f"output '{name}': {why}" if len(outputs) > 1 else why for name, why in reasons.items()]
    return Parity(
        max_abs_diff=float(np.max([one.max_abs_diff for one in outputs.values()])),  # max() and min() can lose a NaN
        agreement=float(np.min(known)) if known else None,
        outputs=outputs if len(outputs) > 1 else {}, reason="; ".join(said) or None,
    )  # fmt: skip


def why_no_agreement(expected: Array) -> str | None:
    """Return why agreement with outputs (N, ...) would say nothing, or None."""
    if len(expected) < 2:
        return "there is only one sample"
    if not expected.size:
        return f"it is empty for all {len(expected):,} samples"
    return f"it is the same for all {len(expected):,} samples" if is_constant(expected) else None


def _reproduced(expected: Array, difference: float) -> float | None:
    """Return None if an output that is the same for all samples is reproduced, and 0 otherwise."""
    return None if difference <= CLOSE * max(1.0, float(np.abs(expected).max(initial=0))) else 0.0


def comparable_values(mine: Array, wanted: Array) -> tuple[Array, Array]:
    """Return two outputs (N, ...) as float64, the second one without NaN and infinities, which a model can mean (masks).

    In their place, the second output has the mean of the other samples. The first output has it too where both outputs
    have the same NaN or infinity, and NaN elsewhere.

    Raises:
        ParityError: the outputs have different shapes.
    """
    if mine.shape != wanted.shape:
        raise ParityError(f"the outputs have shape {mine.shape}, expected {wanted.shape}")
    ours, theirs = mine.astype(np.float64), wanted.astype(np.float64)
    special = ~np.isfinite(theirs)
    if not special.any():
        return ours, theirs
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    middle = np.ma.filled(np.ma.array(theirs, mask=special).mean(0), 0)
    return np.where(special, np.where(same, middle, np.nan), ours), np.where(special, middle, theirs)


def samples_not_finite(mine: Array, wanted: Array) -> int:
    """Return the number of samples in which `mine` has a NaN or an infinity that `wanted` does not have."""
    ours, theirs = comparable_values(mine, wanted)
    return int((~np.isfinite(ours - theirs)).reshape(len(ours), -1).any(1).sum())


def squared_error(mine: Array, wanted: Array) -> float:
    """Return the squared error over the variance over samples; a variance below rounding counts as rounding.

    The error of outputs that are not finite is LARGEST, as NaN would be lost in comparisons.
    """
    ours, theirs = comparable_values(mine, wanted)
    wrong, spread = float(((ours - theirs) ** 2).sum()), float(((theirs - theirs.mean(0)) ** 2).sum())
    if wrong == 0:
        return 0.0
    error = wrong / max(spread, theirs.size * float(rounding(np.abs(theirs).max())) ** 2)
    return error if math.isfinite(error) else LARGEST


def relative_agreement(got: Array, expected: Array) -> float:
    """Return 1 - squared error / variance of an output without labels."""
    return 1 - squared_error(got, expected)


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
    most = limits.difference * max(1.0, float(np.abs(expected[np.isfinite(expected)]).max(initial=0)))
    near = math.isfinite(parity.max_abs_diff) and parity.max_abs_diff <= most
    if near and (parity.agreement is None or parity.agreement >= limits.agreement):
        return
    bound = f"at most {most:.3g}" if math.isfinite(most) else "finite"
    raise ParityError(
        f"{name} ({precision}): answers agree on {percent(parity.agreement)} (at least {limits.agreement:.1%} required), "
        f"outputs differ by up to {parity.max_abs_diff:.3g} ({bound} required); do not deploy this file: {limits.step}, "
        "or report it with the model"
    )
