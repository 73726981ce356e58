"""Build, load and time a model with trtexec, NVIDIA's program, on devices without TensorRT's Python module."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import trt_cuda
import trt_exec
import trt_layers
import trt_plan
from trt_session import GRAPH, as_int32

ONCE = ("--iterations=1", "--duration=0", "--warmUp=0")


def build(program: trt_exec.Program, model: Path, plan: Path, precision: str, place: Dict[str, Any]) -> None:
    """Build a model for this GPU and write its plan."""
    log = trt_exec.run(
        program,
        [f"--onnx={model}", f"--saveEngine={plan}", *_timings(place), *trt_exec.build_flags(program.version, precision)],
    )  # fmt: skip
    gpu = trt_exec.read_gpu(log)
    if (gpu.compute_capability, gpu.multiprocessors) != (place["compute_capability"], place["multiprocessors"]):
        raise trt_exec.TrtexecError(f"trtexec built on {gpu}, and the driver's first GPU is {trt_cuda.gpu()}")
    if not plan.is_file():
        raise trt_exec.TrtexecError(f"trtexec wrote no plan; it said: {trt_exec.errors(log)}")


def _timings(place: Dict[str, Any]) -> List[str]:
    """Return the flag that keeps timings for the next build, or none where their folder cannot be written."""
    cache = trt_plan.timing_cache(place)
    with contextlib.suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return [f"--timingCacheFile={cache}"] if os.access(str(cache.parent), os.W_OK | os.X_OK) else []


class ProgramSession:
    """A plan that trtexec loads again for every inference, and times in separate runs: see `run_for`."""

    def __init__(self, program: trt_exec.Program, plan: Path) -> None:
        self._program, self._plan = program, plan
        self._folder = Path(tempfile.mkdtemp(prefix="edgedistill-trtexec-"))
        self._graph = os.environ.get(GRAPH, "").lower() not in {"0", "off", "no", "false"}
        self._files: Dict[str, str] = {}
        self._outputs: Dict[str, np.ndarray] = {}
        self._engine_ns = 0
        self._settings: Dict[str, Any] = {}
        layers = self._folder / "layers.json"
        log = self._start([*ONCE, "--profilingVerbosity=detailed", f"--exportLayerInfo={layers}"])
        self._shapes = trt_exec.read_inputs(log)
        self.inputs = list(self._shapes)
        self._layer_info = layers.read_text(encoding="utf-8", errors="replace")

    def _start(self, arguments: List[str]) -> str:
        """Run the plan under the pinned conditions, verify them in the log, and return the log."""
        flags, wanted = trt_exec.conditions(self._program.version, graph=self._graph)
        log = trt_exec.run(self._program, [f"--loadEngine={self._plan}", *flags, *arguments])
        self._settings = dict(trt_exec.read_back(log, wanted))
        return log

    def set(self, feed: Dict[str, np.ndarray]) -> None:
        """Write one request into files for trtexec."""
        for name, array in feed.items():
            if array.shape != self._shapes[name]:
                raise ValueError(f"input '{name}' has the shape {self._shapes[name]}, not {array.shape}")
            narrow = array.dtype == np.int64 and self._program.version[0] < 10
            path = self._folder / f"input-{self.inputs.index(name)}.bin"
            (as_int32(array, name) if narrow else array).tofile(str(path))
            self._files[name] = str(path)

    def infer(self) -> None:
        """Load the plan and run one inference in a process: this takes seconds; `engine_ns` is the GPU's part."""
        times, outputs = self._folder / "times.json", self._folder / "outputs.json"
        given = trt_exec.quoted("loadInputs", self._files)
        self._start([*ONCE, given, f"--exportTimes={times}", f"--exportOutput={outputs}"])
        _, compute_ns = trt_exec.read_times(times.read_text(encoding="utf-8"))
        self._engine_ns = int(compute_ns[-1])
        self._outputs = trt_exec.read_outputs(outputs.read_text(encoding="utf-8"))

    def run_for(self, seconds: float) -> Tuple[np.ndarray, np.ndarray]:
        """Infer for some seconds after a warm-up, and return latencies with copies and of the GPU alone, in ns, both (N,)."""
        times = self._folder / "times.json"
        given = [trt_exec.quoted("loadInputs", self._files)] if self._files else []
        # trtexec accepts whole seconds only, and runs at least 10 inferences.
        length = [f"--warmUp={trt_exec.WARM_UP_MS}", f"--duration={max(1, round(seconds))}", "--iterations=50"]
        self._start([*length, *given, f"--exportTimes={times}"])
        return trt_exec.read_times(times.read_text(encoding="utf-8"))

    def outputs(self) -> Dict[str, np.ndarray]:
        """Return the outputs of the last inference, to six digits."""
        return self._outputs

    def engine_ns(self) -> int:
        """Return the GPU time of the last inference."""
        return self._engine_ns

    def threads(self) -> Optional[int]:
        """Return None: the GPU has no threads to set."""
        return None

    def executed(self) -> Tuple[Optional[Dict[str, int]], Optional[str]]:
        """Count weighted layers by the precision that they run in."""
        try:
            return trt_layers.count(trt_layers.read_layers(self._layer_info))
        except ValueError as error:
            return None, str(error)

    def layers(self) -> List[Dict[str, Any]]:
        """Return each layer's time by trtexec's profiler, from a separate run without a CUDA graph."""
        profile = self._folder / "profile.json"
        self._graph, before = False, self._graph
        try:
            self._start(["--warmUp=500", "--duration=1", "--dumpProfile", "--separateProfileRun",
                         f"--exportProfile={profile}"])  # fmt: skip
        finally:
            self._graph = before
        times_ns = trt_exec.read_profile(profile.read_text(encoding="utf-8"))
        return trt_layers.timed(trt_layers.read_layers(self._layer_info), times_ns)

    def settings(self) -> Dict[str, Any]:
        """Return the measuring conditions that trtexec logged."""
        return dict(self._settings, timed_by=f"trtexec {self._program.spelt}", gpu=trt_cuda.gpu().spelt)
