"""An engine plan in memory, through TensorRT's Python module: inputs and outputs pinned, one stream, a CUDA graph."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from statistics import median
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import trt_build
import trt_cuda
import trt_layers

GRAPH = "EDGEDISTILL_CUDA_GRAPH"
"""The environment variable that turns CUDA graphs off: a graph saves a launch per layer, which dominates in tiny models."""
NUMPY = {
    "FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "INT32": np.int32, "BOOL": np.bool_, "UINT8": np.uint8,
    "INT64": np.int64,
}  # fmt: skip
TRIAL = 20


class Tensor(NamedTuple):
    """An input or output: its memory, and the host memory as an array."""

    name: str
    memory: trt_cuda.Buffer
    array: np.ndarray


class Session:
    """A loaded engine; the timed call copies the inputs over, computes, copies the outputs back, and waits."""

    def __init__(self, plan: Path) -> None:
        self._trt, self._cuda = trt_build.module(), trt_cuda.runtime()
        trt, cuda = self._trt, self._cuda
        self._log = trt_build.Log(trt)
        self._stream, self._begin, self._end = cuda.stream(), cuda.event(), cuda.event()
        free_before, _ = cuda.free_bytes()
        self._runtime = runtime = trt.Runtime(self._log.logger)
        engine = runtime.deserialize_cuda_engine(plan.read_bytes())
        if engine is None:
            raise RuntimeError(f"TensorRT {trt.__version__} does not load {plan.name}: {self._log.words()}")
        context = engine.create_execution_context()
        if context is None:
            raise RuntimeError(f"there is no room for {plan.name} on the GPU: {self._log.words()}")
        self._engine, self._context = engine, context
        self._in, self._out = self._bind()
        self.inputs = [tensor.name for tensor in self._in]
        self._launch, self._graph = self._enqueue, "off"
        self._run()  # TensorRT initialises at the first run, which must not be part of a graph
        self._prepare()
        self._device_bytes = free_before - cuda.free_bytes()[0]

    def _prepare(self) -> None:
        """Run the engine through a CUDA graph from now on, if enabled and possible."""
        self._launch, self._graph = self._with_graph()

    def _bind(self) -> Tuple[List[Tensor], List[Tensor]]:
        """Allocate the memory of every input and output."""
        trt, engine, context = self._trt, self._engine, self._context
        inputs: List[Tensor] = []
        outputs: List[Tensor] = []
        for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors)):
            tensor = self._tensor(name)
            context.set_tensor_address(name, tensor.memory.device)
            given = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (inputs if given else outputs).append(tensor)
        return inputs, outputs

    def _tensor(self, name: str) -> Tensor:
        engine = self._engine
        shape = tuple(int(size) for size in engine.get_tensor_shape(name))
        if min(shape, default=0) < 0 or engine.is_shape_inference_io(name):
            raise RuntimeError(f"'{name}' has the dynamic shape {shape}; export the model with fixed shapes")
        kind = np.dtype(self._numpy_type(name))
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        memory = self._cuda.buffer(size)
        raw = (ctypes.c_uint8 * max(size, 1)).from_address(memory.host)
        return Tensor(name, memory, np.frombuffer(raw, dtype=np.uint8)[:size].view(kind).reshape(shape))

    def _numpy_type(self, name: str) -> Any:
        kind = self._engine.get_tensor_dtype(name)
        for spelt, found in NUMPY.items():
            if trt_build.optional(self._trt.DataType, spelt) == kind:
                return found
        raise RuntimeError(f"'{name}' is of type {kind}, which numpy does not have")

    def _enqueue(self) -> None:
        context = self._context
        if not context.execute_async_v3(self._stream):
            raise RuntimeError(f"the engine failed: {self._log.words()}")

    def _with_graph(self) -> Tuple[Callable[[], None], str]:
        """Return the function that runs the engine, and whether it uses a CUDA graph; without one if the capture fails."""
        if os.environ.get(GRAPH, "").lower() in {"0", "off", "no", "false"}:
            return self._enqueue, f"off, by {GRAPH}"
        try:
            self._cuda.begin_capture(self._stream)
            try:
                self._enqueue()
            finally:
                graph = self._cuda.end_capture(self._stream)
        except RuntimeError as error:
            self._stream = self._cuda.stream()  # a stream whose capture failed cannot be used again
            return self._enqueue, f"off, it cannot be captured: {error}"
        cuda, stream = self._cuda, self._stream
        return (lambda: cuda.call("cudaGraphLaunch", graph, stream)), "on"

    def _run(self) -> None:
        cuda, stream = self._cuda, self._stream
        for tensor in self._in:
            memory = tensor.memory
            cuda.call("cudaMemcpyAsync", memory.device, memory.host, memory.bytes, trt_cuda.TO_DEVICE, stream)
        cuda.call("cudaEventRecord", self._begin, stream)
        self._launch()
        cuda.call("cudaEventRecord", self._end, stream)
        for tensor in self._out:
            memory = tensor.memory
            cuda.call("cudaMemcpyAsync", memory.host, memory.device, memory.bytes, trt_cuda.TO_HOST, stream)
        cuda.call("cudaStreamSynchronize", stream)

    def set(self, feed: Dict[str, np.ndarray]) -> None:
        """Copy one request into pinned memory; TensorRT before 10 has no int64, and reads such an input as int32."""
        for tensor in self._in:
            given, wanted = feed[tensor.name], tensor.array
            if given.dtype == np.int64 and wanted.dtype == np.int32:
                given = as_int32(given, tensor.name)
            if given.shape != wanted.shape or given.dtype != wanted.dtype:
                raise ValueError(
                    f"input '{tensor.name}' is {wanted.dtype} {wanted.shape}, not {given.dtype} {given.shape}"
                )
            np.copyto(wanted, given)

    def infer(self) -> None:
        """Run one inference, including the copies from and to host memory."""
        self._run()

    def outputs(self) -> Dict[str, np.ndarray]:
        """Return the outputs of the last inference."""
        return {tensor.name: tensor.array.copy() for tensor in self._out}

    def engine_ns(self) -> int:
        """Return the GPU time of the last inference, without copies and launches from Python."""
        return self._cuda.elapsed_ns(self._begin, self._end)

    def device_bytes(self) -> Optional[int]:
        """Return the decrease of the GPU's free memory during loading; None if other programs freed more meanwhile."""
        return self._device_bytes if self._device_bytes > 0 else None

    def free_device_bytes(self) -> int:
        """Return the free memory of the GPU; on a Jetson that of the board."""
        return self._cuda.free_bytes()[0]

    def threads(self) -> Optional[int]:
        """Return None: the GPU has no threads to set."""
        return None

    def executed(self) -> Tuple[Optional[Dict[str, int]], Optional[str]]:
        """Count weighted layers by the precision that they run in, from the engine's inspector."""
        try:
            return trt_layers.count(self._layers())
        except ValueError as error:
            return None, str(error)

    def _layers(self) -> List[trt_layers.Layer]:
        trt, engine = self._trt, self._engine
        inspector = engine.create_engine_inspector()
        inspector.execution_context = self._context
        return trt_layers.read_layers(inspector.get_engine_information(trt.LayerInformationFormat.JSON))

    def settings(self) -> Dict[str, Any]:
        """Return the measuring conditions, and the engine's time with and without a CUDA graph, in ns."""
        scratch = trt_build.optional(self._engine, "device_memory_size_v2")
        found = {
            "timed_by": "the clock around copies, engine and wait; CUDA events around the engine",
            "gpu": trt_cuda.gpu().spelt,
            "cuda_graph": self._graph,
            "wait": "spin",
            "activation_bytes": trt_build.optional(self._engine, "device_memory_size") if scratch is None else scratch,
        }
        if self._graph == "on":
            found["engine_ns_with_graph"] = self._median_ns()
            launch, self._launch = self._launch, self._enqueue
            found["engine_ns_without_graph"] = self._median_ns()
            self._launch = launch
        return found

    def _median_ns(self) -> float:
        times = []
        for _ in range(TRIAL):
            self._run()
            times.append(self.engine_ns())
        return float(median(times))


