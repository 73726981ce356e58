"""What the stages of distillation are given: the data, the models, and how they are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from edgedistill.config.schema import Config
from edgedistill.config.training import DistillConfig, TeacherConfig, TrainingConfig
from edgedistill.data.dataset import Dataset, load_dataset
from edgedistill.data.settings import DataSettings, ViewSettings, data_settings, view_settings
from edgedistill.models.interface import Interface, interface_of
from edgedistill.models.source import ModelSource, StudentSource, student_source, teacher_source
from edgedistill.records.base import Record
from edgedistill.records.stages import DataRecord, SoftLabelsRecord, TeacherRecord
from edgedistill.runtime.user_code import CodeRef, code_ref, is_function
from edgedistill.stages.stage import Sources, Workspace
from edgedistill.tasks.table import find_task
from edgedistill.tasks.task import Task


class LearningSettings(Record):
    """What each stage needs that runs a model on the data: where the data comes from, what it is, and the views of it."""

    source: DataSettings
    data: DataRecord
    views: ViewSettings

    @property
    def task(self) -> Task:
        """What models are for."""
        return find_task(self.data.task)

    @property
    def interface(self) -> Interface:
        """What models take and give."""
        return interface_of(self.data, self.views)

    @property
    def seed(self) -> int:
        """The seed of the configuration."""
        return self.views.seed

    def dataset(self, targets: Path | None = None) -> Dataset:
        """Return the data; `targets` is a file of the teacher's outputs where there are no labels."""
        return load_dataset(self.source, targets)


class TaughtSettings(LearningSettings):
    """The same for stages after the soft labels, which stand for labels where the data has none."""

    soft_labels: SoftLabelsRecord

    def labelled_data(self, workspace: Workspace) -> Dataset:
        """Return the data, with the teacher's outputs for labels where it has none."""
        targets = self.soft_labels.targets
        return self.dataset(None if targets is None else workspace.path(targets))


class Tracking(Record):
    """Where trainings report their epochs: `project` names the run to MLflow."""

    trackers: tuple[str, ...]
    project: str


class TeacherPlan(Record):
    """One teacher: where it comes from, and how it is trained where it has no weights."""

    source: ModelSource
    training: TrainingConfig


class TeacherSettings(LearningSettings):
    """What the teacher stage is given."""

    teachers: tuple[TeacherPlan, ...]
    tracking: Tracking = Field(exclude=True)


class AskedTeacher(Record):
    """A teacher as it is asked for soft labels: its precision and engine, and its share among several."""

    source: ModelSource
    precision: str
    engine: str
    weight: float


class SoftLabelSettings(LearningSettings):
    """What the soft label stage is given; `top_k` is how many logits of a view are kept, None where that is not said."""

    teacher: TeacherRecord
    teachers: tuple[AskedTeacher, ...]
    view_count: int
    top_k: int | None
    other_outputs: tuple[str, ...] | None


class DistillPlan(LearningSettings):
    """How a student is distilled, as the configuration has it; `loss` is the user's own."""

    teachers: tuple[AskedTeacher, ...]
    student: StudentSource
    distill: DistillConfig
    loss: CodeRef | None
    tracking: Tracking = Field(exclude=True)


class DistillSettings(DistillPlan, TaughtSettings):
    """What the distillation stage is given."""

    teacher: TeacherRecord


def learning(sources: Sources) -> dict[str, Any]:
    """Declare the data and its views."""
    return {
        "source": data_settings(sources), "data": sources.records[DataRecord], "views": view_settings(sources.config),
    }  # fmt: skip


def declare_teacher(sources: Sources) -> TeacherSettings:
    """Declare what decides the teachers."""
    plans = tuple(
        TeacherPlan(source=teacher_source(sources.config, number, sources.hash_file), training=_training(plan))
        for number, plan in enumerate(sources.config.teachers)
    )
    return TeacherSettings(**learning(sources), teachers=plans, tracking=tracking_of(sources.config))


def declare_soft_labels(sources: Sources) -> SoftLabelSettings:
    """Declare what decides the soft labels."""
    plan = sources.config.distill
    return SoftLabelSettings(
        **learning(sources), teacher=sources.records[TeacherRecord], teachers=asked_teachers(sources),
        view_count=plan.views, top_k=plan.top_k, other_outputs=plan.other_outputs,
    )  # fmt: skip


def declare_plan(sources: Sources) -> DistillPlan:
    """Declare how the student is distilled, which can be checked before there is a teacher."""
    config = sources.config
    return DistillPlan(
        **learning(sources), teachers=asked_teachers(sources), student=student_source(config, sources.hash_file),
        distill=config.distill, loss=own_loss(config), tracking=tracking_of(config),
    )  # fmt: skip


def declare_distillation(sources: Sources) -> DistillSettings:
    """Declare what decides the student."""
    plan = declare_plan(sources)
    parts = {name: getattr(plan, name) for name in type(plan).model_fields}
    parts["distill"] = plan.distill.model_copy(update={"top_k": None})  # the soft labels have it
    return DistillSettings(
        **parts, soft_labels=sources.records[SoftLabelsRecord], teacher=sources.records[TeacherRecord]
    )


def asked_teachers(sources: Sources) -> tuple[AskedTeacher, ...]:
    """Declare the teachers as they are asked."""
    return tuple(
        AskedTeacher(
            source=teacher_source(sources.config, number, sources.hash_file), precision=plan.precision,
            engine=plan.engine, weight=plan.weight,
        )
        for number, plan in enumerate(sources.config.teachers)
    )  # fmt: skip


def own_loss(config: Config) -> CodeRef | None:
    """Return the user's own loss, where the configuration names one."""
    return code_ref(config.distill.loss, config.folder) if is_function(config.distill.loss) else None


def tracking_of(config: Config) -> Tracking:
    """Return where the trainings of a run are reported."""
    return Tracking(trackers=config.tracking.trackers, project=config.name)


def _training(plan: TeacherConfig) -> TrainingConfig:
    return TrainingConfig.model_validate(plan.model_dump(include=set(TrainingConfig.model_fields)))
