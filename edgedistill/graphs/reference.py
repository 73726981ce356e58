"""ONNX Runtime on the CPU as the reference for every other engine; only this module opens its sessions.

Without its optimiser, ONNX Runtime computes each node as written in the file.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgedistill.errors import ConfigError
from edgedistill.runtime.processor import products_overflow

if TYPE_CHECKING:
    import numpy as np

SILENT = 4
LIMIT: Final = "EDGEDISTILL_INFERENCE_SECONDS"
LIMIT_S: Final = 120
"""The seconds after which an inference is stopped where the variable LIMIT is not set."""
EXACT_PRODUCTS = "session.x64quantprecision"
SHARED_ZERO_POINT = "Attempt to replace the existing tensor"
REFUSALS = (
    "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented", "RuntimeException",
)  # fmt: skip
"""The exceptions that ONNX Runtime raises; they share no base class."""


class RefusedError(ConfigError):
    """ONNX Runtime refused a model or its inputs; the text is ONNX Runtime's message on one line."""


class Reference:
    """A model from a file or from bytes; ONNX Runtime may rewrite the graph only if `optimise` is set.

    `threads` is the number of CPU threads, 0 for one on each core.
    """

    def __init__(self, model: Path | bytes, *, optimise: bool = False, threads: int = 0) -> None:
        self._session = open_session(model, optimise=optimise, threads=threads)
        self._outputs = [node.name for node in self._session.get_outputs()]

    def run(self, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs for one request by name; raises RefusedError."""
        import numpy as np

        feed = {
            name: np.asarray(array) for name, array in feed.items()
        }  # indexing an array gives a scalar, not an array
        return dict(zip(self._outputs, run_session(self._session, self._outputs, feed), strict=True))


def open_session(model: Path | bytes, *, optimise: bool = True, threads: int = 0) -> Any:
    """Open a model, a file or its bytes, in ONNX Runtime on the CPU; raises RefusedError."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, min(threads, 1)
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = SILENT  # errors are raised and need not be logged as well
    # x86 without VNNI adds two products of unsigned activations and signed weights in 16 bits, which overflows. For exact
    # products, ONNX Runtime changes the weights' zero points, and it fails where two weights share one. Others would be slower.
    options.add_session_config_entry(EXACT_PRODUCTS, "1" if products_overflow() else "0")
    source = model if isinstance(model, bytes) else str(model)
    try:
        return _opened(source, options)
    except RefusedError as error:
        if SHARED_ZERO_POINT not in str(error):
            raise
    options.add_session_config_entry(EXACT_PRODUCTS, "0")
    return _opened(source, options)


def run_session(session: Any, outputs: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Run an open model and return its outputs; raises RefusedError, and ConfigError for an inference that does not end."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = SILENT
    limit_s = time_limit()
    watchdog = threading.Timer(limit_s, setattr, (options, "terminate", True))
    watchdog.daemon = True
    watchdog.start()
    try:
        answers: list[np.ndarray] = session.run(outputs, feed, options)
    except _errors() as error:
        if options.terminate:
            raise ConfigError(
                f"an inference of the ONNX model with the outputs {', '.join(outputs)} did not end within {limit_s:g} s, and was "
                f"stopped: a Loop in the model may not end; check the model, or set {LIMIT}, in seconds, to wait longer"
            ) from None
        raise RefusedError(_one_line(error)) from None
    finally:
        watchdog.cancel()
    return answers


def time_limit() -> float:
    """Return the most seconds that one inference on this machine may take; raises ConfigError for a setting that is no number above 0."""
    text = os.environ.get(LIMIT) or str(LIMIT_S)
    try:
        limit_s = float(text)
    except ValueError:
        limit_s = 0.0
    if not 0 < limit_s <= threading.TIMEOUT_MAX:
        raise ConfigError(f"{LIMIT}: '{text}' is not a number of seconds above 0")
    return limit_s


def _opened(source: bytes | str, options: Any) -> Any:
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except _errors() as error:
        raise RefusedError(_one_line(error)) from None


def _errors() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(getattr(state, name) for name in REFUSALS)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:600]
