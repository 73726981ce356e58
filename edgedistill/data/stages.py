"""The data stage: load, check and split samples."""

from __future__ import annotations

from typing import Final

from edgedistill.data.dataset import load_dataset
from edgedistill.data.settings import DataSettings, data_settings
from edgedistill.records.stages import DataRecord
from edgedistill.stages.stage import Stage, Workspace


def _make_data(settings: DataSettings, _workspace: Workspace) -> DataRecord:
    return load_dataset(settings).record


DATA: Final = Stage(
    record=DataRecord, settings=DataSettings, declare=data_settings, make=_make_data,
    packages=("edgedistill", "numpy", "scikit-learn", "pillow"), shared=True,
)  # fmt: skip
