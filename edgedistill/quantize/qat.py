"""Quantization-aware training: a prepared student fine-tuned to answer as the float one does (Jacob et al. 2018).

Rounding is in the forward pass, and the scales of the activations learn with the weights (LSQ, Esser et al. 2020). The
teacher is the float student in the same view, so that there is nothing to learn but what rounding took away.
"""

from __future__ import annotations

from torch import nn

from edgedistill.config.training import DistillConfig
from edgedistill.data.views import plain_views, training_views
from edgedistill.distill.feed import TrainingFeed
from edgedistill.distill.losses import distillation_loss
from edgedistill.distill.predictors import predict_split, torch_predictor
from edgedistill.distill.soft_labels import OnlineTeacher
from edgedistill.distill.tracking import tracking_of
from edgedistill.distill.training import Resume, Training, fit
from edgedistill.quantize.prepare import Prepared
from edgedistill.records.stages import Epoch
from edgedistill.runtime.job import Job
from edgedistill.tasks.tasks import TASKS


def finetune(job: Job, student: nn.Module, prepared: Prepared, name: str) -> tuple[Epoch, ...]:
    """Fine-tune a calibrated model in place, keep its best epoch on validation data, and return the history.

    Args:
        job: the job, whose [quantize] says for how long and at which rate.
        student: the float student, which teaches.
        prepared: the calibrated model of that student.
        name: what the training is called in the run folder, where a killed one goes on.
    """
    config, task = job.config, TASKS[job.data.task]
    plan = training_plan(job)
    val = plain_views(job.dataset.val, job.data, config)

    def validate(candidate: nn.Module) -> float:
        return task.score(predict_split(torch_predictor(candidate, "fp32"), val), job.dataset.val.labels)

    views = training_views(job.dataset.train, job.data, config)
    teacher = OnlineTeacher(torch_predictor(student, "fp32"))
    feed = TrainingFeed(views, plan.batch_size, teacher, 0, config.seed)
    resume = Resume(job.folder("quantized") / f"{name}-resume.pt", job.keys["quantize"])
    training = Training(
        name, plan, feed, distillation_loss(plan), validate, resume, config.seed, task.shown, tracking_of(job)
    )
    return fit(prepared, training, job.report)


def training_plan(job: Job) -> DistillConfig:
    """Return how fine-tuning trains: from the float student's outputs alone, in float32.

    bfloat16 has as few digits as int8, and would round what is about to be rounded. AdamW, because the channels of a
    layer with a folded batch norm differ in size by orders of magnitude.
    """
    quantize, distill = job.config.quantize, job.config.distill
    common = {
        "epochs": quantize.epochs, "lr": quantize.lr, "batch_size": distill.batch_size, "optimizer": "adamw",
        "weight_decay": 0.0, "precision": "fp32", "accumulate": distill.accumulate, "hard_weight": 0.0,
    }  # fmt: skip
    if job.data.task != "classification":
        return DistillConfig.model_validate(common | {"loss": "mse"})
    return DistillConfig.model_validate(common | {"loss": "kd", "temperature": distill.temperature})
