"""The compile and bench stages, as the pipeline has them, and the measurements for the quantize stage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from edgedistill.deploy.settings import BenchSettings, CompileSettings, declare_bench, declare_compilation
from edgedistill.quantize.timers import StudentTimer, Timers
from edgedistill.records.stages import BenchRecord, CompileRecord, LayerSensitivity
from edgedistill.stages.stage import Stage, Workspace

if TYPE_CHECKING:
    import numpy as np
    from torch import fx

    from edgedistill.quantize.settings import Int8Target
    from edgedistill.records.base import Scheme


def _time_layers(
    graph: fx.GraphModule, layers: list[LayerSensitivity], target: Int8Target, scheme: Scheme
) -> Iterator[LayerSensitivity]:
    from edgedistill.deploy.layer_timing import time_layers

    yield from time_layers(graph, layers, target, scheme)


def _student_timer(requests: dict[str, np.ndarray]) -> StudentTimer:
    from edgedistill.deploy.student_timing import StudentBench

    return StudentBench(requests)


def _compile(settings: CompileSettings, workspace: Workspace) -> CompileRecord:
    from edgedistill.deploy.stage import compile_artifacts

    return compile_artifacts(settings, workspace)


def _bench(settings: BenchSettings, workspace: Workspace) -> BenchRecord:
    from edgedistill.deploy.stage import bench_artifacts

    return bench_artifacts(settings, workspace)


COMPILE: Final = Stage(record=CompileRecord, settings=CompileSettings, declare=declare_compilation, make=_compile)
BENCH: Final = Stage(record=BenchRecord, settings=BenchSettings, declare=declare_bench, make=_bench)
TIMERS: Final = Timers(_time_layers, _student_timer)
