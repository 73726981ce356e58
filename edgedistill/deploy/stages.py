"""The compile and bench stages, as the pipeline has them, and the measurements for the quantize stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgedistill.deploy.settings import BenchSettings, CompileSettings, declare_bench, declare_compilation
from edgedistill.quantize.timers import StudentTimer, Timers
from edgedistill.records.stages import BenchRecord, CompileRecord
from edgedistill.stages.stage import Stage, Workspace

if TYPE_CHECKING:
    from edgedistill.graphs.run import Requests


def _time_students(requests: Requests, workspace: Workspace) -> StudentTimer:
    from edgedistill.deploy.student_timing import StudentBench

    return StudentBench(requests, workspace)


def _compile(settings: CompileSettings, workspace: Workspace) -> CompileRecord:
    from edgedistill.deploy.stage import compile_artifacts

    return compile_artifacts(settings, workspace)


def _bench(settings: BenchSettings, workspace: Workspace) -> BenchRecord:
    from edgedistill.deploy.stage import bench_artifacts

    return bench_artifacts(settings, workspace)


COMPILE: Final = Stage(record=CompileRecord, settings=CompileSettings, declare=declare_compilation, make=_compile)
BENCH: Final = Stage(record=BenchRecord, settings=BenchSettings, declare=declare_bench, make=_bench)
TIMERS: Final[Timers] = _time_students
