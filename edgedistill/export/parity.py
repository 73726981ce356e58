"""Whether an exported model answers as the model it was made from."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgedistill.data.tasks import TaskName, agreement_of
from edgedistill.errors import ConfigError, ParityError
from edgedistill.records import Parity

Arrays = dict[str, NDArray[np.generic]]
FP32_TOLERANCE = 1e-3
FP32_AGREEMENT = 0.999
# Rounding at a boundary falls either way with the order of a sum, and a step of int8 can change an answer.
INT8_AGREEMENT = 0.98


def run_onnx(model: Path | bytes, requests: Arrays, *, optimise: bool = False) -> Arrays:
    """Return each output of a model for R requests, stacked as (R, *output shape), by ONNX Runtime on one CPU thread.

    Args:
        model: the file, or its content.
        requests: for each input, an array of shape (R, *the input's shape).
        optimise: let ONNX Runtime rewrite the graph; otherwise it computes each node as the file has it.
    """
    session = _session(model, optimise=optimise)
    counts = {name: len(values) for name, values in requests.items()}
    if len(set(counts.values())) != 1 or not all(counts.values()):
        raise ConfigError(f"every input needs the same number of requests, at least one; there are {counts}")
    names = [output.name for output in session.get_outputs()]
    answers = [
        session.run(names, {name: values[request] for name, values in requests.items()})
        for request in range(next(iter(counts.values())))
    ]
    return {name: np.stack([answer[place] for answer in answers]) for place, name in enumerate(names)}


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

    fp32 (and anything but int8) must be within 0.001 of the expected outputs, relative to the largest where that is
    above 1, and agree on 99.9 % of the answers; int8 must be finite and agree on 98 %. Agreement is the task's metric.

    Raises:
        ParityError: they are not; the message has the figures, the limit and the next step.
    """
    int8 = precision == "int8"
    limit = math.inf if int8 else FP32_TOLERANCE * max(1.0, float(np.abs(expected).max()))
    least = INT8_AGREEMENT if int8 else FP32_AGREEMENT
    near = math.isfinite(parity.max_abs_diff) and parity.max_abs_diff <= limit
    if near and parity.agreement >= least:
        return
    step = "keep its sensitive layers in float ([quantize] skip)" if int8 else "look for the operator that differs"
    bound = "finite" if int8 else f"at most {limit:.3g}"
    raise ParityError(
        f"{name} ({precision}): answers agree on {parity.agreement:.2%} (at least {least:.1%} required), outputs differ "
        f"by up to {parity.max_abs_diff:.3g} ({bound} required); do not deploy this file: {step}, "
        "or report it with the model"
    )


def _session(model: Path | bytes, *, optimise: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
