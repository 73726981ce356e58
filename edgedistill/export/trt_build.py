"""Run TensorRT's compiler on an ONNX file in its own process, because it can crash; the result is JSON on stdout.

    python -m edgedistill.export.trt_build MODEL.onnx SM86

TensorRT-RTX builds without a GPU, with the same parser as TensorRT. The log lists every layer of the engine with the
types of the layer's tensors. The engine itself, which only a GPU could open, is discarded.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

LAYER = "Name: "


def build(path: str, capability: str) -> dict[str, Any]:
    """Return the version, the log lines of the engine's layers, the build time in ns, and the first refusal or None."""
    import tensorrt_rtx

    trt: Any = tensorrt_rtx
    log = _log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    result: dict[str, Any] = {"version": trt.__version__, "layers": [], "build_ns": None, "refused": None}
    if not parser.parse_from_file(path):
        return result | {"refused": _first_error(parser)}
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    start = time.perf_counter_ns()
    if builder.build_serialized_network(network, config) is None:
        return result | {"refused": "; ".join(log.errors) or "the builder gives no reason"}
    lines = "\n".join(log.lines).splitlines()
    layers = [line for line in lines if line.startswith(LAYER) and ", LayerType: " in line]
    return result | {"layers": layers, "build_ns": time.perf_counter_ns() - start}


def _log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]  # the base class is known at run time
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            self.lines.append(message)
            if severity in {trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR}:
                self.errors.append(message)

    return Log()


def _first_error(parser: Any) -> str:
    if not parser.num_errors:
        return "the parser gives no reason"
    error = parser.get_error(0)
    where = f"{error.node_operator()} '{error.node_name()}': " if error.node_operator() else ""
    return where + error.desc()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(build(sys.argv[1], sys.argv[2])))
