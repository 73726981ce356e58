"""Quantization-aware training: a prepared student fine-tuned to answer as the float one does (Jacob et al. 2018).

Rounding is in the forward pass, and the scales of the activations learn with the weights (LSQ, Esser et al. 2020). The
teacher is the float student in the same view, so that there is nothing to learn but what rounding took away.
"""

from __future__ import annotations

from torch import nn

from edgedistill.config.training import DistillConfig
from edgedistill.data.views import training_views
from edgedistill.distill.feed import TrainingFeed
from edgedistill.distill.loading import answers_of
from edgedistill.distill.losses import all_outputs_loss
from edgedistill.distill.predictors import Scorer, torch_predictor
from edgedistill.distill.soft_labels import OnlineTeacher
from edgedistill.distill.training import Resume, Training, fit
from edgedistill.quantize.prepare import Prepared
from edgedistill.quantize.settings import QuantizeSettings
from edgedistill.records.stages import Epoch
from edgedistill.stages.stage import Workspace


def finetune(
    settings: QuantizeSettings, workspace: Workspace, models: tuple[nn.Module, Prepared], name: str, scorer: Scorer
) -> tuple[Epoch, ...]:
    """Fine-tune a calibrated model in place, keep its best epoch on validation data, and return the history.

    Args:
        settings: the stage's settings, which say for how long and at which rate.
        workspace: where a killed training goes on.
        models: the float student, which teaches, and the calibrated model of that student.
        name: what the training is called in the run folder.
        scorer: the metric on validation data.
    """
    student, prepared = models
    plan, output = finetuning_plan(settings), settings.data.output

    def validate(candidate: nn.Module) -> float:
        return scorer.score(torch_predictor(candidate, "fp32"))

    views = training_views(settings.dataset().train, settings.data, settings.views)
    teacher = OnlineTeacher(answers_of(torch_predictor(student, "fp32"), output))
    feed = TrainingFeed(views, plan.batch_size, teacher, 0, settings.seed)
    loss = all_outputs_loss(plan, settings.task.distillation_loss(plan, None), output)
    resume = Resume(workspace.folder("quantized") / f"{name}-resume.pt", workspace.key)
    training = Training(name, plan, feed, loss, validate, resume, settings.seed, settings.task.metric_title)
    return fit(prepared, training, workspace.report)


def finetuning_plan(settings: QuantizeSettings) -> DistillConfig:
    """Return how fine-tuning trains: from the float student's outputs alone, in float32.

    bfloat16 has as few digits as int8, and would round what is about to be rounded. AdamW, because the channels of a
    layer with a folded batch norm differ in size by orders of magnitude.
    """
    quantize, finetuning = settings.quantize, settings.finetuning
    assert finetuning is not None
    plan = DistillConfig(
        epochs=quantize.epochs, lr=quantize.lr, batch_size=finetuning.batch_size, optimizer="adamw", weight_decay=0.0,
        precision="fp32", accumulate=finetuning.accumulate, hard_weight=0.0, temperature=finetuning.temperature,
    )  # fmt: skip
    return plan.model_copy(update={"loss": settings.task.finetuning_loss})
