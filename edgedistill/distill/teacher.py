"""The teacher stage: train teachers on labels, or load them from weights, ONNX files or saved logits."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import numpy as np
from torch import nn

from edgedistill.data.dataset import Split
from edgedistill.data.sources import Array
from edgedistill.data.views import training_views
from edgedistill.distill.detector_teacher import DetectorTeacher
from edgedistill.distill.feed import TrainingFeed
from edgedistill.distill.first_batch import Tried, try_model
from edgedistill.distill.label_scale import probe_labels, report_unscaled, standardized, standardized_head
from edgedistill.distill.loading import onnx_teacher, save_model, teacher_predictor
from edgedistill.distill.losses import main_loss
from edgedistill.distill.predictors import Predict, scorer_of, torch_predictor
from edgedistill.distill.settings import LearningSettings, TeacherSettings
from edgedistill.distill.teacher_examination import Examination, warn_of_chance
from edgedistill.distill.tracking import TrackingFolder
from edgedistill.distill.training import Resume, Training, fit
from edgedistill.errors import ConfigError
from edgedistill.graphs.read import read_onnx
from edgedistill.graphs.stored import MOST_BYTES
from edgedistill.graphs.write import save_onnx
from edgedistill.losses.batch import Tensors
from edgedistill.models.build import build_model, count_parameters
from edgedistill.models.folder import load_folder
from edgedistill.models.interface import Interface
from edgedistill.models.model_file import ModelFile
from edgedistill.models.source import ModelSource
from edgedistill.models.teacher_view import TeacherView, check_view
from edgedistill.models.weights import load_weights
from edgedistill.records.finding import Finding
from edgedistill.records.stages import TeacherRecord
from edgedistill.records.training import Epoch, TrainedModel
from edgedistill.runtime import processes
from edgedistill.runtime.files import atomic_path, remove_files, write_json
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
        remove_files(folder, RESUME)  # only after all trainings: an interrupted run resumes from these files
    return TeacherRecord(**dict(first), others=tuple(others))


def _make_teacher(settings: TeacherSettings, workspace: Workspace, number: int, folder: Path) -> TrainedModel:
    source = settings.teachers[number].source
    if source.spec.is_module:
        return _torch_teacher(settings, workspace, number, folder)
    assert source.file is not None
    kept = folder / f"teacher{source.file.path.suffix}"
    if processes.is_main_process():
        _copy(source.file, kept)
    processes.barrier()
    return TrainedModel(
        spec=source.spec.text, form="onnx" if source.spec.source == "onnx" else "logits", file=workspace.describe(kept),
        parameters=None, val_accuracy=_examine_file(settings, workspace, number, kept),
    )  # fmt: skip


def _copy(file: ModelFile, kept: Path) -> None:
    """Copy a teacher's file into the run; an ONNX file whose weights are beside it becomes one file with them."""
    if file.beside:
        save_onnx(read_onnx(file.path), kept)
        return
    with atomic_path(kept) as scratch:
        shutil.copyfile(file.path, scratch)


def _examine_file(settings: TeacherSettings, workspace: Workspace, number: int, file: Path) -> float | None:
    """Examine an ONNX file or saved outputs; returns the validation metric of an ONNX file.

    Saved outputs are those of training samples, so they are scored on the training samples.
    """
    source, data = settings.teachers[number].source, settings.dataset()
    label, metric = teacher_label(number), settings.task.metric_title
    if source.spec.source == "onnx":
        scorer, predict = scorer_of(settings, data.val), onnx_teacher(source, settings.interface, file)
        answers = scorer.answers(predict)
        if isinstance(predict, DetectorTeacher):
            workspace.report.info(f"{label}: {predict.describe()}")
        accuracy = scorer.score_answers(answers) if settings.data.labelled else None
        if accuracy is not None:
            workspace.report.info(f"{label}: {source.spec.text}, validation {metric} {accuracy:.2%}")
        _examine(settings, workspace, number, answers)
        return accuracy
    rows, samples = data.train.rows, recorded_samples(settings)
    answers = load_logits(source, settings, 1, samples)[rows]
    score = settings.task.score(answers, data.train.labels)
    workspace.report.info(f"{label}: {source.spec.text}, {metric} {score:.2%} on the training samples")
    _examine(settings, workspace, number, answers)
    return None


def _examine(settings: TeacherSettings, workspace: Workspace, number: int, answers: Array) -> None:
    """Raise ConfigError for a loaded teacher at chance, and print what is odd; `answers` are those of all its samples."""
    for finding in _examination(settings, number, _judged_on(settings, number)).findings(answers):
        workspace.report.info(str(finding))


