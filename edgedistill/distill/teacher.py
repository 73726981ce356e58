"""The teacher: trained on the labels, or loaded from weights, an ONNX file or saved logits."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import numpy as np
from torch import nn

from edgedistill.config import Config
from edgedistill.data.preprocess import model_input
from edgedistill.data.sources import Array
from edgedistill.data.views import plain_views, training_views
from edgedistill.distill.feed import TrainingFeed
from edgedistill.distill.losses import label_loss
from edgedistill.distill.predictors import (
    Predict,
    accuracy_of,
    onnx_predictor,
    predict_split,
    torch_predictor,
)
from edgedistill.distill.training import Resume, Training, fit
from edgedistill.errors import ConfigError
from edgedistill.job import Job
from edgedistill.models.build import build_model, count_parameters, load_weights
from edgedistill.records import DataRecord, Epoch, TrainedModel
from edgedistill.runs import atomic_path, write_json

Form = Literal["torch", "onnx", "logits"]


def make_teacher(job: Job) -> TrainedModel:
    """Train or load the teacher into the run folder."""
    form = teacher_form(job.config)
    if form == "torch":
        return _torch_teacher(job)
    source = job.config.path(job.config.teacher.model)
    kept = job.folder("teacher") / f"teacher{source.suffix}"
    with atomic_path(kept) as scratch:
        shutil.copyfile(source, scratch)
    accuracy = None
    if form == "onnx":
        predict = onnx_predictor(kept, model_input(job.data, job.config.data))
        val = plain_views(job.dataset.val, job.data, job.config)
        accuracy = accuracy_of(predict_split(predict, val), job.dataset.val.labels)
    return TrainedModel(
        spec=job.config.teacher.model, form=form, file=job.run.ref(kept), parameters=None, val_accuracy=accuracy
    )


def teacher_form(config: Config) -> Form:
    """Tell what kind of teacher a configuration names: torch, onnx or logits."""
    suffix = Path(config.teacher.model).suffix
    return "onnx" if suffix == ".onnx" else "logits" if suffix == ".npy" else "torch"


def check_teacher(config: Config, data: DataRecord, train_samples: int) -> None:
    """Raise ConfigError when the teacher cannot be had or does not fit the data, before any work is done."""
    form = teacher_form(config)
    if form == "torch":
        model = build_teacher(config, data)
        if config.teacher.weights:
            load_weights(model, config.path(config.teacher.weights))
        return
    path = config.path(config.teacher.model)
    if not path.is_file():
        raise ConfigError(f"teacher.model: {config.teacher.model}: no such file (looked for {path})")
    if config.teacher.weights:
        raise ConfigError(f"teacher.weights: a teacher from {path.suffix} has its weights in it; remove the key")
    if form == "onnx":
        onnx_predictor(path, model_input(data, config.data))
    else:
        load_logits(config, data, train_samples)


def build_teacher(config: Config, data: DataRecord) -> nn.Module:
    """Build the teacher's module, untrained."""
    taken = model_input(data, config.data)
    return build_model(config.teacher.model, taken, config.teacher.width, config.folder, config.seed)


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


def teacher_predictor(job: Job, teacher: TrainedModel) -> Predict:
    """Return the teacher as a function from model inputs to logits."""
    if teacher.form == "onnx":
        return onnx_predictor(job.run.path(teacher.file), model_input(job.data, job.config.data))
    return torch_predictor(load_teacher(job, teacher), job.config.teacher.precision)


def load_teacher(job: Job, teacher: TrainedModel) -> nn.Module:
    """Return a torch teacher with its weights, in evaluation mode."""
    model = build_teacher(job.config, job.data)
    load_weights(model, job.run.path(teacher.file))
    return model.eval()


def _torch_teacher(job: Job) -> TrainedModel:
    config, data, folder = job.config, job.dataset, job.folder("teacher")
    model = build_teacher(config, job.data)
    val = plain_views(data.val, job.data, config)

    def validate(candidate: nn.Module) -> float:
        return accuracy_of(predict_split(torch_predictor(candidate, config.teacher.precision), val), data.val.labels)

    history: tuple[Epoch, ...] = ()
    resume = Resume(folder / "resume.pt", job.keys["teacher"])
    if config.teacher.weights:
        load_weights(model, config.path(config.teacher.weights))
        accuracy = validate(model)
        job.report.line(f"teacher: {config.teacher.weights} loaded, validation accuracy {accuracy:.2%}")
    else:
        feed = TrainingFeed(training_views(data.train, job.data, config), config.teacher.batch_size, None, 0)
        loss = label_loss(config.teacher)
        history = fit(model, Training("teacher", config.teacher, feed, loss, validate, resume, config.seed), job.report)
        accuracy = max(epoch.val_accuracy or 0.0 for epoch in history)
    saved = save_model(model, folder / "model.safetensors")
    write_json(folder / "history.json", {"epochs": [epoch.model_dump() for epoch in history]})
    resume.path.unlink(missing_ok=True)
    return TrainedModel(
        spec=config.teacher.model, form="torch", file=job.run.ref(saved), parameters=count_parameters(model),
        val_accuracy=accuracy, history=history, parent=job.data.fingerprint,
    )  # fmt: skip


def save_model(model: nn.Module, path: Path) -> Path:
    """Write a state dict as safetensors, atomically."""
    from safetensors.torch import save_file

    with atomic_path(path) as scratch:
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, scratch)
    return path
