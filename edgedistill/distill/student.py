"""The distill stage: train the student and, if requested, its control."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import nn

from edgedistill.data.dataset import Split
from edgedistill.data.views import training_views
from edgedistill.distill.cache import link_or_copy
from edgedistill.distill.controls import shared_control
from edgedistill.distill.features import FeatureTeacher, feature_loss, feature_student
from edgedistill.distill.feed import ContinuedFeed, TeacherAnswers, TrainingFeed
from edgedistill.distill.fine_tuning import fine_tuning
from edgedistill.distill.first_batch import Tried, try_model
from edgedistill.distill.label_scale import LabelScale, probe_labels, report_unscaled, standardized, standardized_head
from edgedistill.distill.loading import answers_of, build_student, load_student, load_teacher, save_model
from edgedistill.distill.losses import all_outputs_loss, check_outputs, main_loss
from edgedistill.distill.predictors import Scorer, scorer_of, split_outputs, torch_predictor
from edgedistill.distill.settings import (
    DistillPlan,
    DistillSettings,
    LearningSettings,
    SoftLabelSettings,
    gives_detections,
)
from edgedistill.distill.soft_labels import OnlineTeacher, Teachers, load_soft_labels
from edgedistill.distill.top_k import check_top_k
from edgedistill.distill.tracking import TrackingFolder
from edgedistill.distill.training import Resume, Training, fit
from edgedistill.errors import AccuracyError, ConfigError
from edgedistill.losses.batch import Batch, Loss, Tensors
from edgedistill.models.build import build_model, count_parameters
from edgedistill.models.outputs import run
from edgedistill.models.source import ModelSource, StudentSource
from edgedistill.models.transfer import load_start
from edgedistill.records.finding import Finding
from edgedistill.records.stages import StudentRecord, Trial
from edgedistill.records.training import TrainedModel
from edgedistill.runtime import processes
from edgedistill.runtime.files import remove_files, write_json
from edgedistill.stages.stage import Workspace
from edgedistill.tasks.chance import Problem

ADVICE: Final = "train for more epochs, change lr or the loss in [distill], or use a larger student"


class Teaching(NamedTuple):
    """The loss of a student, on values in the scale of its labels, and the teacher's outputs or features if it has a teacher."""

    loss_in: Callable[[LabelScale | None], Loss]
    answers: TeacherAnswers | None
    features: FeatureTeacher | None

    @property
    def has_teacher(self) -> bool:
        """Whether the loss needs a teacher."""
        return self.answers is not None or self.features is not None


class Arm(NamedTuple):
    """One of the models that are compared: its role, what it is built from, and what teaches it."""

    role: str
    student: StudentSource
    teaching: Teaching


TITLES: Final = {"student": "student", "control": "control", "scratch": "student from scratch"}
"""What the models that are compared are called in messages, by their roles."""


def make_student(settings: DistillSettings, workspace: Workspace) -> StudentRecord:
    """Distil the student for each seed and, with `control`, train the same student without the teacher and without its start."""
    trainer = _Trainer(settings, workspace)
    folder, trials = workspace.folder("student"), []
    teaching = trainer.teaching()
    from_scratch = Arm("scratch", settings.student.model_copy(update={"start": None}), teaching)
    for seed in range(settings.seed, settings.seed + settings.distill.seeds):
        student = trainer.train(Arm("student", settings.student, teaching), seed)
        control = trainer.control(seed) if settings.distill.control else None
        scratch = trainer.train(from_scratch, seed) if settings.trains_from_scratch else None
        trials.append(Trial(seed=seed, student=student, control=control, scratch=scratch))
    best = max(trials, key=lambda trial: trial.student.val_accuracy or 0.0)
    findings = trainer.examine(trials, best)
    if processes.is_main_process():
        link_or_copy(workspace.path(best.student.file), folder / "model.safetensors")
    processes.barrier()
    student = best.student.model_copy(update={"file": workspace.describe(folder / "model.safetensors")})
    weights = settings.student.weights
    record = StudentRecord(
        student=student, control=best.control, scratch=best.scratch, start=None if weights is None else weights.name,
        trials=tuple(trials), findings=findings,
    )  # fmt: skip
    if processes.is_main_process():
        write_json(folder / "metrics.json", record)
        remove_files(folder, "*-resume.pt")  # only after all trainings: an interrupted run resumes from these files
    return record


