"""The settings of the quantize stage."""

from __future__ import annotations

from edgedistill.config.schema import Config, QuantizeConfig
from edgedistill.distill.settings import LabelledSettings, learning
from edgedistill.kits.kits import Kit
from edgedistill.models.source import StudentSource, student_source
from edgedistill.records.base import Record
from edgedistill.records.stages import DataRecord, SoftLabelsRecord, StudentRecord
from edgedistill.stages.stage import Sources


class Finetuning(Record):
    """The keys of [distill] that fine-tuning uses."""

    batch_size: int
    temperature: float
    accumulate: int


class Int8Target(Record):
    """A target with int8, for timing: its kit, device and threads, and the precision that int8 is compared with, if any."""

    name: str
    kit: Kit
    device: str
    threads: int
    float_precision: str | None


class GraphPlan(Record):
    """How a student is exported to be quantized as a graph: the parts of [export] bake, and an opset that all int8 targets take."""

    bake: tuple[str, ...]
    opset: int


class QuantizeSettings(LabelledSettings):
    """The settings of the quantize stage; without a mode that may need them, `finetuning` and `graph` are None and `targets` is empty."""

    float_student: StudentRecord
    student: StudentSource
    quantize: QuantizeConfig
    finetuning: Finetuning | None
    targets: tuple[Int8Target, ...]
    graph: GraphPlan | None = None

    @property
    def enabled(self) -> bool:
        """Whether the stage quantizes the student."""
        return self.quantize.mode != "none"

    @property
    def varies(self) -> bool:
        """Whether inputs vary in length, as texts do."""
        return self.interface.kind.varies


def declare_quantization(sources: Sources) -> QuantizeSettings:
    """Return the settings that determine the int8 model; those of fine-tuning only if the mode may fine-tune."""
    config = sources.config
    plan = _plan(config)
    distill = config.distill
    finetuning = Finetuning(
        batch_size=distill.batch_size, temperature=distill.temperature, accumulate=distill.accumulate
    )
    measured = plan.mode == "auto" or (plan.mode == "ptq" and config.data.is_text)
    return QuantizeSettings(
        **learning(sources), soft_labels=sources.records[SoftLabelsRecord], float_student=sources.records[StudentRecord],
        student=student_source(config, sources.hash_file, sources.records[DataRecord].classes), quantize=plan,
        finetuning=finetuning if plan.mode in ("qat", "auto") else None,
        targets=_int8_targets(sources) if measured else (), graph=_graph_plan(sources) if measured else None,
    )  # fmt: skip


def _plan(config: Config) -> QuantizeConfig:
    """Return [quantize] with defaults for the keys that its mode ignores, so that they cannot make the stage stale."""
    plan, unread = config.quantize, {"epochs", "lr"}
    if plan.mode == "none" or not any("int8" in target.precisions for target in config.target):
        return QuantizeConfig(mode="none")
    if plan.mode == "ptq":
        return plan.model_copy(update={key: QuantizeConfig.model_fields[key].default for key in unread})
    return plan


def _graph_plan(sources: Sources) -> GraphPlan:
    """Return how to export a student as a graph."""
    export = sources.config.export
    forms = (form for target in _int8_targets(sources) for form in target.kit.forms())
    return GraphPlan(bake=export.bake, opset=export.opset or min(form.opset for form in forms))


def _int8_targets(sources: Sources) -> tuple[Int8Target, ...]:
    """Return the targets with int8; the fastest float precision that a target takes is the one to compare with."""
    return tuple(
        Int8Target(
            name=target.name, kit=sources.kits[target.kit], device=target.device, threads=target.threads,
            float_precision=next((one for one in ("fp16", "fp32") if one in target.precisions), None),
        )
        for target in sources.config.target if "int8" in target.precisions
    )  # fmt: skip
