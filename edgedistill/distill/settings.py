"""The settings of the distillation stages: data, models and training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from pydantic import Field

from edgedistill.config.schema import Config
from edgedistill.config.training import DistillConfig, Precision, TeacherConfig, TrainingConfig
from edgedistill.data.dataset import Dataset, load_dataset
from edgedistill.data.settings import DataSettings, ViewSettings, data_settings, view_settings
from edgedistill.models.interface import Interface, interface_of
from edgedistill.models.source import ModelSource, StudentSource, student_source, teacher_source
from edgedistill.records.base import Record
from edgedistill.records.stages import SOFT_LABELS_SCHEMA, DataRecord, SoftLabelsRecord, TeacherRecord
from edgedistill.runtime.user_code import CodeRef, code_ref, is_function
from edgedistill.stages.stage import Sources, Workspace
from edgedistill.tasks.table import find_task
from edgedistill.tasks.task import Task

TORCH: Final = ("edgedistill", "torch", "numpy")
"""The packages whose versions can change what is trained."""
SOFT_LABEL_PACKAGES: Final = (*TORCH, "onnxruntime")
"""The packages whose versions can change soft labels."""


class LearningSettings(Record):
    """The settings of every stage that runs a model: the data, its record, and its views."""

    source: DataSettings
    data: DataRecord
    views: ViewSettings

    @property
    def task(self) -> Task:
        """The task of the models."""
        return find_task(self.data.task)

    @property
    def interface(self) -> Interface:
        """The inputs and outputs of the models."""
        return interface_of(self.data, self.views)

    @property
    def seed(self) -> int:
        """The seed of the configuration."""
        return self.views.seed

    def dataset(self, targets: Path | None = None) -> Dataset:
        """Return the data; `targets` is a file with the teacher's outputs, for data without labels."""
        return load_dataset(self.source, targets)


class LabelledSettings(LearningSettings):
    """The settings of stages after the soft labels, which replace missing labels."""

    soft_labels: SoftLabelsRecord

    def labelled_data(self, workspace: Workspace) -> Dataset:
        """Return the data, with the teacher's outputs as labels if it has no labels."""
        targets = self.soft_labels.targets
        return self.dataset(None if targets is None else workspace.path(targets))


class Tracking(Record):
    """Experiment tracking: the trackers, and the name of the project in MLflow."""

    trackers: tuple[str, ...]
    project: str


class TeacherPlan(Record):
    """One teacher: its source, and its training settings if it has no weights."""

    source: ModelSource
    training: TrainingConfig


class TeacherSettings(LearningSettings):
    """The settings of the teacher stage."""

    teachers: tuple[TeacherPlan, ...]
    tracking: Tracking = Field(exclude=True)


class SoftLabelTeacher(Record):
    """A teacher for soft labels: its source, precision, engine, and weight in the mean of several teachers."""

    source: ModelSource
    precision: str
    engine: str
    weight: float


class SoftLabelSettings(LearningSettings):
    """The settings of the soft labels stage; `top_k` is the number of logits to keep per view, None for the default."""

    content: str = SOFT_LABELS_SCHEMA
    teacher: TeacherRecord
    teachers: tuple[SoftLabelTeacher, ...]
    view_count: int
    top_k: int | None
    other_outputs: tuple[str, ...] | None


class DistillPlan(LearningSettings):
    """The settings for distilling a student that do not need a teacher record; `loss` is a user function."""

    teachers: tuple[SoftLabelTeacher, ...]
    student: StudentSource
    distill: DistillConfig
    loss: CodeRef | None
    tracking: Tracking = Field(exclude=True)

    @property
    def trains_from_scratch(self) -> bool:
        """Whether the same student is also trained without the weights that it starts with, as a second control."""
        return self.distill.control and self.student.weights is not None

    @property
    def students(self) -> int:
        """The number of students that are trained, with controls."""
        return self.distill.seeds * (1 + self.distill.control + self.trains_from_scratch)


class DistillSettings(DistillPlan, LabelledSettings):
    """The settings of the distill stage."""

    teacher: TeacherRecord


