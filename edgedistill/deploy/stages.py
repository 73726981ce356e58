"""The compile and bench stages, as the pipeline has them, and the timing of single layers for the quantize stage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from edgedistill.deploy.settings import BenchSettings, CompileSettings, declare_bench, declare_compilation
from edgedistill.records.stages import BenchRecord, CompileRecord, LayerSensitivity
from edgedistill.stages.stage import Stage, Workspace

if TYPE_CHECKING:
    from torch import fx

    from edgedistill.quantize.settings import LayerTiming
    from edgedistill.records.base import Activations


def time_layers(
    graph: fx.GraphModule, layers: list[LayerSensitivity], timing: LayerTiming, activations: Activations
) -> Iterator[LayerSensitivity]:
    """Yield the layers of a captured model with what each takes alone on a device."""
    from edgedistill.deploy.layer_timing import time_layers as timed

    yield from timed(graph, layers, timing, activations)


def _compile(settings: CompileSettings, workspace: Workspace) -> CompileRecord:
    from edgedistill.deploy.stage import compile_artifacts

    return compile_artifacts(settings, workspace)


def _bench(settings: BenchSettings, workspace: Workspace) -> BenchRecord:
    from edgedistill.deploy.stage import bench_artifacts

    return bench_artifacts(settings, workspace)


COMPILE: Final = Stage(record=CompileRecord, settings=CompileSettings, declare=declare_compilation, make=_compile)
BENCH: Final = Stage(record=BenchRecord, settings=BenchSettings, declare=declare_bench, make=_bench)
