"""The settings of the quantize stage."""

from __future__ import annotations

from edgedistill.config.schema import Config, QuantizeConfig
from edgedistill.distill.settings import LabelledSettings, learning
from edgedistill.kits.kits import Kit
from edgedistill.models.source import StudentSource, student_source
from edgedistill.records.base import Record
from edgedistill.records.stages import SoftLabelsRecord, StudentRecord
from edgedistill.stages.stage import Sources


class Finetuning(Record):
    """The keys of [distill] that fine-tuning uses."""

    batch_size: int
    temperature: float
    accumulate: int


class LayerTiming(Record):
    """The kit, the device and the number of threads for timing single layers."""

    kit: Kit
    device: str
    threads: int


class QuantizeSettings(LabelledSettings):
    """The settings of the quantize stage; `finetuning` and `timing` are None unless the mode may need them."""

    float_student: StudentRecord
    student: StudentSource
    quantize: QuantizeConfig
    finetuning: Finetuning | None
    timing: LayerTiming | None

    @property
    def enabled(self) -> bool:
        """Whether the stage quantizes the student."""
        return self.quantize.mode != "none"


def declare_quantization(sources: Sources) -> QuantizeSettings:
    """Return the settings that determine the int8 model; those of fine-tuning only if the mode may fine-tune."""
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
    """Return [quantize] with defaults for the keys that its mode ignores, so that they cannot make the stage stale."""
    plan, unread = config.quantize, {"epochs", "lr"}
    if plan.mode == "none" or not any("int8" in target.precisions for target in config.target):
        return QuantizeConfig(mode="none")
    if plan.mode == "ptq":
        return plan.model_copy(update={key: QuantizeConfig.model_fields[key].default for key in unread})
    return plan


def _timing(sources: Sources) -> LayerTiming:
    target = next(target for target in sources.config.target if "int8" in target.precisions)
    return LayerTiming(kit=sources.kits[target.kit], device=target.device, threads=target.threads)
