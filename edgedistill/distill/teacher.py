"""The teachers: each trained on the labels, or loaded from weights, an ONNX file or saved logits."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor, nn

from edgedistill.config.schema import Config
from edgedistill.config.training import TeacherConfig
from edgedistill.data.preprocess import model_input
from edgedistill.data.sources import Array
from edgedistill.data.views import plain_views, training_views
from edgedistill.distill.feed import TrainingFeed
from edgedistill.distill.losses import label_loss
from edgedistill.distill.predictors import Predict, onnx_predictor, predict_split, torch_predictor
from edgedistill.distill.tracking import tracking_of
from edgedistill.distill.training import Resume, Training, fit
from edgedistill.errors import ConfigError
from edgedistill.models.build import build_model, count_parameters, load_weights
from edgedistill.records.stages import DataRecord, Epoch, TeacherRecord, TrainedModel
from edgedistill.runtime import processes
from edgedistill.runtime.files import atomic_path, write_json
from edgedistill.runtime.job import Job
from edgedistill.tasks.tasks import TASKS

Form = Literal["torch", "onnx", "logits"]
RESUME: Final = "resume.pt"


def make_teachers(job: Job) -> TeacherRecord:
    """Train or load each teacher: the first into the run's folder teacher/, the others into teacher/2/ and so on."""
    folder = job.folder("teacher")
    first, *others = (
        _make_teacher(job, number, folder if number == 0 else job.folder(f"teacher/{number + 1}"))
        for number in range(len(job.config.teachers))
    )
    if processes.is_first():
        for state in folder.rglob(RESUME):  # not before all are done, or a kill costs the first again
            state.unlink()
    return TeacherRecord(**dict(first), others=tuple(others))


def _make_teacher(job: Job, number: int, folder: Path) -> TrainedModel:
    plan = job.config.teachers[number]
    form = teacher_form(plan)
    if form == "torch":
        return _torch_teacher(job, number, folder)
    source = job.config.path(plan.model)
    kept = folder / f"teacher{source.suffix}"
    if processes.is_first():
        with atomic_path(kept) as scratch:
            shutil.copyfile(source, scratch)
    processes.wait_for_all()
    accuracy = None
    if form == "onnx" and job.data.labelled:
        predict = onnx_predictor(kept, model_input(job.data, job.config.data))
        val = plain_views(job.dataset.val, job.data, job.config)
        accuracy = TASKS[job.data.task].score(predict_split(predict, val), job.dataset.val.labels)
    return TrainedModel(spec=plan.model, form=form, file=job.run.ref(kept), parameters=None, val_accuracy=accuracy)


def teacher_form(plan: TeacherConfig) -> Form:
    """Tell what kind of teacher a configuration names: torch, onnx or logits."""
    suffix = Path(plan.model).suffix
    return "onnx" if suffix == ".onnx" else "logits" if suffix == ".npy" else "torch"


def check_teachers(config: Config, data: DataRecord, train_samples: int) -> None:
    """Raise ConfigError when a teacher cannot be had or does not fit the data, before any work is done."""
    for number, plan in enumerate(config.teachers):
        if len(config.teachers) > 1 and teacher_form(plan) == "logits":
            raise ConfigError(
                f"teacher.model: {plan.model} stands beside other teachers, but saved logits are only taken alone; "
                "average the logits yourself, or name the models"
            )
        _check_teacher(config, number, data, train_samples)


def _check_teacher(config: Config, number: int, data: DataRecord, train_samples: int) -> None:
    plan = config.teachers[number]
    form = teacher_form(plan)
    if form == "torch":
        model = build_teacher(config, data, number)
        if plan.weights:
            load_weights(model, config.path(plan.weights))
        return
    path = config.path(plan.model)
    if not path.is_file():
        raise ConfigError(f"teacher.model: {plan.model}: no such file (looked for {path})")
    for key, unset in (("weights", None), ("width", 1.0), ("depth", 1.0)):
        if getattr(plan, key) != unset:
            raise ConfigError(f"teacher.{key}: a teacher from {path.suffix} is what it is; remove the key")
    if form == "onnx":
        onnx_predictor(path, model_input(data, config.data))
    else:
        load_logits(config, data, train_samples)


