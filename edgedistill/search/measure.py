"""Measure one untrained student on every target of a configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import onnx
import torch
from torch import nn

from edgedistill.compare.budget import check_budget
from edgedistill.config.schema import Budget, TargetConfig
from edgedistill.config.training import StudentConfig
from edgedistill.data.views import plain_views
from edgedistill.deploy.identity import form_on
from edgedistill.deploy.onnx_file import BenchOptions, bench_on_kits, prepare_onnx
from edgedistill.distill.loading import build_student
from edgedistill.distill.predictors import spatial_size
from edgedistill.distill.student import check_student
from edgedistill.export.baked import Baking, examples_of
from edgedistill.export.contract import contract_of
from edgedistill.export.description import describe_file
from edgedistill.export.forms import Variant, in_form
from edgedistill.export.onnx_export import export_onnx
from edgedistill.graphs.metadata import annotate
from edgedistill.graphs.write import save_onnx
from edgedistill.kits.kits import Form
from edgedistill.models.outputs import labelled_names, run
from edgedistill.models.source import StudentSource
from edgedistill.quantize.prepare import calibrate, prepare
from edgedistill.records.base import NO_FILE
from edgedistill.records.contract import JOIN
from edgedistill.records.measurement import Measurement
from edgedistill.records.stages import OnnxModel
from edgedistill.runtime.progress import Reporter
from edgedistill.search.records import Candidate, SearchOptions, TargetResult
from edgedistill.search.settings import SearchSettings
from edgedistill.statistics import speedup

CALIBRATION: Final = 32
"""Samples that the ranges of untrained students are taken from; their accuracy does not matter here."""
SECONDS_PER_P95_MS: Final = 0.1
"""Seconds of measurement per process for each millisecond of the p95 limit: 100 samples at that limit; p95 needs 72."""


class StudentBench:
    """Measures untrained students of a search on its targets, in a folder."""

    def __init__(self, settings: SearchSettings, options: SearchOptions, folder: Path, report: Reporter) -> None:
        self.settings, self.options, self.folder, self.report = settings, options, folder, report
        self.baking = Baking(settings.data, settings.views, settings.export.bake)

    def measure(self, plan: StudentConfig, parameters: int) -> Candidate:
        """Measure an untrained student in each precision on each target."""
        settings, source = self.settings, self.settings.student(plan)
        title = settings.title(plan)
        train = settings.dataset().train
        rows = np.arange(min(CALIBRATION, len(train)))
        samples = plain_views(train, settings.data, settings.views).batch(rows, rows * 0)
        check_student(settings, source, {name: x[:2] for name, x in samples.items()})
        model = _perturb_constants(build_student(source, settings.interface, settings.seed).eval())
        inputs, own = tuple(samples.values()), settings.own
        skip = settings.quantize.skip if (plan.model, plan.prune is None) == (own.model, own.prune is None) else ()
        prepared = prepare(model, tuple(x[:1] for x in inputs), skip, settings.quantize.scheme)
        calibrate(prepared, [inputs])
        forms = {"fp32": model, "fp16": model, "int8": prepared}
        folder = self.folder / folder_name(title)
        measured = tuple(
            one for target in settings.targets for one in self._on_target(_Forms(forms, source, target, folder))
        )
        candidate = Candidate(name=title, student=plan, parameters=parameters, measured=measured)
        shown = ", ".join(_shown(candidate.best_on(target.name)) for target in settings.targets)
        self.report.log_step(f"search: {title}: {shown}")
        return candidate

    def _on_target(self, forms: _Forms) -> Iterator[TargetResult]:
        """Yield an untrained student's measurement on one target in each of the target's precisions, which take turns."""
        target = forms.target
        kit = self.settings.kits[target.kit]
        form = form_on(kit, target.device)
        limits = target.budget.model_copy(update={"accuracy": None})
        bench_options = BenchOptions(
            device=target.device, threads=target.threads, processes=self.options.processes,
            seconds=max(self.options.seconds, SECONDS_PER_P95_MS * (limits.p95_ms or 0.0)),
            passes=("energy",) if limits.energy_mj is not None else (),
        )  # fmt: skip
        models = []
        for precision in target.precisions:
            place = forms.folder / f"{target.name}-{precision}"
            place.mkdir(parents=True, exist_ok=True)
            save_onnx(self._exported(forms, precision, form), place / "student.onnx")
            ready = prepare_onnx(place / "student.onnx", place / "onnx", {})
            models.append(ready.model_copy(update={"precision": precision}))
        measured = bench_on_kits(models, [kit], bench_options, forms.folder / target.name, self.report.debug)
        results = {model.precision: result for model, (_, _, result) in zip(models, measured, strict=True)}
        for precision, found in results.items():
            result = TargetResult(target=target.name, precision=precision, faster_than=_slower(precision, results))
            if isinstance(found, str):
                yield result.model_copy(update={"problem": found})
            else:
                yield check_limits(limits, found, result)

    def _exported(self, forms: _Forms, precision: str, form: Form) -> onnx.ModelProto:
        requests = self.baking.inputs(self.settings.dataset().val.first(CALIBRATION))
        batch = plain_views(self.settings.dataset().val.first(1), self.settings.data, self.settings.views)
        first = np.zeros(1, np.int64)
        whole = self.settings.task.exported(forms.models[precision], spatial_size(batch))
        with torch.no_grad():
            outputs = run(whole, batch.batch(first, first))
        wanted = self.settings.task.exported_output or self.settings.data.output
        names, labelled = self.baking.names(outputs), labelled_names(tuple(outputs), wanted)
        opset = self.settings.export.opset or form.opset
        module = self.baking.module(whole, names, labelled[0]).eval()
        written = export_onnx(module, examples_of(requests), opset, tuple(requests), tuple(names.values()))
        variant = Variant(precision, form.encoding if precision == "int8" else None, opset)
        formed, kept = in_form(written, variant, requests)
        record = OnnxModel(
            name="student", precision=precision, encoding=variant.encoding, opset=opset, file=NO_FILE, io=NO_FILE, expected=None,
            parity=None, float32_nodes=kept, output=JOIN.join(names[one] for one in labelled), threshold=self.baking.threshold, parent="",
        )  # fmt: skip
        record = record.model_copy(
            update={"contract": contract_of(self.settings, record, forms.source.model or forms.source.teacher)}
        )
        annotate(formed, describe_file(self.settings, record, self._lineage))
        return formed

    @property
    def _lineage(self) -> dict[str, str]:
        """Hashes in place of those of the teachers and the student, which are not made yet, so that a file has its final size."""
        others = (f"teacher{number}" for number in range(2, self.settings.teachers + 1))
        return dict.fromkeys(("teacher", *others, "student"), self.settings.data.fingerprint)


class _Forms(NamedTuple):
    """A student in each precision and its source, the target to measure it on, and the folder for its files."""

    models: Mapping[str, nn.Module]
    source: StudentSource
    target: TargetConfig
    folder: Path


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


def _slower(precision: str, results: Mapping[str, Measurement | str]) -> tuple[str, ...]:
    """Return the precisions that are slower than one, beyond the 95 % interval of their ratio."""
    own = results[precision]
    others = ((name, other) for name, other in results.items() if isinstance(other, Measurement) and name != precision)
    if isinstance(own, str):
        return ()
    return tuple(name for name, other in others if speedup(other, own).verdict == "faster")


def check_limits(limits: Budget, measurement: Measurement, result: TargetResult) -> TargetResult:
    """Compare a measurement with limits; a p95 limit inside the 95 % interval of the p95 is not decided.

    A median above the p95 limit exceeds it even if there are too few samples for a p95.
    """
    p50, p95 = measurement.latency_ns.p50, measurement.latency_ns.p95
    measured = result.model_copy(update={"p50_ns": p50, "p95_ns": p95, "size_bytes": measurement.size_bytes})
    undecided = _undecided(limits, measurement)
    check = check_budget(measurement, limits.model_copy(update={"p95_ms": None}) if undecided else limits)
    exceeded, unknown = ((), ()) if check is None else (check.exceeded, check.unknown)
    if p95 is None and limits.p95_ms is not None and p50 / 1e6 > limits.p95_ms:
        exceeded = (f"p95, because p50 {p50 / 1e6:.3g} ms > {limits.p95_ms:g} ms", *exceeded)
    unknown = (*undecided, *unknown)
    has_limits = check is not None or undecided
    fits = False if exceeded else None if unknown or not has_limits else True
    return measured.model_copy(update={"fits": fits, "exceeded": exceeded, "unknown": unknown})


def _undecided(limits: Budget, measurement: Measurement) -> tuple[str, ...]:
    """Return why a p95 limit is not decided, as a tuple of one line; empty if it is, or if there is none."""
    interval, p95 = measurement.latency_ns.ci95.get("p95"), measurement.latency_ns.p95
    if limits.p95_ms is None or p95 is None or interval is None:
        return ()
    low, high = (end / 1e6 for end in interval)
    if not low <= limits.p95_ms < high:
        return ()
    return (f"p95: {p95 / 1e6:.3g} ms ({low:.3g} to {high:.3g}) cannot tell whether it is within {limits.p95_ms:g} ms",)


def folder_name(name: str) -> str:
    """Return a student's name as a folder name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
