"""The quantize stage: from the float student to a fake-quantized one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from edgedistill.config.schema import QuantizeConfig
from edgedistill.distill.loading import load_student, save_model
from edgedistill.models.weights import load_weights
from edgedistill.quantize.escalate import Escalation, choose
from edgedistill.quantize.prepare import Prepared, layer_report, prepare
from edgedistill.quantize.settings import QuantizeSettings
from edgedistill.quantize.timers import Services
from edgedistill.quantize.transformer import is_transformer, quantize_transformer
from edgedistill.quantize.usefulness import require_useful
from edgedistill.records.finding import Finding
from edgedistill.records.quantize_steps import Int8Speed, QuantizeStep
from edgedistill.records.stages import QuantizedRecord
from edgedistill.runtime import processes
from edgedistill.stages.stage import Workspace


def quantize_student(settings: QuantizeSettings, workspace: Workspace, services: Services) -> QuantizedRecord:
    """Quantize the student in the configured mode if any target has int8.

    A transformer gets the fastest form that holds; "auto" tries the other methods after that, if the inputs have one shape. With
    `skip`, which names modules of such a transformer, "auto" tries only them: a graph's layers have other names.
    """
    student = settings.float_student.student
    if not settings.enabled:
        return QuantizedRecord(
            file=None, mode="none", val_accuracy=None, float_val_accuracy=student.val_accuracy, calibration_samples=0,
            parent=student.file.sha256,
        )  # fmt: skip
    quantize = settings.quantize
    model = load_student(settings.student, settings.interface, settings.seed, workspace.path(student.file))
    earlier: tuple[QuantizeStep, ...] = ()
    if settings.graph is not None and (settings.varies or (is_transformer(model) and not quantize.skip)):
        record = quantize_transformer(settings, workspace, model, services)
        if settings.varies or record.holds or record.outcome == "does not pay":
            return record
        earlier = record.steps
    escalation = Escalation(settings, workspace, model, services.timers)
    attempts = list(escalation.attempts())
    kept = choose(attempts, quantize.mode)
    findings = require_useful(settings, workspace, model, kept.model)
    if escalation.does_not_pay:
        findings += (_unpaid(escalation.speeds),)
    workspace.report.info(str(findings[-1]) if escalation.does_not_pay else _conclusion(kept.step, quantize))
    file = save_model(kept.model, workspace.folder("quantized") / "model.safetensors")
    if processes.is_main_process():
        for state in workspace.folder("quantized").glob("*-resume.pt"):
            state.unlink()
    return QuantizedRecord(
        file=workspace.describe(file), mode=kept.step.method, val_accuracy=kept.step.val_accuracy,
        float_val_accuracy=escalation.float_accuracy, calibration_samples=min(quantize.samples, settings.data.train),
        layers=layer_report(kept.model), activations=quantize.scheme.activations,
        weights=quantize.scheme.weights, skip=kept.step.float_layers,
        max_drop=quantize.max_drop, holds=kept.step.holds, outcome="does not pay" if escalation.does_not_pay else kept.step.verdict,
        speeds=escalation.speeds, seconds=escalation.seconds, steps=(*earlier, *(one.step for one in attempts)),
        sensitivity=escalation.sensitivity, parent=student.file.sha256, findings=findings,
    )  # fmt: skip


def _unpaid(speeds: Sequence[Int8Speed]) -> Finding:
    """Return the warning that int8 is slower than float on every target."""
    ratios = ", ".join(
        f"{one.target} {one.latency_ratio:.2f} times the latency, {one.size_ratio:.2f} times the size" for one in speeds
    )
    text = (
        f"int8 does not pay: it is slower than float on every target with int8 ({ratios}); auto keeps the post-training model "
        'and tries no other method. Ship the float model, or set [quantize] mode = "qat" to fine-tune int8 all the same'
    )
    return Finding(severity="warning", subject=QuantizedRecord.stage, text=text)


def _conclusion(step: QuantizeStep, quantize: QuantizeConfig) -> str:
    """Return what is kept, and why nothing more was tried."""
    if not step.holds:
        more = 'set [quantize] mode = "auto", raise' if quantize.mode == "ptq" else "raise [quantize] epochs or"
        return (
            f"quantize: {step.method} loses {step.drop:+.2f} points against the float student on validation data, and "
            f"max_drop is {quantize.max_drop:g}: {more} max_drop, or ship the float model"
        )
    if step.verdict == "cannot tell":
        return f"quantize: {step.method} is kept, because its measured drop is within max_drop; more validation samples would make this certain"
    return f"quantize: {step.method} is kept: it loses at most max_drop {quantize.max_drop:g} points"


def load_quantized(student: nn.Module, example: tuple[Tensor, ...], record: QuantizedRecord, weights: Path) -> Prepared:
    """Rebuild the quantize stage's fake-quantized student from the float student and the saved weights."""
    prepared = prepare(student, example, record.skip, record.scheme)
    load_weights(prepared, weights)
    prepared.eval()
    return prepared