def examine_loaded(settings: TeacherSettings, number: int, samples: int) -> list[Finding]:
    """Return what is odd about a teacher that is loaded, on a number of its samples; nothing for one that is trained.

    Raises ConfigError for a teacher at chance.
    """
    plan, whole = settings.teachers[number], _judged_on(settings, number)
    source, file = plan.source, plan.source.weights or plan.source.file
    if file is None:
        return []
    split = whole.take(np.sort(np.random.default_rng(0).permutation(len(whole))[:samples]))
    if source.spec.source == "logits":
        answers = load_logits(source, settings, 1, recorded_samples(settings))[split.rows]
    else:
        predict = teacher_predictor(source, settings.interface, settings.seed, file.path, plan.training.precision)
        answers = scorer_of(settings, split).answers(predict)
    return _examination(settings, number, split).findings(answers)


def _judged_on(settings: TeacherSettings, number: int) -> Split:
    """Return the samples that a loaded teacher is judged on: those of validation, or those that saved outputs are for."""
    data = settings.dataset()
    return data.train if settings.teachers[number].source.spec.source == "logits" else data.val


def _examination(settings: TeacherSettings, number: int, split: Split) -> Examination:
    plan = settings.teachers[number]
    source, saved = plan.source, plan.source.spec.source == "logits"
    file = source.weights or source.file
    assert file is not None

    def ask_as(view: TeacherView) -> Predict:
        changed = source.model_copy(update={"view": view})
        return teacher_predictor(changed, settings.interface, settings.seed, file.path, plan.training.precision)

    return Examination(
        settings, f"{teacher_label(number)} ({source.spec.text})",
        source.view or TeacherView(data=next(iter(settings.views.inputs.values()))),
        "training samples" if saved else "validation samples", split, None if saved else ask_as,
    )  # fmt: skip


def _check_border(source: ModelSource, settings: TeacherSettings) -> None:
    """Raise ConfigError for a letterbox in front of a teacher whose maps the student learns cell by cell."""
    gives_maps = settings.interface.task == "segmentation" or (settings.task.finds_objects and source.spec.is_module)
    if source.view is not None and source.view.has_border and gives_maps:
        raise ConfigError(
            f"teacher.resize: with a border, the maps of {source.spec} would not lie over the student's; "
            "only classifiers and detectors from ONNX files take one; remove the key"
        )


def teacher_label(number: int) -> str:
    """Return the name of a teacher in messages."""
    return f"teacher {number + 1}" if number else "teacher"


def build_teacher(settings: TeacherSettings, number: int) -> nn.Module:
    """Return an untrained torch teacher; teachers of the same architecture have different seeds."""
    return build_model(settings.teachers[number].source, settings.interface, (settings.seed + number) % 2**63)


def _torch_teacher(settings: TeacherSettings, workspace: Workspace, number: int, folder: Path) -> TrainedModel:
    plan, label = settings.teachers[number], teacher_label(number)
    model, scorer = build_teacher(settings, number), scorer_of(settings, settings.dataset().val)

    def validate(candidate: nn.Module) -> float:
        return scorer.score(torch_predictor(candidate, plan.training.precision))

    history: tuple[Epoch, ...] = ()
    if plan.source.weights is not None:
        for note in load_weights(model, plan.source.weights.path):
            workspace.report.info(f"{label}: {note}")
        model.to(processes.device())
        answers = scorer.answers(torch_predictor(model, plan.training.precision))
        accuracy = scorer.score_answers(answers) if settings.data.labelled else None
        shown = f"validation {settings.task.metric_title}"
        result = "not validated: the data has no labels" if accuracy is None else f"{shown} {accuracy:.2%}"
        workspace.report.info(f"{label}: {plan.source.weights.name} loaded, {result}")
        _examine(settings, workspace, number, answers)
    else:
        for note in _folder_notes(model, plan.source, settings.interface):
            workspace.report.info(f"{label}: {note}")
        feed = TrainingFeed(
            training_views(settings.dataset().train, settings.data, settings.views), plan.training.batch_size, None, 0,
            settings.seed,
        )  # fmt: skip
        probe = probe_labels(settings, settings.dataset(), plan.training)
        with standardized_head(model, probe) as scale:
            report_unscaled(settings, probe, scale, label, workspace.report)
            loss = main_loss(standardized(settings.task.label_loss(plan.training), scale), settings.data.output)
            training = Training(
                label, plan.training, feed, loss, validate, Resume(folder / RESUME, workspace.key), settings.seed,
                settings.task.metric_title, TrackingFolder(settings.tracking, workspace.root / "tracking"),
            )  # fmt: skip
            history = fit(model, training, workspace.report)
        accuracy = max(epoch.val_accuracy for epoch in history)
        answers = scorer.answers(torch_predictor(model, plan.training.precision))
        for finding in warn_of_chance(settings, label, answers):
            workspace.report.info(str(finding))
    saved = save_model(model, folder / "model.safetensors")
    if processes.is_main_process():
        write_json(folder / "history.json", {"epochs": [epoch.model_dump() for epoch in history]})
    return TrainedModel(
        spec=plan.source.spec.text, form="torch", file=workspace.describe(saved), parameters=count_parameters(model),
        val_accuracy=accuracy, history=history, parent=settings.data.fingerprint,
    )  # fmt: skip


