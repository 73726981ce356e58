"""The settings of the export stage."""

from __future__ import annotations

from edgedistill.config.schema import ExportConfig, TargetConfig
from edgedistill.distill.settings import LabelledSettings, LearningSettings, learning
from edgedistill.kits.kits import Kit
from edgedistill.kits.scheme import with_form
from edgedistill.models.source import ModelSource, StudentSource, student_source, teacher_source
from edgedistill.records.base import Record
from edgedistill.records.stages import DataRecord, QuantizedRecord, SoftLabelsRecord, StudentRecord, TeacherRecord
from edgedistill.stages.stage import Sources


class ExportTarget(Record):
    """A kit that models are exported for, and the precisions that its targets want."""

    kit: str
    precisions: tuple[str, ...]

    @property
    def with_float(self) -> frozenset[str]:
        """The precisions and fp32, which is always written as the reference for the others."""
        return frozenset({"fp32", *self.precisions})


class FileSettings(LearningSettings):
    """The settings that decide what files say about themselves: `name` is the run's name."""

    name: str
    export: ExportConfig


class ExportSettings(FileSettings, LabelledSettings):
    """The settings of the export stage."""

    teacher: TeacherRecord
    teacher_source: ModelSource
    float_student: StudentRecord
    student: StudentSource
    quantized: QuantizedRecord
    targets: tuple[ExportTarget, ...]
    kits: dict[str, Kit]

    @property
    def exported_output(self) -> str | None:
        """The labelled output of exported files."""
        return self.task.exported_output or self.data.output

    def kits_for(self, precision: str) -> list[Kit]:
        """Return the kits of the targets that use a precision; every target uses fp32, as the reference."""
        return [self.kits[target.kit] for target in self.targets if precision in target.with_float]


def declare_export(sources: Sources) -> ExportSettings:
    """Return the settings that determine the exported models."""
    config = sources.config
    targets, quantized = _targets(config.target), sources.records[QuantizedRecord]
    return ExportSettings(
        **learning(sources), soft_labels=sources.records[SoftLabelsRecord], name=config.name,
        teacher=sources.records[TeacherRecord], teacher_source=teacher_source(config, 0, sources.hash_file, sources.records[DataRecord].classes),
        float_student=sources.records[StudentRecord], student=student_source(config, sources.hash_file, sources.records[DataRecord].classes),
        quantized=quantized, export=config.export, targets=targets,
        kits={target.kit: with_form(sources.kits[target.kit], quantized) for target in targets},
    )  # fmt: skip


def _targets(targets: tuple[TargetConfig, ...]) -> tuple[ExportTarget, ...]:
    """Merge the targets that have the same kit."""
    names = dict.fromkeys(target.kit for target in targets)
    return tuple(
        ExportTarget(kit=kit, precisions=tuple(sorted({p for t in targets if t.kit == kit for p in t.precisions})))
        for kit in names
    )
