"""OpenVINO on the CPU: compile an ONNX model to OpenVINO's IR; load and run it in exactly the requested precision."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import pair_sums

# `import openvino` starts a process that reports usage, takes CPU time and writes into the home folder. OpenVINO falls
# back to a stub when the reporter cannot be imported, and nothing is sent or written.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

# By default OpenVINO runs an fp32 model in bf16 where the CPU supports it; int8 layers stay int8.
HINTS = {"fp32": "f32", "int8": "f32"}
NAMES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}
NO_KERNEL = ("undef", "unknown")
WEIGHTED = {"Convolution", "Deconvolution", "FullyConnected", "MatMul", "BinaryConvolution"}


def describe() -> Dict[str, str]:
    """Return the engine's name and version."""
    import openvino

    return {"name": "openvino", "version": openvino.__version__.split("-")[0]}


def compile(model: Path, out: Path, precision: str, threads: int) -> Dict[str, Any]:  # noqa: A001 - the kit's contract
    """Write the model's IR, with narrow weights where sums of 8-bit products overflow, and check that this device compiles it."""
    import openvino

    converted = openvino.convert_model(str(model))
    if precision == "int8" and pair_sums.overflows():
        pair_sums.narrow(converted)
    entry = out / "model.xml"
    openvino.save_model(converted, str(entry), compress_to_fp16=False)
    load(entry, precision, threads)
    return {"entry": "model.xml", "files": ["model.xml", "model.bin"], "extras": []}


def load(entry: Path, precision: str, threads: int) -> "Session":
    """Compile a model for this CPU: one stream, pinned by the caller."""
    return Session(_compiled(entry, precision, threads, {}), entry)


def profile(entry: Path, precision: str, threads: int) -> "ProfiledSession":
    """Load a model as `load` does, with each layer timed."""
    return ProfiledSession(_compiled(entry, precision, threads, {"PERF_COUNT": True}), entry)


def _compiled(entry: Path, precision: str, threads: int, more: Dict[str, Any]) -> Any:
    import openvino

    if precision not in HINTS:
        raise ValueError(f"precision '{precision}' is not one of: {', '.join(sorted(HINTS))}")
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        **more,
    }
    compiled = openvino.Core().compile_model(str(entry), "CPU", settings)
    effective = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if effective != HINTS[precision]:
        raise RuntimeError(f"precision {HINTS[precision]} was requested, but the compiled model has {effective}")
    return compiled


class Session:
    """A compiled model with its input tensors preset, so that the timed call contains only the inference."""

    def __init__(self, compiled: Any, entry: Path) -> None:
        self._compiled, self._entry = compiled, entry
        self._request = compiled.create_infer_request()
        self.inputs = [_name(port) for port in compiled.inputs]
        self.infer = self._request.infer
        # Views of the request's own tensors: exchanging the tensors would cost every inference 2 us more. Inputs whose shape varies
        # have no tensor yet.
        fixed = [_name(port) for port in compiled.inputs if port.partial_shape.is_static]
        self._views = {name: self._request.get_tensor(name).data for name in fixed}

    def set(self, feed: Dict[str, np.ndarray]) -> None:
        """Copy one request, in the model's types and shapes, into the input tensors."""
        for name, array in feed.items():
            if name not in self._views:
                self._request.set_tensor(name, self._tensor(array))
                continue
            view = self._views[name]
            if view.shape != array.shape or view.dtype != array.dtype:
                raise ValueError(f"input '{name}' is {view.dtype} {view.shape}, not {array.dtype} {array.shape}")
            np.copyto(view, array)

    @staticmethod
    def _tensor(array: np.ndarray) -> Any:
        import openvino

        return openvino.Tensor(
            array, shared_memory=True
        )  # the harness keeps the array alive until the next request is set

    def outputs(self) -> Dict[str, np.ndarray]:
        """Return the outputs of the last inference."""
        return {_name(port): self._request.get_tensor(port).data for port in self._compiled.outputs}

    def engine_ns(self) -> int:
        """Return the latency of the last inference by OpenVINO's own clock, without the call from Python: some 5 us less."""
        return round(self._request.latency * 1e6)

    def threads(self) -> Optional[int]:
        """Return the number of threads of the compiled model."""
        return int(self._compiled.get_property("INFERENCE_NUM_THREADS"))

    def executed(self) -> Tuple[Optional[Dict[str, int]], Optional[str]]:
        """Count weighted layers by the precision that they run in, from the compiled graph, with a remark on narrow weights."""
        counts: Dict[str, int] = {}
        for operation in self._compiled.get_runtime_model().get_ops():
            info = operation.get_rt_info()
            if info["layerType"].astype(str) in WEIGHTED:
                precision = info["runtimePrecision"].astype(str)
                name = NAMES.get(precision, precision)
                counts[name] = counts.get(name, 0) + 1
        return counts, pair_sums.REMARK if pair_sums.is_narrow(self._entry) else None


class ProfiledSession(Session):
    """A compiled model that reports each layer's mean time over all inferences, in whole microseconds."""

    def layers(self) -> List[Dict[str, Any]]:
        """Return the layers with their own kernels; fused layers, inputs and outputs have no kernel.

        OpenVINO does not report whether a layer ran if it took less than half a microsecond.
        """
        return [
            {
                "name": info.node_name,
                "type": info.node_type,
                "precision": NAMES.get(_kernel_type(info.exec_type), "other"),
                "ns": info.real_time.total_seconds() * 1e9,
            }
            for info in self._request.get_profiling_info()
            if not info.exec_type.startswith(NO_KERNEL)
        ]


def _kernel_type(kernel: str) -> str:
    """Return the element type in a kernel's name: "brgconv_avx512_I8" computes with i8."""
    return kernel.rsplit("_", 1)[-1].lower().replace("fp", "f")


def _name(port: Any) -> str:
    """Return the name of an input or output in ONNX, which is that of its node: its tensor also has the names of merged tensors."""
    names, node = port.get_names(), port.get_node().get_friendly_name()
    own = node.rpartition("/sink_port_")[0] or node  # the node of output "logits" is "logits/sink_port_0"
    return own if own in names else min(names, key=lambda name: (len(name), name), default="")