def _folder_notes(model: nn.Module, source: ModelSource, interface: Interface) -> list[str]:
    """Return what a teacher that is trained starts with of its Hugging Face folder; nothing for other teachers."""
    if source.encoder is None:
        return []
    return load_folder(model, source, interface if source.view is None else source.view.interface(interface))


def check_teacher(settings: TeacherSettings, number: int, sample: Tensors) -> list[Finding]:
    """Load a teacher and run a batch through it; raises ConfigError if it does not match the data, and trains nothing."""
    source = settings.teachers[number].source
    if len(settings.teachers) > 1 and source.spec.source == "logits":
        raise ConfigError(
            f"teacher.model: {source.spec} cannot be combined with other teachers, because it holds saved logits; "
            "average the logits yourself, or name the models"
        )
    if len(settings.teachers) > 1 and settings.task.finds_objects and source.spec.source == "onnx":
        raise ConfigError(
            f"teacher.model: {source.spec} gives detections, which cannot be averaged with other teachers; keep one [[teacher]]"
        )
    if source.view is not None:
        check_view(source.view, settings.interface, has_inputs=source.spec.source != "logits")
        _check_border(source, settings)
    if source.spec.is_module:
        model = build_teacher(settings, number)
        if source.weights is not None:
            load_weights(model, source.weights.path)
        tried = Tried(f"teacher.model: {source.spec}", model, trains=source.weights is None, view=source.view)
        return try_model(tried, settings, sample)
    assert source.file is not None
    for key, value in (("width", source.width), ("depth", source.depth)):
        if value != 1.0:
            raise ConfigError(
                f"teacher.{key}: a teacher from {source.file.path.suffix} has a fixed size; remove the key"
            )
    if source.spec.source == "onnx":
        _require_one_file(source.file)
        onnx_teacher(source, settings.interface, source.file.path)(sample)
    return []


def _require_one_file(file: ModelFile) -> None:
    """Raise ConfigError for an ONNX file and weights beside it that are too large for the one file that a run keeps."""
    if file.size_bytes > MOST_BYTES:
        raise ConfigError(
            f"teacher.model: {file.name} and its weights files have {file.size_bytes / 1e9:.1f} GB, but a run keeps a teacher as one "
            f"ONNX file, which has at most {MOST_BYTES / 1e9:.1f} GB; export the model in float16, or save its outputs and name logits.npy"
        )


def recorded_samples(settings: LearningSettings) -> int:
    """Return the number of samples that a file of saved logits has: all of data.train, and then those of data.unlabelled."""
    return len(next(iter(settings.dataset().distilled.inputs.values())))


def load_logits(source: ModelSource, settings: LearningSettings, views: int, samples: int) -> Array:
    """Read a file of saved logits (samples of data.train and then of data.unlabelled, classes).

    Saved logits belong to one view of each sample, so augmentation or several views raise ConfigError.
    """
    assert source.file is not None
    path = source.file.path
    try:
        logits = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise ConfigError(f"teacher.model: {path.name} is not a readable .npy file: {error}") from None
    view, interface = source.view or TeacherView(), settings.interface
    expected = (samples, view.interface(interface).values)
    if not isinstance(logits, np.ndarray) or logits.shape != expected:
        shape = getattr(logits, "shape", "?")
        rows = "" if shape[:1] == expected[:1] else _expected_rows(settings.data.unlabelled, samples)
        raise ConfigError(f"teacher.model: {path.name} has shape {shape}; expected {expected}{rows}")
    if settings.views.augment or views != 1:
        raise ConfigError(
            "teacher.model: saved logits belong to inputs without augmentation; set data.augment = [] and distill.views = 1"
        )
    return logits if (columns := view.columns(interface)) is None else logits[:, columns]


def _expected_rows(unlabelled: int, samples: int) -> str:
    """Say which samples the rows of saved outputs are for."""
    more = f", and then one for each of the {unlabelled:,} samples of data.unlabelled" if unlabelled else ""
    return f": a row for each of the {samples - unlabelled:,} samples of data.train, in their order{more}"