class _Trainer:
    """Trains students of one configuration."""

    def __init__(self, settings: DistillSettings, workspace: Workspace) -> None:
        self.settings, self.workspace = settings, workspace
        self.data = settings.labelled_data(workspace)

    def teaching(self) -> Teaching:
        """Return the loss and the teacher for students."""
        settings, plan = self.settings, self.settings.distill
        output = settings.data.output
        own = None if settings.loss is None else settings.loss.load()
        on_output = settings.task.distillation_loss(plan, own)
        if plan.uses_features:
            frozen = self._feature_teacher()

            def loss_in(scale: LabelScale | None) -> Loss:
                return feature_loss(plan, main_loss(standardized(on_output, scale), output), frozen, output)

            return Teaching(loss_in, None, frozen)
        answers: TeacherAnswers
        if settings.soft_labels.logits is None:
            answers = OnlineTeacher(self._teachers().online())
        else:
            answers = load_soft_labels(self.workspace, settings.soft_labels, plan.temperature)
        return Teaching(lambda scale: all_outputs_loss(plan, standardized(on_output, scale), output), answers, None)

    def _feature_teacher(self) -> FeatureTeacher:
        settings, precision = self.settings, self.settings.teachers[0].precision
        model = self._teacher().to(processes.device())
        ask = answers_of(torch_predictor(model, precision), settings.data.output)
        return FeatureTeacher(
            model, settings.distill.teacher_layers, precision, self._teachers().gives_probabilities(0, ask)
        )

    def _teachers(self) -> Teachers:
        return Teachers(_soft_label_settings(self.settings), self.workspace)

    def train(self, arm: Arm, seed: int) -> TrainedModel:
        """Train a student from a seed and save it."""
        settings, plan, folder = self.settings, self.settings.distill, self.workspace.folder("student")
        role, source, teaching = arm
        name = TITLES[role] if plan.seeds == 1 else f"{TITLES[role]}, seed {seed}"
        model = self._start(name, source, seed)
        scorer = self._scorer()

        def validate(candidate: nn.Module) -> float:
            return scorer.score(torch_predictor(candidate, plan.precision))

        feed = self._feed(self.data.distilled, teaching.answers, seed)
        steps = len(feed)
        if not teaching.has_teacher:
            feed = self._feed(self.data.train, None, seed)
        learner = model  # a feature loss trains a wrapper with regressors; only the student is saved
        if teaching.features is not None:
            first = np.zeros(1, np.int64)
            learner = feature_student(plan, model, teaching.features, feed.views.batch(first, first), seed)
        probe = probe_labels(settings, self.data, plan)
        with standardized_head(model, probe) as scale:
            report_unscaled(settings, probe, scale, name, self.workspace.report)
            training = Training(
                name, plan, ContinuedFeed(feed, steps), teaching.loss_in(scale), validate,
                Resume(folder / f"{role}-{seed}-resume.pt", self.workspace.key), seed, settings.task.metric_title,
                TrackingFolder(settings.tracking, self.workspace.root / "tracking"), fine_tuning(model, source, settings.interface),
            )  # fmt: skip
            history = fit(learner, training, self.workspace.report)
        saved = save_model(model, self._weights(role, seed))
        return TrainedModel(
            spec=settings.student.title, form="torch", file=self.workspace.describe(saved),
            parameters=count_parameters(model), val_accuracy=max(epoch.val_accuracy for epoch in history), history=history,
            parent=settings.soft_labels.fingerprint if teaching.has_teacher else settings.data.fingerprint,
        )  # fmt: skip

    def _feed(self, split: Split, answers: TeacherAnswers | None, seed: int) -> TrainingFeed:
        views = training_views(split, self.settings.data, self.settings.views)
        plan = self.settings.distill
        return TrainingFeed(views, plan.batch_size, answers, plan.views, seed)

    def control(self, seed: int) -> TrainedModel:
        """Return the control: the same student without the teacher, on the same views in the same order.

        With data.unlabelled, it trains on the samples with labels alone, for as many steps as the student.
        """
        settings = self.settings
        on_labels, output = settings.task.label_loss(settings.distill), settings.data.output
        teaching = Teaching(lambda scale: main_loss(standardized(on_labels, scale), output), None, None)
        arm, weights = Arm("control", settings.student, teaching), self._weights("control", seed)
        return shared_control(settings, self.workspace, seed, weights, lambda: self.train(arm, seed))

    def examine(self, trials: Sequence[Trial], best: Trial) -> tuple[Finding, ...]:
        """Return and print what is wrong with the outputs of trained models on validation data.

        Raises AccuracyError if the best student's outputs are constant or not finite: nothing that later stages measure would
        describe a useful model.
        """
        findings = []
        for trial in trials:
            for role, trained in (("student", trial.student), ("control", trial.control), ("scratch", trial.scratch)):
                problem = None if trained is None else self._problem(trained)
                if problem is None:
                    continue
                seed = "" if len(trials) == 1 else f" of seed {trial.seed}"
                text = f"the {TITLES[role]}{seed} {problem.text}"
                if trained is best.student and problem.kind != "chance":
                    raise AccuracyError(f"distill: {text}, so the run stops here; {ADVICE}")
                findings.append(
                    Finding(severity="warning", subject=StudentRecord.stage, text=f"{text}; {self._advice(role)}")
                )
        for finding in findings:
            self.workspace.report.info(str(finding))
        return tuple(findings)

    def _problem(self, trained: TrainedModel) -> Problem | None:
        settings = self.settings
        model = load_student(settings.student, settings.interface, settings.seed, self.workspace.path(trained.file))
        return self._scorer().problem(torch_predictor(model, settings.distill.precision))

    def _advice(self, role: str) -> str:
        accuracy = self.settings.teacher.val_accuracy
        if role != "student":
            gain = "distillation" if role == "control" else "the start weights"
            return f"so the gain from {gain} cannot be judged by it"
        return ADVICE if accuracy is None else f"the teacher has {accuracy:.2%}: {ADVICE}"

    def _scorer(self) -> Scorer:
        return scorer_of(self.settings, self.data.val)

    def _start(self, name: str, source: StudentSource, seed: int) -> nn.Module:
        """Return the initial student: as it is built, with the weights of its start, or a part of the teacher with inherited weights."""
        settings = self.settings
        if source.model is not None:
            student = build_student(source, settings.interface, seed)
            for note in load_start(student, source, settings.interface):
                self.workspace.report.info(f"{name}: starts with {note}")
            return student
        teacher = self._teacher()
        before = count_parameters(teacher)
        student = build_student(source, settings.interface, settings.seed, teacher)
        what = "pruned" if source.layers is None else f"{source.title},"
        self.workspace.report.info(f"{name}: {what} from {before:,} to {count_parameters(student):,} parameters")
        return student

    def _teacher(self) -> nn.Module:
        settings = self.settings
        path = self.workspace.path(settings.teacher.file)
        return load_teacher(settings.teachers[0].source, settings.interface, settings.seed, path)

    def _weights(self, role: str, seed: int) -> Path:
        single = self.settings.distill.seeds == 1
        return self.workspace.folder("student") / (f"{role}.safetensors" if single else f"{role}-{seed}.safetensors")


