"""Running an ONNX model with ONNX Runtime on one CPU thread: the reference for every other engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgedistill.errors import ConfigError

Arrays = dict[str, NDArray[np.generic]]


def run_onnx(model: Path | bytes, requests: Arrays, *, optimise: bool = False) -> Arrays:
    """Return each output of a model for R requests, stacked as (R, *output shape), by ONNX Runtime on one CPU thread.

    Args:
        model: the file, or its content.
        requests: for each input, an array of shape (R, *the input's shape).
        optimise: let ONNX Runtime rewrite the graph; otherwise it computes each node as the file has it.
    """
    answers = list(run_each(model, requests, optimise=optimise))
    return {name: np.stack([answer[name] for answer in answers]) for name in answers[0]}


def run_each(model: Path | bytes, requests: Arrays, *, optimise: bool = False) -> Iterator[Arrays]:
    """Yield the outputs of a model for one request after another; raises ConfigError for requests that do not match."""
    session = _session(model, optimise=optimise)
    counts = {name: len(values) for name, values in requests.items()}
    if len(set(counts.values())) != 1 or not all(counts.values()):
        raise ConfigError(f"every input needs the same number of requests, at least one; there are {counts}")
    names = [output.name for output in session.get_outputs()]
    for request in range(next(iter(counts.values()))):
        feed = {name: np.asarray(values[request]) for name, values in requests.items()}
        yield dict(zip(names, session.run(names, feed), strict=True))


def _session(model: Path | bytes, *, optimise: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