class ProfiledSession(Session):
    """A loaded engine that records each layer's time; it runs without a CUDA graph, which hides the layers."""

    def _prepare(self) -> None:
        self._profiler = _profiler(self._trt)
        self._context.profiler = self._profiler
        self._graph = "off while layers are timed"

    def layers(self) -> List[Dict[str, Any]]:
        """Return the layers in execution order, each with its median time over the inferences so far."""
        times_ns = {name: 1e6 * median(each) for name, each in self._profiler.times_ms.items()}
        return trt_layers.timed(self._layers(), times_ns)


def as_int32(values: np.ndarray, name: str) -> np.ndarray:
    """Return int64 values as int32; raise ValueError where one does not fit."""
    if values.size and (values.max() > np.iinfo(np.int32).max or values.min() < np.iinfo(np.int32).min):
        raise ValueError(f"input '{name}' has values outside int32's range, and this TensorRT has no int64")
    return values.astype(np.int32)


def _profiler(trt: Any) -> Any:
    """Return a profiler that records the times of each layer, in milliseconds, by name."""

    class Profiler(trt.IProfiler):  # type: ignore[misc]  # known when it runs
        def __init__(self) -> None:
            super().__init__()
            self.times_ms: Dict[str, List[float]] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times_ms.setdefault(layer_name, []).append(ms)

    return Profiler()
