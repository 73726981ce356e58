"""The declaration of the export stage for the pipeline."""

from __future__ import annotations

from typing import Final

from edgedistill.export.settings import ExportSettings, declare_export
from edgedistill.records.stages import ExportRecord
from edgedistill.stages.stage import Stage, Workspace


def _export_models(settings: ExportSettings, workspace: Workspace) -> ExportRecord:
    from edgedistill.export.stage import export_models

    return export_models(settings, workspace)


EXPORT: Final = Stage(
    record=ExportRecord, settings=ExportSettings, declare=declare_export, make=_export_models,
    packages=("edgedistill", "torch", "numpy", "onnx", "onnxscript", "onnxslim", "onnx-ir", "onnxruntime"),
)  # fmt: skip
