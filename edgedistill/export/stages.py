"""The declaration of the export stage for the pipeline, and the export of students for the quantize stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgedistill.export.settings import ExportSettings, declare_export
from edgedistill.quantize.settings import QuantizeSettings
from edgedistill.quantize.timers import Graphs
from edgedistill.records.stages import ExportRecord
from edgedistill.stages.stage import Stage, Workspace

if TYPE_CHECKING:
    from torch import nn

    from edgedistill.export.student_graph import StudentGraph


def _export_models(settings: ExportSettings, workspace: Workspace) -> ExportRecord:
    from edgedistill.export.stage import export_models

    return export_models(settings, workspace)


def _graph_of_student(settings: QuantizeSettings, student: nn.Module) -> StudentGraph:
    from edgedistill.export.student_graph import StudentGraph

    return StudentGraph(settings, student)


GRAPHS: Final[Graphs] = _graph_of_student
EXPORT: Final = Stage(
    record=ExportRecord, settings=ExportSettings, declare=declare_export, make=_export_models,
    packages=("edgedistill", "torch", "numpy", "onnx", "onnxscript", "onnxslim", "onnx-ir", "onnxruntime"),
)  # fmt: skip
