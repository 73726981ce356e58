"""The quantize stage: from the float student to a fake-quantized one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from edgedistill.data.tasks import TASKS
from edgedistill.data.views import plain_views
from edgedistill.distill.predictors import BATCH, predict_split, torch_predictor
from edgedistill.distill.student import build_student
from edgedistill.distill.teacher import save_model
from edgedistill.errors import ConfigError
from edgedistill.job import Job
from edgedistill.models.build import load_weights
from edgedistill.quantize.prepare import calibrate, layer_report, prepare
from edgedistill.records import QuantizedRecord, StudentRecord


def quantize_student(job: Job) -> QuantizedRecord:
    """Quantize the student after training, with ranges from training inputs, when any target wants int8."""
    config = job.config
    student = job.result("student", StudentRecord).student
    if config.quantize.mode == "none" or not any("int8" in target.precisions for target in config.target):
        return QuantizedRecord(
            file=None, mode="none", val_accuracy=None, float_val_accuracy=student.val_accuracy, calibration_samples=0,
            parent=student.file.sha256,
        )  # fmt: skip
    prepared = prepare(load_student(job), example_input(job), config.quantize.skip)
    samples = calibrate(prepared, _calibration_batches(job), config.quantize.ranges)
    val = plain_views(job.dataset.val, job.data, config)
    accuracy = TASKS[job.data.task].score(predict_split(torch_predictor(prepared, "fp32"), val), job.dataset.val.labels)
    job.report.line(
        f"quantize: {samples} training inputs, validation {TASKS[job.data.task].shown} {accuracy:.2%}, "
        f"float {student.val_accuracy:.2%}"
    )
    return QuantizedRecord(
        file=job.run.ref(save_model(prepared, job.folder("quantized") / "model.safetensors")), mode="ptq",
        val_accuracy=accuracy, float_val_accuracy=student.val_accuracy, calibration_samples=samples,
        layers=layer_report(prepared), parent=student.file.sha256,
    )  # fmt: skip


def load_student(job: Job) -> nn.Module:
    """Return the float student with its trained weights, in evaluation mode."""
    model = build_student(job.config, job.data)
    load_weights(model, job.run.path(job.result("student", StudentRecord).student.file))
    return model.eval()


def load_quantized(job: Job, record: QuantizedRecord) -> nn.Module:
    """Return the fake-quantized student as the quantize stage left it."""
    assert record.file is not None
    prepared = prepare(load_student(job), example_input(job), job.config.quantize.skip)
    load_weights(prepared, job.run.path(record.file))
    return prepared.eval()


def example_input(job: Job) -> Tensor:
    """Return one model input (1, ...), a training sample."""
    views = plain_views(job.dataset.train, job.data, job.config)
    return views.batch(np.zeros(1, np.int64), np.zeros(1, np.int64))


def _calibration_batches(job: Job) -> Iterator[Tensor]:
    split = job.dataset.train
    order = np.random.Generator(np.random.Philox(key=[job.config.seed, 0])).permutation(len(split))
    chosen = np.sort(order[: job.config.quantize.samples])
    if not len(chosen):
        raise ConfigError("quantize.samples: calibration needs training inputs; set it to 512, for example")
    views = plain_views(split, job.data, job.config)
    with torch.no_grad():
        for start in range(0, len(chosen), BATCH):
            block = chosen[start : start + BATCH]
            yield views.batch(block, np.zeros_like(block))
