"""The student stage: the distilled student and, when asked for, its control."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from edgedistill.config.schema import Config
from edgedistill.data.preprocess import model_input
from edgedistill.data.views import plain_views, training_views
from edgedistill.distill.cache import link_or_copy
from edgedistill.distill.controls import shared_control
from edgedistill.distill.features import FeatureTeacher, feature_student
from edgedistill.distill.feed import TeacherAnswers, TrainingFeed
from edgedistill.distill.losses import distillation_loss, feature_loss, label_loss
from edgedistill.distill.predictors import predict_split, torch_predictor
from edgedistill.distill.soft_labels import OnlineTeacher, load_soft_labels, online_predictor
from edgedistill.distill.teacher import build_teacher, load_teacher, save_model
from edgedistill.distill.top_k import check_top_k
from edgedistill.distill.tracking import tracking_of
from edgedistill.distill.training import Batch, Loss, Resume, Training, fit
from edgedistill.errors import ConfigError
from edgedistill.models.build import build_model, count_parameters, load_weights
from edgedistill.models.prune import prune_channels, unprunable
from edgedistill.records.stages import DataRecord, SoftLabelsRecord, StudentRecord, TrainedModel, Trial, TrialScore
from edgedistill.runtime import processes
from edgedistill.runtime.files import write_json
from edgedistill.runtime.job import Job
from edgedistill.tasks.tasks import TASKS


def build_student(config: Config, data: DataRecord) -> nn.Module:
    """Build the student's module, untrained; what pruning leaves has the same shape whatever the teacher's weights are."""
    plan = config.student
    if plan.model is None:
        return _prune(config, data, build_teacher(config, data))
    return build_model(plan.model, model_input(data, config.data), plan.width, config.folder, config.seed, plan.depth)


def _prune(config: Config, data: DataRecord, teacher: nn.Module) -> nn.Module:
    fraction = config.student.prune
    assert fraction is not None
    return prune_channels(teacher, model_input(data, config.data), fraction, _kept_whole(config, data, fraction))


@cache
def _kept_whole(config: Config, data: DataRecord, fraction: float) -> tuple[str, ...]:
    return unprunable(build_teacher(config, data), model_input(data, config.data), fraction)


def start_student(job: Job, name: str, seed: int) -> nn.Module:
    """Return the student as its training starts: untrained or, pruned, with the weights that the teacher leaves it."""
    if job.config.student.model is not None:
        return build_student(job.config.model_copy(update={"seed": seed}), job.data)
    teacher = load_teacher(job)
    before = count_parameters(teacher)
    student = _prune(job.config, job.data, teacher)
    job.report.line(f"{name}: pruned from {before:,} to {count_parameters(student):,} parameters")
    return student


def student_name(config: Config) -> str:
    """Return what the student is called: its model, or the teacher's with the fraction of its channels that was removed."""
    return config.student.model or f"{config.teacher.model} pruned by {config.student.prune}"


def check_student(config: Config, data: DataRecord, sample: torch.Tensor) -> None:
    """Raise ConfigError when the student does not take the data or gives something else than one logit per class."""
    model = build_student(config, data).eval()
    try:
        with torch.no_grad():
            logits = model(sample)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"student.model: {student_name(config)} does not take a batch of shape {tuple(sample.shape)}: {reason}"
        ) from error
    expected = (len(sample), len(data.classes))
    if not isinstance(logits, torch.Tensor) or logits.shape != expected:
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ConfigError(f"student.model: {student_name(config)} gives {found}; expected logits of shape {expected}")
    _check_loss(config, data, model, sample)


def _check_loss(config: Config, data: DataRecord, student: nn.Module, sample: torch.Tensor) -> None:
    plan = config.distill
    if plan.uses_features:
        teacher = FeatureTeacher(build_teacher(config, data), plan.teacher_layers, config.teacher.precision)
        feature_student(plan, student, teacher, sample, config.seed)
        return
    check_top_k(plan, data)
    if plan.loss == "cosine" and len(data.classes) < 2:
        raise ConfigError("distill.loss: 'cosine' compares vectors, and labels have one value; set loss = 'mse'")
    # Made-up logits, more than one sample of each, so that a function of the user's is tried before anything is written.
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 16, len(data.classes), generator=generator)
    labels = torch.arange(16) % len(data.classes) if data.task == "classification" else logits[1]
    batch = Batch(sample, labels, logits[1])
    if any(spec.startswith("mixup") for spec in config.data.augment):
        batch = batch._replace(partner_labels=labels.roll(1, 0), share=torch.linspace(0, 1, 16))
    distillation_loss(plan, config.folder)(logits[0].requires_grad_(), batch)


