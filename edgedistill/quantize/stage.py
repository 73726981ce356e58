"""The quantize stage: from the float student to a fake-quantized one."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from edgedistill.distill.loading import load_student, save_model
from edgedistill.models.build import load_weights
from edgedistill.quantize.escalate import Attempt, Escalation, LayerTimer, choose
from edgedistill.quantize.prepare import Prepared, layer_report, prepare
from edgedistill.quantize.settings import QuantizeSettings
from edgedistill.quantize.usefulness import require_useful
from edgedistill.records.stages import QuantizedRecord
from edgedistill.runtime import processes
from edgedistill.stages.stage import Workspace


def quantize_student(settings: QuantizeSettings, workspace: Workspace, time_layers: LayerTimer) -> QuantizedRecord:
    """Quantize the student in the configured mode if any target has int8; `time_layers` times single layers."""
    student = settings.float_student.student
    if not settings.enabled:
        return QuantizedRecord(
            file=None, mode="none", val_accuracy=None, float_val_accuracy=student.val_accuracy, calibration_samples=0,
            parent=student.file.sha256,
        )  # fmt: skip
    quantize = settings.quantize
    model = load_student(settings.student, settings.interface, settings.seed, workspace.path(student.file))
    escalation = Escalation(settings, workspace, model, time_layers)
    attempts: list[Attempt] = []
    for attempt in escalation.attempts():
        attempts.append(attempt)
        if quantize.mode == "auto" and attempt.step.holds:
            break
    kept = choose(attempts, quantize.mode)
    if not kept.step.holds:
        workspace.report.info(
            f"quantize: {kept.step.method} loses {kept.step.drop:+.2f} points against the float student on validation "
            f"data, and max_drop is {quantize.max_drop:g}: raise [quantize] epochs or max_drop, or ship the float model"
        )
    findings = require_useful(settings, workspace, model, kept.model)
    file = save_model(kept.model, workspace.folder("quantized") / "model.safetensors")
    if processes.is_main_process():
        for state in workspace.folder("quantized").glob("*-resume.pt"):
            state.unlink()
    return QuantizedRecord(
        file=workspace.describe(file), mode=kept.step.method, val_accuracy=kept.step.val_accuracy,
        float_val_accuracy=escalation.float_accuracy, calibration_samples=min(quantize.samples, settings.data.train),
        layers=layer_report(kept.model), activations=quantize.activations, skip=kept.step.float_layers,
        max_drop=quantize.max_drop, holds=kept.step.holds, steps=tuple(one.step for one in attempts),
        sensitivity=escalation.measured_sensitivity(), parent=student.file.sha256,
        findings=findings,
    )  # fmt: skip


def load_quantized(student: nn.Module, example: tuple[Tensor, ...], record: QuantizedRecord, weights: Path) -> Prepared:
    """Rebuild the quantize stage's fake-quantized student from the float student and the saved weights."""
    prepared = prepare(student, example, record.skip, record.activations)
    load_weights(prepared, weights)
    prepared.eval()
    return prepared