def gives_detections(settings: SoftLabelSettings | DistillPlan) -> bool:
    """Return whether the teacher is a detector from an ONNX file, whose soft labels are detections."""
    return settings.task.finds_objects and settings.teachers[0].source.spec.source == "onnx"


def learning(sources: Sources) -> dict[str, Any]:
    """Declare the data and its views."""
    return {
        "source": data_settings(sources), "data": sources.records[DataRecord], "views": view_settings(sources.config),
    }  # fmt: skip


def declare_teacher(sources: Sources) -> TeacherSettings:
    """Declare the settings of the teacher stage."""
    plans = tuple(
        TeacherPlan(
            source=teacher_source(sources.config, number, sources.hash_file, sources.records[DataRecord].classes),
            training=_training(plan, sources.config),
        )
        for number, plan in enumerate(sources.config.teachers)
    )
    return TeacherSettings(**learning(sources), teachers=plans, tracking=tracking_of(sources.config))


def declare_soft_labels(sources: Sources) -> SoftLabelSettings:
    """Declare the settings of the soft labels stage."""
    plan = distinct_views(sources.config)
    return SoftLabelSettings(
        **learning(sources), teacher=sources.records[TeacherRecord], teachers=soft_label_teachers(sources),
        view_count=plan.views, top_k=plan.top_k, other_outputs=plan.other_outputs,
    )  # fmt: skip


def declare_plan(sources: Sources) -> DistillPlan:
    """Declare the settings for distilling the student, which can be checked before the teacher is trained."""
    config = sources.config
    return DistillPlan(
        **learning(sources), teachers=soft_label_teachers(sources), student=student_source(config, sources.hash_file, sources.records[DataRecord].classes),
        distill=distinct_views(config), loss=custom_loss(config), tracking=tracking_of(config),
    )  # fmt: skip


def declare_distillation(sources: Sources) -> DistillSettings:
    """Declare the settings of the distill stage."""
    plan = declare_plan(sources)
    parts = {name: getattr(plan, name) for name in type(plan).model_fields}
    parts["distill"] = plan.distill.model_copy(update={"top_k": None})  # the record of the soft labels includes it
    return DistillSettings(
        **parts, soft_labels=sources.records[SoftLabelsRecord], teacher=sources.records[TeacherRecord]
    )


def soft_label_teachers(sources: Sources) -> tuple[SoftLabelTeacher, ...]:
    """Declare the teachers for soft labels."""
    return tuple(
        SoftLabelTeacher(
            source=teacher_source(sources.config, number, sources.hash_file, sources.records[DataRecord].classes), precision=_precision(plan, sources.config),
            engine=plan.engine, weight=plan.weight,
        )
        for number, plan in enumerate(sources.config.teachers)
    )  # fmt: skip


def distinct_views(config: Config) -> DistillConfig:
    """Return [distill] with its precision and the number of distinct views: without augmentation all views of a sample are identical."""
    plan = config.distill.model_copy(update={"precision": _precision(config.distill, config)})
    return plan if config.data.augment else plan.model_copy(update={"views": min(plan.views, 1)})


def custom_loss(config: Config) -> CodeRef | None:
    """Return the user's loss function, or None."""
    return code_ref(config.distill.loss, config.folder) if is_function(config.distill.loss) else None


def tracking_of(config: Config) -> Tracking:
    """Return the experiment tracking of a run."""
    return Tracking(trackers=config.tracking.trackers, project=config.name)


def _training(plan: TeacherConfig, config: Config) -> TrainingConfig:
    keys = plan.model_dump(include=set(TrainingConfig.model_fields))
    return TrainingConfig.model_validate(keys | {"precision": _precision(plan, config)})


def _precision(plan: TrainingConfig, config: Config) -> Precision:
    """Return the precision to compute in: "auto" is float32 for values of any unit, because bfloat16 has less than three digits."""
    return "fp32" if plan.precision == "auto" and find_task(config.data.task).has_units else plan.precision
