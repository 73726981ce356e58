"""What the quantize stage is given."""

from __future__ import annotations

from edgedistill.config.schema import Config, QuantizeConfig
from edgedistill.distill.settings import LabelledSettings, learning
from edgedistill.kits.kits import Kit
from edgedistill.models.source import StudentSource, student_source
from edgedistill.records.base import Record
from edgedistill.records.stages import SoftLabelsRecord, StudentRecord
from edgedistill.stages.stage import Sources


class Finetuning(Record):
    """What fine-tuning takes from [distill]."""

    batch_size: int
    temperature: float
    accumulate: int


class LayerTiming(Record):
    """Where single layers are timed: a kit, a device, and its threads."""

    kit: Kit
    device: str
    threads: int


class QuantizeSettings(LabelledSettings):
    """What the quantize stage is given; `finetuning` and `timing` only where the mode may come to need them."""

    float_student: StudentRecord
    student: StudentSource
    quantize: QuantizeConfig
    finetuning: Finetuning | None
    timing: LayerTiming | None

    @property
    def is_asked_for(self) -> bool:
        """Whether there is anything to quantize."""
        return self.quantize.mode != "none"


def declare_quantization(sources: Sources) -> QuantizeSettings:
    """Declare what decides the int8 model; the epochs and batches of a fine-tuning only where there may be one."""
    config = sources.config
    plan = _plan(config)
    distill = config.distill
    finetuning = Finetuning(
        batch_size=distill.batch_size, temperature=distill.temperature, accumulate=distill.accumulate
    )
    return QuantizeSettings(
        **learning(sources), soft_labels=sources.records[SoftLabelsRecord], float_student=sources.records[StudentRecord],
        student=student_source(config, sources.hash_file), quantize=plan,
        finetuning=finetuning if plan.mode in ("qat", "auto") else None,
        timing=_timing(sources) if plan.mode == "auto" else None,
    )  # fmt: skip


def _plan(config: Config) -> QuantizeConfig:
    """Return [quantize] with the keys that its mode does not read at their defaults, so that they decide nothing."""
    plan, unread = config.quantize, {"epochs", "lr"}
    if plan.mode == "none" or not any("int8" in target.precisions for target in config.target):
        return QuantizeConfig(mode="none")
    if plan.mode == "ptq":
        return plan.model_copy(update={key: QuantizeConfig.model_fields[key].default for key in unread})
    return plan


def _timing(sources: Sources) -> LayerTiming:
    target = next(target for target in sources.config.target if "int8" in target.precisions)
    return LayerTiming(kit=sources.kits[target.kit], device=target.device, threads=target.threads)
