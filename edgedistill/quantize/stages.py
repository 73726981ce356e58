"""The declaration of the quantize stage for the pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgedistill.quantize.settings import QuantizeSettings, declare_quantization
from edgedistill.records.stages import QuantizedRecord
from edgedistill.stages.stage import Stage, Workspace

if TYPE_CHECKING:
    from edgedistill.quantize.timers import Services


def quantize_stage(services: Services) -> Stage[QuantizeSettings, QuantizedRecord]:
    """Return the stage; `services`, which measure on devices and export graphs, come from packages above this one."""

    def make(settings: QuantizeSettings, workspace: Workspace) -> QuantizedRecord:
        from edgedistill.quantize.stage import quantize_student

        return quantize_student(settings, workspace, services)

    return Stage(
        record=QuantizedRecord, settings=QuantizeSettings, declare=declare_quantization, make=make,
        packages=("edgedistill", "torch", "numpy", "accelerate"), shared=True,
    )  # fmt: skip
