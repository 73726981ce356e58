"""Build an engine plan from an ONNX file with TensorRT's Python module, for versions 8.5 to 11.

Names that some versions lack are looked up with `optional`; all other names exist in every version. The tests compare both
with the names of the published modules.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, List, Tuple

import trt_cuda
import trt_plan

WEAK_FLAGS = {"fp32": (), "fp16": ("FP16",), "int8": ("INT8", "FP16")}
"""The builder flags where TensorRT may choose types: layers that are not quantized run in float16, as from 11 on."""
SHARE_OF_MEMORY = 2
"""The build's workspace is half of the free memory: on a Jetson all other programs share that memory."""


def module() -> Any:
    """Import TensorRT's Python module."""
    import tensorrt

    return tensorrt


def optional(owner: Any, name: str) -> Any:
    """Return an attribute that some versions lack, or None."""
    return getattr(owner, name, None)


def version(trt: Any) -> Tuple[int, ...]:
    """Return a module's version as numbers."""
    return tuple(int(part) for part in str(trt.__version__).split(".")[:3] if part.isdigit())


def strongly_typed(numbers: Tuple[int, ...], precision: str) -> bool:
    """Return whether a network runs in exactly the types of its file: always from 11 on, and in 10 except for int8.

    Before 11, int8 files contain no float16. TensorRT 10 supports both ways; its float16 files define which parts must stay in
    float32, and builder flags would ignore that.
    """
    return numbers[0] >= 11 or (numbers[0] == 10 and precision != "int8")


class Log:
    """TensorRT's errors, stored for the exception that follows them; the logger class is made for each TensorRT module."""

    def __init__(self, trt: Any) -> None:
        self.errors: List[str] = []
        errors, worst = self.errors, (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)

        class Logger(trt.ILogger):  # type: ignore[misc]  # known when it runs
            def __init__(self) -> None:
                super().__init__()

            def log(self, severity: Any, msg: str) -> None:
                if severity in worst:
                    errors.append(msg)

        self.logger = Logger()

    def words(self) -> str:
        """Return the last errors, which name the cause, or a text that there were none."""
        return "; ".join(self.errors[-3:]) or "it gave no reason"


def build(model: Path, plan: Path, precision: str, place: Any) -> None:
    """Build a model for this GPU and write its plan; raise RuntimeError with TensorRT's errors if the build fails."""
    trt = module()
    trt_cuda.runtime()  # before TensorRT makes CUDA's context, which fixes how the CPU waits for the GPU
    numbers, log = version(trt), Log(trt)
    builder = trt.Builder(log.logger)
    network = builder.create_network(_network_flags(trt, numbers, precision))
    parser = trt.OnnxParser(network, log.logger)
    if not parser.parse_from_file(str(model)):
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise RuntimeError(f"TensorRT {trt.__version__} cannot read the model: {'; '.join(errors[:3]) or log.words()}")
    config = builder.create_builder_config()
    _configure(trt, config, [] if strongly_typed(numbers, precision) else WEAK_FLAGS[precision])
    path = trt_plan.timing_cache(place)
    _use_timings(config, path)
    made = builder.build_serialized_network(network, config)
    if made is None:
        raise RuntimeError(f"TensorRT {trt.__version__} cannot build the model: {log.words()}")
    trt_plan.write(plan, bytes(bytearray(made)))
    _keep_timings(config, path)


def _network_flags(trt: Any, numbers: Tuple[int, ...], precision: str) -> int:
    """Return the flags for creating a network; 11 lacks the flags of features that are always on."""
    flags, wanted = trt.NetworkDefinitionCreationFlag, ["EXPLICIT_BATCH"]
    if strongly_typed(numbers, precision):
        wanted.append("STRONGLY_TYPED")
    found = [optional(flags, name) for name in wanted]
    return sum(1 << int(flag) for flag in found if flag is not None)


def _configure(trt: Any, config: Any, flags: Any) -> None:
    for name in flags:
        flag = optional(trt.BuilderFlag, name)
        if flag is None:
            raise RuntimeError(f"TensorRT {trt.__version__} has no builder flag {name}")
        config.set_flag(flag)
    # TF32 is on by default, and has only ten bits of mantissa: a measurement in fp32 must run in fp32.
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or the inspector reports names only
    free_bytes, _ = trt_cuda.runtime().free_bytes()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, free_bytes // SHARE_OF_MEMORY)


def _use_timings(config: Any, path: Path) -> None:
    """Reuse the timing cache of earlier builds; TensorRT itself refuses the cache of another device."""
    content = b""
    with contextlib.suppress(OSError):  # without it, the build only takes longer
        content = path.read_bytes()
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _keep_timings(config: Any, path: Path) -> None:
    cache = config.get_timing_cache()
    if cache is not None:
        with contextlib.suppress(OSError):  # the plan is complete
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            trt_plan.write(path, bytes(bytearray(cache.serialize())))
