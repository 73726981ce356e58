"""Quantization-aware training: fine-tune a prepared student on the float student's outputs (Jacob et al. 2018).

The forward pass rounds, and the activation scales are trained with the weights (LSQ, Esser et al. 2020). The teacher is
the float student on the same view of each sample, so that the rounding error is all there is to learn. Labels are not read, so
the samples of data.unlabelled take part.
"""

from __future__ import annotations

import copy

from torch import nn

from edgedistill.config.training import DistillConfig
from edgedistill.data.views import training_views
from edgedistill.distill.feed import TrainingFeed
from edgedistill.distill.label_scale import probe_labels, standardized, standardized_copy
from edgedistill.distill.loading import answers_of
from edgedistill.distill.losses import all_outputs_loss
from edgedistill.distill.predictors import Scorer, torch_predictor
from edgedistill.distill.soft_labels import OnlineTeacher
from edgedistill.distill.training import Resume, Training, fit
from edgedistill.quantize.prepare import Prepared
from edgedistill.quantize.settings import QuantizeSettings
from edgedistill.records.training import Epoch
from edgedistill.runtime import processes
from edgedistill.runtime.files import hash_of
from edgedistill.stages.stage import Workspace


def finetune(
    settings: QuantizeSettings, workspace: Workspace, models: tuple[nn.Module, Prepared], name: str, scorer: Scorer
) -> tuple[Epoch, ...]:
    """Fine-tune a calibrated model in place, keep its best epoch on validation data, and return the history.

    Args:
        settings: the stage's settings, with the epochs and the learning rate.
        workspace: the run folder, from which an interrupted training of the same int8 layers resumes.
        models: the float student, which is the teacher, and the calibrated model made from it.
        name: the name of the training in the run folder.
        scorer: the metric on validation data.
    """
    student, prepared = models
    plan, output = finetuning_plan(settings), settings.data.output

    def validate(candidate: nn.Module) -> float:
        return scorer.score(torch_predictor(candidate, "fp32"))

    views = training_views(settings.dataset().distilled, settings.data, settings.views)
    frozen = copy.deepcopy(student).to(processes.device())  # the student itself is captured on the CPU later
    teacher = OnlineTeacher(answers_of(torch_predictor(frozen, "fp32"), output))
    feed = TrainingFeed(views, plan.batch_size, teacher, 0, settings.seed)
    # Which layers are float depends on measured latencies, which the stage's key does not cover.
    key = hash_of([workspace.key, prepared.layers])
    resume = Resume(workspace.folder("quantized") / f"{name}-resume.pt", key)
    probe = probe_labels(settings, settings.labelled_data(workspace), plan)
    with standardized_copy(student, prepared, prepared.graph, probe) as scale:
        loss = all_outputs_loss(plan, standardized(settings.task.distillation_loss(plan, None), scale), output)
        training = Training(name, plan, feed, loss, validate, resume, settings.seed, settings.task.metric_title)
        return fit(prepared, training, workspace.report)


def finetuning_plan(settings: QuantizeSettings) -> DistillConfig:
    """Return the training plan of fine-tuning: the float student's outputs are the only targets, in float32.

    bfloat16 has as few digits as int8, and would add its own rounding error. The optimizer is AdamW, because the
    channels of a layer with a folded batch norm differ in size by orders of magnitude.
    """
    quantize, finetuning = settings.quantize, settings.finetuning
    assert finetuning is not None
    plan = DistillConfig(
        epochs=quantize.epochs, lr=quantize.lr, batch_size=finetuning.batch_size, optimizer="adamw", weight_decay=0.0,
        precision="fp32", accumulate=finetuning.accumulate, hard_weight=0.0, temperature=finetuning.temperature,
    )  # fmt: skip
    return plan.model_copy(update={"loss": settings.task.finetuning_loss})
