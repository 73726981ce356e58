"""Measure one untrained student on every target of a configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from torch import nn

from edgedistill.compare.budget import check_budget
from edgedistill.config.schema import Budget, TargetConfig
from edgedistill.config.training import StudentConfig
from edgedistill.data.dataset import Split
from edgedistill.data.views import plain_views
from edgedistill.deploy.onnx_file import BenchOptions, bench_onnx, prepare_onnx
from edgedistill.deploy.stage import form_on
from edgedistill.distill.student import build_student, check_student, student_name
from edgedistill.errors import DeviceError
from edgedistill.export.forms import Variant, in_form
from edgedistill.export.onnx_export import export_onnx, save_onnx
from edgedistill.export.stage import baked, recorded_inputs
from edgedistill.kits.kits import Form
from edgedistill.quantize.prepare import Prepared, calibrate, prepare
from edgedistill.records.measurement import Measurement
from edgedistill.runtime.job import Job
from edgedistill.search.families import with_student
from edgedistill.search.records import Candidate, SearchOptions, TargetResult

CALIBRATION: Final = 32
"""Samples that the ranges of untrained students are taken from; their accuracy does not matter here."""
SECONDS_PER_P95_MS: Final = 0.1
"""Seconds of measurement per process for each millisecond of the p95 limit: 100 samples at that limit; p95 needs 72."""


def measure_student(job: Job, student: StudentConfig, parameters: int, options: SearchOptions) -> Candidate:
    """Measure an untrained student in each precision on each target of the configuration."""
    config = with_student(job.config, student)
    name = student_name(config) + (f" x{student.width:g}" if student.width != 1 else "")
    rows = np.arange(min(CALIBRATION, len(job.dataset.train)))
    samples = plain_views(job.dataset.train, job.data, config).batch(rows, rows * 0)
    check_student(config, job.data, samples[:2])
    model = _perturb_constants(build_student(config, job.data).eval())
    own = job.config.student
    skip = config.quantize.skip if (student.model, student.prune is None) == (own.model, own.prune is None) else ()
    prepared = prepare(model, (samples[:1],), skip, config.quantize.activations)
    calibrate(prepared, [(samples,)])
    forms = {"fp32": model, "fp16": model, "int8": prepared}
    folder = job.folder("search") / folder_name(name)
    measured = tuple(one for target in config.target for one in _target_results(job, forms, target, options, folder))
    candidate = Candidate(name=name, student=student, parameters=parameters, measured=measured)
    shown = ", ".join(_shown(candidate.best_on(target.name)) for target in config.target)
    job.report.detail(f"search: {name}: {shown}")
    return candidate


@torch.no_grad()
def _perturb_constants(model: nn.Module) -> nn.Module:
    """Add noise to constant tensors such as new biases: an exporter drops a bias of zeros, but keeps a trained bias."""
    generator = torch.Generator().manual_seed(0)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and tensor.numel() and (tensor == tensor.flatten()[0]).all():
            tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
    return model


def _shown(one: TargetResult) -> str:
    if one.problem is not None:
        return f"{one.target} {one.precision} failed"
    return f"{one.target} {one.precision} {'fits' if one.is_within else '; '.join(one.exceeded or one.unknown)}"


def _target_results(
    job: Job, forms: Mapping[str, nn.Module | Prepared], target: TargetConfig, options: SearchOptions, folder: Path
) -> Iterator[TargetResult]:
    """Yield an untrained student's measurement on one target in each of the target's precisions."""
    kit, form = job.kits[target.kit], form_on(job.kits[target.kit], target.device)
    limits = target.budget.model_copy(update={"accuracy": None})
    passes = ("energy",) if limits.energy_mj is not None else ()
    seconds = max(options.seconds, SECONDS_PER_P95_MS * (limits.p95_ms or 0.0))
    bench_options = BenchOptions(
        device=target.device, threads=target.threads, processes=options.processes, seconds=seconds, passes=passes
    )
    for precision in target.precisions:
        place = folder / f"{target.name}-{precision}"
        place.mkdir(parents=True, exist_ok=True)
        save_onnx(_exported(job, forms[precision], precision, form), place / "student.onnx")
        ready = prepare_onnx(place / "student.onnx", place / "onnx", {}).model_copy(update={"precision": precision})
        try:
            found = bench_onnx(ready, kit, bench_options, place, job.report.aside)
        except DeviceError as error:
            yield TargetResult(target=target.name, precision=precision, problem=str(error))
            continue
        yield check_limits(limits, found, TargetResult(target=target.name, precision=precision))


def check_limits(limits: Budget, found: Measurement, result: TargetResult) -> TargetResult:
    """Compare a measurement with limits; a median above the p95 limit exceeds it even if too few samples give no p95."""
    check, p50, p95 = check_budget(found, limits), found.latency_ns.p50, found.latency_ns.p95
    measured = result.model_copy(update={"p50_ns": p50, "p95_ns": p95, "size_bytes": found.size_bytes})
    if check is None:
        return measured
    exceeded = check.exceeded
    if p95 is None and limits.p95_ms is not None and p50 / 1e6 > limits.p95_ms:
        exceeded = (f"p95, because p50 {p50 / 1e6:.3g} ms > {limits.p95_ms:g} ms", *exceeded)
    fits = False if exceeded else check.fits
    return measured.model_copy(update={"fits": fits, "exceeded": exceeded, "unknown": check.unknown})


def _exported(job: Job, model: nn.Module, precision: str, form: Form) -> onnx.ModelProto:
    val = job.dataset.val
    requests = recorded_inputs(job, Split(val.inputs, val.rows[:CALIBRATION], val.labels[:CALIBRATION]))
    opset = job.config.export.opset or form.opset
    written = export_onnx(baked(job, model).eval(), (torch.from_numpy(requests[0]),), opset)
    variant = Variant(precision, form.encoding if precision == "int8" else None, opset)
    return in_form(written, variant, {written.graph.input[0].name: requests})[0]


def folder_name(name: str) -> str:
    """Return a student's name as a folder name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