def _soft_label_settings(settings: DistillSettings) -> SoftLabelSettings:
    """Return the settings of the soft labels stage for the same teachers."""
    return SoftLabelSettings(
        source=settings.source, data=settings.data, views=settings.views, teacher=settings.teacher,
        teachers=settings.teachers, view_count=settings.distill.views, top_k=None, other_outputs=settings.distill.other_outputs,
    )  # fmt: skip


def check_student(settings: LearningSettings, student: StudentSource, sample: Tensors) -> list[Finding]:
    """Run a batch through the untrained student; raises ConfigError if it cannot be trained on the data, or start as it should."""
    model = build_student(student, settings.interface, settings.seed)
    load_start(model, student, settings.interface)
    fine_tuning(model, student, settings.interface)
    return try_model(Tried(f"student.model: {student.title}", model, trains=True), settings, sample)


def check_distillation(settings: DistillPlan, student: nn.Module, sample: Tensors) -> None:
    """Raise ConfigError for a loss that does not match the student, the data or the teacher; trains nothing."""
    plan, modules = settings.distill, [one for one in settings.teachers if one.source.spec.is_module]
    if modules and plan.uses_features:
        teacher = build_model(modules[0].source, settings.interface, settings.seed).eval()
        feature_student(
            plan, student, FeatureTeacher(teacher, plan.teacher_layers, modules[0].precision), sample, settings.seed
        )
        return
    _check_outputs(settings, student, [one.source for one in modules], sample)
    check_top_k(settings.data, plan)
    if plan.top_k is not None and gives_detections(settings):
        raise ConfigError(
            "distill.top_k: the teacher is an ONNX detector, whose detections are all kept; remove the key"
        )
    if plan.loss == "cosine" and settings.interface.values < 2:
        raise ConfigError("distill.loss: 'cosine' compares vectors, but labels have one value; set loss = 'mse'")
    _try_loss(settings, student, sample)


