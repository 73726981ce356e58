"""The teacher stage: train teachers on labels, or load them from weights, ONNX files or saved logits."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import numpy as np
from torch import nn

from edgedistill.data.sources import Array
from edgedistill.data.views import plain_views, training_views
from edgedistill.distill.feed import TrainingFeed
from edgedistill.distill.loading import save_model
from edgedistill.distill.losses import main_loss
from edgedistill.distill.predictors import Scorer, onnx_predictor, torch_predictor
from edgedistill.distill.settings import LearningSettings, TeacherSettings
from edgedistill.distill.tracking import TrackingFolder
from edgedistill.distill.training import Resume, Training, fit
from edgedistill.errors import ConfigError
from edgedistill.models.build import build_model, count_parameters, load_weights
from edgedistill.models.source import ModelSource
from edgedistill.records.stages import Epoch, TeacherRecord, TrainedModel
from edgedistill.runtime import processes
from edgedistill.runtime.files import atomic_path, write_json
from edgedistill.stages.stage import Workspace

RESUME: Final = "resume.pt"


def make_teachers(settings: TeacherSettings, workspace: Workspace) -> TeacherRecord:
    """Train or load each teacher: the first in the folder teacher/ of the run, the others in teacher/2/ and so on."""
    folder = workspace.folder("teacher")
    first, *others = (
        _make_teacher(settings, workspace, number, folder if number == 0 else workspace.folder(f"teacher/{number + 1}"))
        for number in range(len(settings.teachers))
    )
    if processes.is_main_process():
        for state in folder.rglob(
            RESUME
        ):  # only after all trainings, because an interrupted run resumes from these files
            state.unlink()
    return TeacherRecord(**dict(first), others=tuple(others))


def _make_teacher(settings: TeacherSettings, workspace: Workspace, number: int, folder: Path) -> TrainedModel:
    source = settings.teachers[number].source
    if source.spec.is_module:
        return _torch_teacher(settings, workspace, number, folder)
    assert source.file is not None
    kept = folder / f"teacher{source.file.path.suffix}"
    if processes.is_main_process():
        with atomic_path(kept) as scratch:
            shutil.copyfile(source.file.path, scratch)
    processes.barrier()
    accuracy = None
    if source.spec.source == "onnx" and settings.data.labelled:
        accuracy = _scorer(settings).score(onnx_predictor(kept, settings.interface))
    return TrainedModel(
        spec=source.spec.text, form="onnx" if source.spec.source == "onnx" else "logits", file=workspace.describe(kept),
        parameters=None, val_accuracy=accuracy,
    )  # fmt: skip


def build_teacher(settings: TeacherSettings, number: int) -> nn.Module:
    """Return an untrained torch teacher; teachers of the same architecture have different seeds."""
    return build_model(settings.teachers[number].source, settings.interface, (settings.seed + number) % 2**63)


def _scorer(settings: TeacherSettings) -> Scorer:
    views = plain_views(settings.dataset().val, settings.data, settings.views)
    return Scorer(settings.task, views, settings.data.output)


def _torch_teacher(settings: TeacherSettings, workspace: Workspace, number: int, folder: Path) -> TrainedModel:
    plan, label = settings.teachers[number], f"teacher {number + 1}" if number else "teacher"
    model, scorer = build_teacher(settings, number), _scorer(settings)

    def validate(candidate: nn.Module) -> float:
        return scorer.score(torch_predictor(candidate, plan.training.precision))

    history: tuple[Epoch, ...] = ()
    if plan.source.weights is not None:
        load_weights(model, plan.source.weights.path)
        accuracy = validate(model) if settings.data.labelled else None
        shown = f"validation {settings.task.metric_title}"
        result = "not validated: the data has no labels" if accuracy is None else f"{shown} {accuracy:.2%}"
        workspace.report.info(f"{label}: {plan.source.weights.name} loaded, {result}")
    else:
        feed = TrainingFeed(
            training_views(settings.dataset().train, settings.data, settings.views), plan.training.batch_size, None, 0,
            settings.seed,
        )  # fmt: skip
        loss = main_loss(settings.task.label_loss(plan.training), settings.data.output)
        training = Training(
            label, plan.training, feed, loss, validate, Resume(folder / RESUME, workspace.key), settings.seed,
            settings.task.metric_title, TrackingFolder(settings.tracking, workspace.root / "tracking"),
        )  # fmt: skip
        history = fit(model, training, workspace.report)
        accuracy = max(epoch.val_accuracy for epoch in history)
    saved = save_model(model, folder / "model.safetensors")
    if processes.is_main_process():
        write_json(folder / "history.json", {"epochs": [epoch.model_dump() for epoch in history]})
    return TrainedModel(
        spec=plan.source.spec.text, form="torch", file=workspace.describe(saved), parameters=count_parameters(model),
        val_accuracy=accuracy, history=history, parent=settings.data.fingerprint,
    )  # fmt: skip


def check_teachers(settings: TeacherSettings) -> None:
    """Raise ConfigError for a teacher that cannot be loaded or does not match the data; trains nothing."""
    for number in range(len(settings.teachers)):
        check_teacher(settings, number)


def check_teacher(settings: TeacherSettings, number: int) -> None:
    """Raise ConfigError for one of the teachers, as `check_teachers`."""
    source = settings.teachers[number].source
    if len(settings.teachers) > 1 and source.spec.source == "logits":
        raise ConfigError(
            f"teacher.model: {source.spec} cannot be combined with other teachers, because it holds saved logits; "
            "average the logits yourself, or name the models"
        )
    if source.spec.is_module:
        model = build_teacher(settings, number)
        if source.weights is not None:
            load_weights(model, source.weights.path)
        return
    assert source.file is not None
    for key, value in (("width", source.width), ("depth", source.depth)):
        if value != 1.0:
            raise ConfigError(
                f"teacher.{key}: a teacher from {source.file.path.suffix} has a fixed size; remove the key"
            )
    if source.spec.source == "onnx":
        onnx_predictor(source.file.path, settings.interface)


def load_logits(source: ModelSource, settings: LearningSettings, views: int, train_samples: int) -> Array:
    """Read a file of saved logits (samples of data.train, classes).

    Saved logits belong to one view of each sample, so augmentation or several views raise ConfigError.
    """
    assert source.file is not None
    path = source.file.path
    try:
        logits = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise ConfigError(f"teacher.model: {path.name} is not a readable .npy file: {error}") from None
    expected = (train_samples, len(settings.data.classes))
    if not isinstance(logits, np.ndarray) or logits.shape != expected:
        raise ConfigError(f"teacher.model: {path.name} has shape {getattr(logits, 'shape', '?')}; expected {expected}")
    if settings.views.augment or views != 1:
        raise ConfigError(
            "teacher.model: saved logits belong to inputs without augmentation; set data.augment = [] and distill.views = 1"
        )
    return logits
