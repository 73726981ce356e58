"""The quantize stage: from the float student to a fake-quantized one."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from edgedistill.distill.loading import load_student, save_model
from edgedistill.models.build import load_weights
from edgedistill.quantize.escalate import Escalation, LayerTimer, Try, choose
from edgedistill.quantize.prepare import Prepared, layer_report, prepare
from edgedistill.quantize.settings import QuantizeSettings
from edgedistill.records.stages import QuantizedRecord
from edgedistill.runtime import processes
from edgedistill.stages.stage import Workspace


def quantize_student(settings: QuantizeSettings, workspace: Workspace, time_layers: LayerTimer) -> QuantizedRecord:
    """Quantize the student as [quantize] mode says, when any target wants int8; `time_layers` times single layers."""
    student = settings.float_student.student
    if not settings.is_asked_for:
        return QuantizedRecord(
            file=None, mode="none", val_accuracy=None, float_val_accuracy=student.val_accuracy, calibration_samples=0,
            parent=student.file.sha256,
        )  # fmt: skip
    quantize = settings.quantize
    model = load_student(settings.student, settings.interface, settings.seed, workspace.path(student.file))
    escalation = Escalation(settings, workspace, model, time_layers)
    tries: list[Try] = []
    for tried in escalation.tries():
        tries.append(tried)
        if quantize.mode == "auto" and tried.step.holds:
            break
    kept = choose(tries, quantize.mode)
    if not kept.step.holds:
        workspace.report.info(
            f"quantize: {kept.step.method} loses {kept.step.drop:+.2f} points of the float student on validation data, and "
            f"max_drop is {quantize.max_drop:g}: raise [quantize] epochs or max_drop, or ship the float model"
        )
    file = save_model(kept.model, workspace.folder("quantized") / "model.safetensors")
    if processes.is_main_process():
        for state in workspace.folder("quantized").glob("*-resume.pt"):
            state.unlink()
    return QuantizedRecord(
        file=workspace.describe(file), mode=kept.step.method, val_accuracy=kept.step.val_accuracy,
        float_val_accuracy=escalation.float_accuracy, calibration_samples=min(quantize.samples, settings.data.train),
        layers=layer_report(kept.model), activations=quantize.activations, skip=kept.step.float_layers,
        max_drop=quantize.max_drop, holds=kept.step.holds, steps=tuple(one.step for one in tries),
        sensitivity=escalation.measured_sensitivity(), parent=student.file.sha256,
    )  # fmt: skip


def load_quantized(student: nn.Module, example: tuple[Tensor, ...], record: QuantizedRecord, weights: Path) -> Prepared:
    """Return the fake-quantized student as the quantize stage left it, from the float student."""
    prepared = prepare(student, example, record.skip, record.activations)
    load_weights(prepared, weights)
    prepared.eval()
    return prepared