def build_teacher(config: Config, data: DataRecord, number: int = 0) -> nn.Module:
    """Build a teacher's module, untrained; teachers of one layout differ in the weights that they start from."""
    plan, seed = config.teachers[number], (config.seed + number) % 2**63
    return build_model(plan.model, model_input(data, config.data), plan.width, config.folder, seed, plan.depth)


def load_logits(config: Config, data: DataRecord, train_samples: int) -> Array:
    """Read a saved logits file (samples of data.train, classes).

    It knows one view of each sample, so augmentation and more views are refused rather than given stale labels.
    """
    path = config.path(config.teacher.model)
    try:
        logits = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise ConfigError(f"teacher.model: {path.name} is not a readable .npy file: {error}") from None
    expected = (train_samples, len(data.classes))
    if not isinstance(logits, np.ndarray) or logits.shape != expected:
        raise ConfigError(f"teacher.model: {path.name} has shape {getattr(logits, 'shape', '?')}; expected {expected}")
    if config.data.augment or config.distill.views != 1:
        raise ConfigError(
            "teacher.model: saved logits are of the plain inputs; set data.augment = [] and distill.views = 1"
        )
    return logits


def mean_predictor(predicts: Sequence[Predict], weights: Sequence[float]) -> Predict:
    """Return one function for several teachers: the mean of their logits (B, classes) by weight, whatever the weights sum to."""
    if len(predicts) == 1:
        return predicts[0]

    def predict(inputs: Tensor) -> Tensor:
        pairs = zip(weights, predicts, strict=True)
        return torch.stack([weight / sum(weights) * ask(inputs) for weight, ask in pairs]).sum(0)

    return predict


def teacher_predictor(job: Job, number: int, precision: str | None = None) -> Predict:
    """Return a teacher as a function from model inputs to logits; a torch model computes in `precision` or as configured."""
    teacher = job.result("teacher", TeacherRecord).teachers[number]
    if teacher.form == "onnx":
        return onnx_predictor(job.run.path(teacher.file), model_input(job.data, job.config.data))
    return torch_predictor(load_teacher(job, number), precision or job.config.teachers[number].precision)


def load_teacher(job: Job, number: int = 0) -> nn.Module:
    """Return a torch teacher with its weights, in evaluation mode."""
    model = build_teacher(job.config, job.data, number)
    load_weights(model, job.run.path(job.result("teacher", TeacherRecord).teachers[number].file))
    return model.eval()


def _torch_teacher(job: Job, number: int, folder: Path) -> TrainedModel:
    config, data, plan = job.config, job.dataset, job.config.teachers[number]
    model, label = build_teacher(config, job.data, number), f"teacher {number + 1}" if number else "teacher"
    val = plain_views(data.val, job.data, config)
    task = TASKS[job.data.task]

    def validate(candidate: nn.Module) -> float:
        return task.score(predict_split(torch_predictor(candidate, plan.precision), val), data.val.labels)

    history: tuple[Epoch, ...] = ()
    resume = Resume(folder / RESUME, job.keys["teacher"])
    if plan.weights:
        load_weights(model, config.path(plan.weights))
        accuracy = validate(model) if job.data.labelled else None
        found = "no labels to validate it" if accuracy is None else f"validation {task.shown} {accuracy:.2%}"
        job.report.line(f"{label}: {plan.weights} loaded, {found}")
    else:
        feed = TrainingFeed(training_views(data.train, job.data, config), plan.batch_size, None, 0, config.seed)
        training = Training(
            label, plan, feed, label_loss(plan), validate, resume, config.seed, task.shown, tracking_of(job)
        )
        history = fit(model, training, job.report)
        accuracy = max(epoch.val_accuracy for epoch in history)
    saved = save_model(model, folder / "model.safetensors")
    if processes.is_first():
        write_json(folder / "history.json", {"epochs": [epoch.model_dump() for epoch in history]})
    return TrainedModel(
        spec=plan.model, form="torch", file=job.run.ref(saved), parameters=count_parameters(model),
        val_accuracy=accuracy, history=history, parent=job.data.fingerprint,
    )  # fmt: skip


def save_model(model: nn.Module, path: Path) -> Path:
    """Write a state dict as safetensors, atomically; in a launch of several processes the first one writes."""
    from safetensors.torch import save_file

    if processes.is_first():
        with atomic_path(path) as scratch:
            save_file({key: value.contiguous() for key, value in model.state_dict().items()}, scratch)
    processes.wait_for_all()
    return path
