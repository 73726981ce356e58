"""The soft-label and student stages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgedistill.config import Config
from edgedistill.data.views import Views, plain_views, training_views
from edgedistill.distill.feed import TeacherAnswers, TrainingFeed
from edgedistill.distill.losses import distillation_loss, label_loss
from edgedistill.distill.predictors import BATCH, Predict, accuracy_of, predict_split, torch_predictor
from edgedistill.distill.soft_labels import Cache, OnlineTeacher, build_soft_labels, load_soft_labels, store_soft_labels
from edgedistill.distill.teacher import load_logits, load_teacher, save_model, teacher_predictor
from edgedistill.distill.teacher_engine import EngineName, choose_engine, engine_predictor
from edgedistill.distill.training import Loss, Resume, Training, fit
from edgedistill.errors import ConfigError
from edgedistill.job import Job
from edgedistill.models.build import build_model, count_parameters
from edgedistill.records import DataRecord, SoftLabelsRecord, StudentRecord, TrainedModel
from edgedistill.runs import write_atomic, write_json


def make_soft_labels(job: Job) -> SoftLabelsRecord:
    """Cache the teacher's logits of the training views; with 0 views the teacher is asked online."""
    teacher = job.result("teacher", TrainedModel)
    count, samples, classes = job.config.distill.views, job.data.train, len(job.data.classes)
    fingerprint = job.keys["soft_labels"]
    folder = job.folder("soft_labels") / fingerprint[:16]
    record = SoftLabelsRecord(
        folder=folder.relative_to(job.run.folder).as_posix(), fingerprint=fingerprint, views=count, samples=samples,
        classes=classes, logits=None, engine=None, parent=teacher.file.sha256,
    )  # fmt: skip
    if count == 0:
        return record
    views = training_views(job.dataset.train, job.data, job.config)
    cache = Cache(folder, fingerprint, (count, samples, classes))
    if teacher.form == "logits":
        logits = load_logits(job.config, job.data, len(views.split.inputs))[views.split.rows]
        engine, path = "recorded", store_soft_labels(cache, logits[None])
    elif teacher.form == "onnx":
        engine, path = "onnxruntime", build_soft_labels(cache, teacher_predictor(job, teacher), views, job.report)
    else:
        engine, predict = _fast_teacher(job, teacher, cache, views)
        path = build_soft_labels(cache, predict, views, job.report)
    return record.model_copy(update={"logits": job.run.ref(path), "engine": engine})


def _fast_teacher(job: Job, teacher: TrainedModel, cache: Cache, views: Views) -> tuple[str, Predict]:
    """Return the engine that runs a torch teacher, and the teacher in it; an interrupted cache keeps its engine."""
    model = load_teacher(job, teacher)
    positions = np.arange(min(BATCH, len(views.split)))
    sample = views.batch(positions, np.zeros_like(positions))
    plan, note = job.config.teacher, cache.folder / f"engine-{cache.fingerprint}"
    if not note.exists():
        write_atomic(note, choose_engine(plan, model, sample, job.report))
    engine: EngineName = "openvino" if note.read_text(encoding="utf-8") == "openvino" else "torch"
    return engine, engine_predictor(engine, model, sample, plan.precision)


def build_student(config: Config, data: DataRecord) -> nn.Module:
    """Build the student's module, untrained."""
    return build_model(config.student.model, data, config.student.width, config.folder, config.seed)


def check_student(config: Config, data: DataRecord, sample: torch.Tensor) -> None:
    """Raise ConfigError when the student does not take the data or gives something else than one logit per class."""
    model = build_student(config, data).eval()
    try:
        with torch.no_grad():
            logits = model(sample)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"student.model: {config.student.model} does not take a batch of shape {tuple(sample.shape)}: {reason}"
        ) from error
    expected = (len(sample), len(data.classes))
    if not isinstance(logits, torch.Tensor) or logits.shape != expected:
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ConfigError(f"student.model: {config.student.model} gives {found}; expected logits of shape {expected}")


def make_student(job: Job) -> StudentRecord:
    """Distil the student and, when `control` asks for it, train the same student without the teacher."""
    soft = job.result("soft_labels", SoftLabelsRecord)
    answers: TeacherAnswers
    if soft.logits is None:
        answers = OnlineTeacher(teacher_predictor(job, job.result("teacher", TrainedModel)))
    else:
        answers = load_soft_labels(job.run.path(soft.logits))
    plan = job.config.distill
    student = _train(job, "student", distillation_loss(plan), answers)
    control = _train(job, "control", label_loss(plan), None) if plan.control else None
    record = StudentRecord(student=student, control=control)
    write_json(job.folder("student") / "metrics.json", record)
    for state in job.folder("student").glob("*-resume.pt"):  # not before both are done, or a kill costs the first again
        state.unlink()
    return record


def _train(job: Job, name: str, loss: Loss, answers: TeacherAnswers | None) -> TrainedModel:
    config, data, folder = job.config, job.dataset, job.folder("student")
    plan = config.distill
    model = build_student(config, job.data)
    val = plain_views(data.val, job.data, config)

    def validate(candidate: nn.Module) -> float:
        return accuracy_of(predict_split(torch_predictor(candidate, plan.precision), val), data.val.labels)

    feed = TrainingFeed(training_views(data.train, job.data, config), plan.batch_size, answers, plan.views)
    resume = Resume(folder / f"{name}-resume.pt", job.keys["student"])
    history = fit(model, Training(name, plan, feed, loss, validate, resume, config.seed), job.report)
    saved: Path = save_model(model, folder / ("model.safetensors" if name == "student" else f"{name}.safetensors"))
    return TrainedModel(
        spec=config.student.model, form="torch", file=job.run.ref(saved), parameters=count_parameters(model),
        val_accuracy=max(epoch.val_accuracy or 0.0 for epoch in history), history=history,
        parent=job.keys["soft_labels"] if answers is not None else job.data.fingerprint,
    )  # fmt: skip
