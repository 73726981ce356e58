"""The quantize stage: from the float student to a fake-quantized one."""

from __future__ import annotations

import platform
from pathlib import Path

from torch import nn

from edgedistill.distill.student import build_student
from edgedistill.distill.teacher import save_model
from edgedistill.models.build import load_weights
from edgedistill.quantize.calibration import example_inputs
from edgedistill.quantize.escalate import Escalation, Try, choose
from edgedistill.quantize.prepare import layer_report, prepare
from edgedistill.records.stages import QuantizedRecord, StudentRecord
from edgedistill.runtime import processes
from edgedistill.runtime.job import Job


def quantize_student(job: Job) -> QuantizedRecord:
    """Quantize the student as [quantize] mode says, when any target wants int8."""
    config = job.config
    student = job.result("student", StudentRecord).student
    if config.quantize.mode == "none" or not any("int8" in target.precisions for target in config.target):
        return QuantizedRecord(
            file=None, mode="none", val_accuracy=None, float_val_accuracy=student.val_accuracy, calibration_samples=0,
            parent=student.file.sha256,
        )  # fmt: skip
    escalation = Escalation(job, load_student(job))
    tries: list[Try] = []
    for tried in escalation.tries():
        tries.append(tried)
        if config.quantize.mode == "auto" and tried.step.holds:
            break
    kept = choose(tries, config.quantize.mode)
    if not kept.step.holds:
        job.report.line(
            f"quantize: {kept.step.method} is not within {config.quantize.max_drop:g} points of the float student on "
            f"validation data, but at {kept.step.drop:+.2f}: raise [quantize] epochs or max_drop, or ship the float model"
        )
    _tell_of_unsigned(job)
    file = save_model(kept.model, job.folder("quantized") / "model.safetensors")
    if processes.is_first():
        for state in job.folder("quantized").glob("*-resume.pt"):
            state.unlink()
    return QuantizedRecord(
        file=job.run.ref(file), mode=kept.step.method, val_accuracy=kept.step.val_accuracy,
        float_val_accuracy=escalation.float_accuracy,
        calibration_samples=min(config.quantize.samples, len(job.dataset.train)), layers=layer_report(kept.model),
        activations=config.quantize.activations, skip=kept.step.float_layers, max_drop=config.quantize.max_drop, holds=kept.step.holds,
        steps=tuple(one.step for one in tries), sensitivity=escalation.measured_sensitivity(),
        parent=student.file.sha256,
    )  # fmt: skip


def _tell_of_unsigned(job: Job) -> None:
    """Say what another setting would win where every target is this machine, and would take it; warn where it would not."""
    targets = [target for target in job.config.target if "int8" in target.precisions]
    here = [target for target in targets if target.device == "local"]
    if job.config.quantize.activations == "unsigned":
        if here and platform.machine() == "x86_64" and not _has_vnni():
            job.report.line(
                "quantize: this processor has no VNNI: its engines cut off sums of unsigned activations, and answers can be "
                'wrong; set [quantize] activations = "signed"'
            )
        return
    taken = all(job.kits[target.kit].encoding_for(platform.machine()).startswith("u8") for target in here)
    if here == targets and taken and _has_vnni():
        job.report.line(
            'quantize: every target takes unsigned activations: [quantize] activations = "unsigned" is finer and faster '
            "behind a ReLU, in files that TensorRT does not take"
        )


def _has_vnni() -> bool:
    """Tell an x86 that multiplies unsigned by signed bytes into int32 at once; older ones add pairs in int16 first."""
    try:
        words = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not {"avx512_vnni", "avx_vnni"}.isdisjoint(words)


def load_student(job: Job) -> nn.Module:
    """Return the float student with its trained weights, in evaluation mode."""
    model = build_student(job.config, job.data)
    load_weights(model, job.run.path(job.result("student", StudentRecord).student.file))
    return model.eval()


def load_quantized(job: Job, record: QuantizedRecord) -> nn.Module:
    """Return the fake-quantized student as the quantize stage left it."""
    assert record.file is not None
    prepared = prepare(load_student(job), example_inputs(job), record.skip, record.activations)
    load_weights(prepared, job.run.path(record.file))
    return prepared.eval()
