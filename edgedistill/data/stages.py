"""The data stage: load, check, split and examine samples."""

from __future__ import annotations

from typing import Final

from edgedistill.data.dataset import load_dataset
from edgedistill.data.examination import examine
from edgedistill.data.settings import DataSettings, data_settings
from edgedistill.records.stages import DataRecord
from edgedistill.stages.stage import Stage, Workspace


def _make_data(settings: DataSettings, workspace: Workspace) -> DataRecord:
    dataset = load_dataset(settings, report=workspace.report)
    if dataset.note is not None:
        workspace.report.info(dataset.note)
    return dataset.record.model_copy(update={"findings": examine(dataset)})


DATA: Final = Stage(
    record=DataRecord, settings=DataSettings, declare=data_settings, make=_make_data,
    packages=("edgedistill", "numpy", "scikit-learn", "pillow"), shared=True,
)  # fmt: skip
