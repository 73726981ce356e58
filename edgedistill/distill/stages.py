"""The stages teacher, soft_labels and distill."""

from __future__ import annotations

from typing import Final

from edgedistill.distill.settings import (
    SOFT_LABEL_PACKAGES,
    TORCH,
    DistillSettings,
    SoftLabelSettings,
    TeacherSettings,
    declare_distillation,
    declare_soft_labels,
    declare_teacher,
)
from edgedistill.records.stages import SoftLabelsRecord, StudentRecord, TeacherRecord
from edgedistill.stages.stage import Stage, Workspace


def _make_teachers(settings: TeacherSettings, workspace: Workspace) -> TeacherRecord:
    from edgedistill.distill.teacher import make_teachers

    return make_teachers(settings, workspace)


def _make_soft_labels(settings: SoftLabelSettings, workspace: Workspace) -> SoftLabelsRecord:
    from edgedistill.distill.soft_labels import make_soft_labels

    return make_soft_labels(settings, workspace)


def _make_student(settings: DistillSettings, workspace: Workspace) -> StudentRecord:
    from edgedistill.distill.student import make_student

    return make_student(settings, workspace)


TEACHER: Final = Stage(
    record=TeacherRecord, settings=TeacherSettings, declare=declare_teacher, make=_make_teachers,
    packages=(*TORCH, "accelerate", "onnxruntime"), shared=True,
)  # fmt: skip
SOFT_LABELS: Final = Stage(
    record=SoftLabelsRecord, settings=SoftLabelSettings, declare=declare_soft_labels, make=_make_soft_labels,
    packages=SOFT_LABEL_PACKAGES, shared=True,
)  # fmt: skip
DISTILL: Final = Stage(
    record=StudentRecord, settings=DistillSettings, declare=declare_distillation, make=_make_student,
    packages=(*TORCH, "accelerate", "torch-pruning"), shared=True,
)  # fmt: skip