def make_student(job: Job) -> StudentRecord:
    """Distil the student for each seed and, when `control` asks for it, train the same student without the teacher."""
    plan, folder = job.config.distill, job.folder("student")
    teaching = _teaching(job)
    trials = []
    for seed in range(job.config.seed, job.config.seed + plan.seeds):
        student = _train(job, "student", seed, teaching)
        control = _control(job, seed) if plan.control else None
        trials.append(Trial(seed=seed, student=student, control=control))
    best = max(trials, key=lambda trial: trial.student.val_accuracy or 0.0)
    if processes.is_first():
        link_or_copy(job.run.path(best.student.file), folder / "model.safetensors")
    processes.wait_for_all()
    student = best.student.model_copy(update={"file": job.run.ref(folder / "model.safetensors")})
    record = StudentRecord(student=student, control=best.control, trials=tuple(trials))
    if processes.is_first():
        write_json(folder / "metrics.json", record)
        for state in folder.glob("*-resume.pt"):  # not before all are done, or a kill costs the first again
            state.unlink()
    return record


class Teaching(NamedTuple):
    """What a student learns from: a loss, and the teacher's logits or features where it has a teacher."""

    loss: Loss
    answers: TeacherAnswers | None
    features: FeatureTeacher | None


def _teaching(job: Job) -> Teaching:
    soft, plan = job.result("soft_labels", SoftLabelsRecord), job.config.distill
    if plan.uses_features:
        frozen = FeatureTeacher(load_teacher(job), plan.teacher_layers, job.config.teacher.precision)
        return Teaching(feature_loss(plan, frozen), None, frozen)
    loss = distillation_loss(plan, job.config.folder)
    if soft.logits is None:
        return Teaching(loss, OnlineTeacher(online_predictor(job)), None)
    return Teaching(loss, load_soft_labels(job.run.path(soft.logits), plan.temperature), None)


def _train(job: Job, role: str, seed: int, teaching: Teaching) -> TrainedModel:
    config, data, folder = job.config, job.dataset, job.folder("student")
    plan, task = config.distill, TASKS[job.data.task]
    name = role if plan.seeds == 1 else f"{role}, seed {seed}"
    model = start_student(job, name, seed)
    val = plain_views(data.val, job.data, config)

    def validate(candidate: nn.Module) -> float:
        return task.score(predict_split(torch_predictor(candidate, plan.precision), val), data.val.labels)

    feed = TrainingFeed(
        training_views(data.train, job.data, config), plan.batch_size, teaching.answers, plan.views, seed
    )
    resume = Resume(folder / f"{role}-{seed}-resume.pt", job.keys["student"])
    learner = model  # what is trained may be more than the student; what is kept is the student
    if teaching.features is not None:
        first = np.zeros(1, np.int64)
        learner = feature_student(plan, model, teaching.features, feed.views.batch(first, first), seed)
    training = Training(name, plan, feed, teaching.loss, validate, resume, seed, task.shown, tracking_of(job))
    history = fit(learner, training, job.report)
    saved = save_model(model, _weights(job, role, seed))
    return TrainedModel(
        spec=student_name(config), form="torch", file=job.run.ref(saved), parameters=count_parameters(model),
        val_accuracy=max(epoch.val_accuracy for epoch in history), history=history,
        parent=job.keys["soft_labels"] if role == "student" else job.data.fingerprint,
    )  # fmt: skip


def _control(job: Job, seed: int) -> TrainedModel:
    """Return the same student trained without the teacher, on the same views of the same samples in the same order."""
    plain = Teaching(label_loss(job.config.distill), None, None)
    return shared_control(job, seed, _weights(job, "control", seed), lambda: _train(job, "control", seed, plain))


def _weights(job: Job, role: str, seed: int) -> Path:
    return job.folder("student") / (
        f"{role}.safetensors" if job.config.distill.seeds == 1 else f"{role}-{seed}.safetensors"
    )


def score_trials(job: Job) -> tuple[TrialScore, ...]:
    """Score all trials' float models on the test set, where there are controls or several seeds to compare."""
    trials = job.result("student", StudentRecord).trials
    if len(trials) == 1 and trials[0].control is None:
        return ()
    return tuple(
        TrialScore(
            seed=trial.seed,
            student=_test_score(job, trial.student),
            control=None if trial.control is None else _test_score(job, trial.control),
        )
        for trial in trials
    )


def _test_score(job: Job, trained: TrainedModel) -> float:
    model = build_student(job.config, job.data)
    load_weights(model, job.run.path(trained.file))
    views = plain_views(job.dataset.test, job.data, job.config)
    outputs = predict_split(torch_predictor(model, "fp32"), views)
    return TASKS[job.data.task].score(outputs, job.dataset.test.labels)
