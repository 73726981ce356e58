"""ONNX Runtime with its optimiser off: what a graph means as it is written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SILENT = 4


class RefusedError(Exception):
    """ONNX Runtime refused a model or its inputs; the text is its own, on one line."""


class Reference:
    """A model as it is written, from a file or from its bytes."""

    def __init__(self, model: Path | bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = SILENT  # what it refuses is raised, and need not be printed as well
        source = model if isinstance(model, bytes) else str(model)
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except _errors() as error:
            raise RefusedError(_one_line(error)) from None
        self._outputs = [node.name for node in self._session.get_outputs()]

    def run(self, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs for one request by name."""
        import numpy as np

        options = _quiet_run()
        feed = {name: np.asarray(array) for name, array in feed.items()}  # one element of an array is no array
        try:
            return dict(zip(self._outputs, self._session.run(None, feed, options), strict=True))
        except _errors() as error:
            raise RefusedError(_one_line(error)) from None


def _quiet_run() -> object:
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = SILENT
    return options


def _errors() -> tuple[type[Exception], ...]:
    """Return what ONNX Runtime raises: its exceptions share no base class of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
    return tuple(getattr(state, name) for name in names)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:600]