def _check_outputs(settings: DistillPlan, student: nn.Module, teachers: list[ModelSource], sample: Tensors) -> None:
    """Check that each torch teacher has the outputs that the student's other outputs learn from, and that teachers can be averaged."""
    _, ours = _shapes(settings, student, sample)
    first: tuple[int, ...] | None = None
    for source in teachers:
        main, theirs = _shapes(settings, build_model(source, settings.interface, settings.seed), sample)
        check_outputs(ours, theirs, settings.distill.other_outputs)
        if main != (first := first or main):
            raise ConfigError(
                f"teacher.model: {source.spec} gives outputs of shape {main}, and {teachers[0].spec} {first}; the mean of several teachers needs "
                "one shape"
            )


def _shapes(
    settings: DistillPlan, model: nn.Module, sample: Tensors
) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]]]:
    """Return the shape of the labelled output of a sample, and the shapes of the other outputs by name."""
    with torch.no_grad():
        main, others = split_outputs(run(model.eval(), sample), settings.data.output)
    return tuple(main.shape[1:]), {name: tuple(value.shape[1:]) for name, value in others.items()}


def _try_loss(settings: DistillPlan, student: nn.Module, sample: Tensors) -> None:
    """Call the loss on random logits of several samples, to test user functions too."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        shape = split_outputs(run(student.eval(), sample), settings.data.output).main.shape[1:]
    logits = torch.randn(2, 16, *shape, generator=generator)
    labels = settings.task.example_labels(logits[1])
    inputs = {name: values[torch.arange(16) % len(values)] for name, values in sample.items()}
    batch = Batch(inputs, labels, logits[1])
    if settings.data.unlabelled:
        labels[8:] = torch.from_numpy(np.array(settings.task.no_labels(labels.numpy(), 8)))
        batch = batch._replace(is_labelled=torch.arange(16) < 8)
    if any(spec.startswith("mixup") for spec in settings.views.augment):
        batch = batch._replace(partner_labels=labels.roll(1, 0), share=torch.linspace(0, 1, 16))
    own = None if settings.loss is None else settings.loss.load()
    settings.task.distillation_loss(settings.distill, own)(logits[0].requires_grad_(), batch)
