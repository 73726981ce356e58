"""An engine plan from an ONNX file, by TensorRT's Python module: one way for versions 8.5 to 11.

Names that some version lacks are asked for by `optional`; every other name is in all of them. The tests hold both against the
names of the published modules.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Tuple

import trt_cuda
import trt_plan

WEAK_FLAGS = {"fp32": (), "fp16": ("FP16",), "int8": ("INT8", "FP16")}
"""What builds a network whose types TensorRT may choose: layers that are not quantized run in float16, as from 11 on."""
SHARE_OF_MEMORY = 2
"""Scratch space for building is half of what is free: on a Jetson that is the memory of everything else, too."""


def module() -> Any:
    """Import TensorRT's Python module."""
    import tensorrt

    return tensorrt


def optional(owner: Any, name: str) -> Any:
    """Return a name that not every version has, or None."""
    return getattr(owner, name, None)


def version(trt: Any) -> Tuple[int, ...]:
    """Return a module's version as numbers."""
    return tuple(int(part) for part in str(trt.__version__).split(".")[:3] if part.isdigit())


def strongly_typed(numbers: Tuple[int, ...], precision: str) -> bool:
    """Say whether a network runs in exactly the types of its file: always from 11 on; before that int8 files have no float16.

    TensorRT 10 builds either way. Its float16 files say which parts must stay in float32, which flags would not respect.
    """
    return numbers[0] >= 11 or (numbers[0] == 10 and precision != "int8")


class Log:
    """What TensorRT said, errors kept for the exception that follows them; a logger of its own class is made per module."""

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
        """Return the last errors, which name the cause, or that there were none."""
        return "; ".join(self.errors[-3:]) or "it gives no reason"


def build(model: Path, plan: Path, precision: str, place: Any) -> None:
    """Build a model for this GPU and write its plan; raise RuntimeError with TensorRT's own words where it does not."""
    trt = module()
    trt_cuda.runtime()  # before TensorRT makes CUDA's context, whose way of waiting is settled then
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
    """Return the bits of how a network is made; what 11 has only one of, it has no flag for."""
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
    # On by default, and float32 with ten bits of mantissa: what is measured as fp32 is fp32.
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or the inspector tells names only
    free_bytes, _ = trt_cuda.runtime().free_bytes()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, free_bytes // SHARE_OF_MEMORY)


def _use_timings(config: Any, path: Path) -> None:
    """Give a build the timings of earlier ones; TensorRT itself refuses those of another device."""
    content = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _keep_timings(config: Any, path: Path) -> None:
    cache = config.get_timing_cache()
    if cache is not None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        trt_plan.write(path, bytes(bytearray(cache.serialize())))
