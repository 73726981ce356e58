"""Students that fit the budget of every target, measured there before any of them is trained.

What a network takes on a device does not depend on its weights. So the sizes of each family are tried by bisection, untrained: each
is exported, quantized, compiled and measured as the pipeline does it. The largest of a family that fits is worth a training.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from torch import nn

from edgedistill.compare.budget import check_budget
from edgedistill.config.schema import Budget, Config, TargetConfig
from edgedistill.config.training import StudentConfig
from edgedistill.data.dataset import Split
from edgedistill.data.views import plain_views
from edgedistill.deploy.onnx_file import BenchOptions, bench_onnx, prepare_onnx
from edgedistill.deploy.stage import form_on
from edgedistill.distill.cache import link_or_copy
from edgedistill.distill.student import build_student, check_student, student_name
from edgedistill.distill.teacher import build_teacher
from edgedistill.errors import ConfigError, DeviceError, EdgedistillError
from edgedistill.export.forms import Variant, in_form
from edgedistill.export.onnx_export import export_onnx, save_onnx
from edgedistill.export.stage import baked, recorded_inputs
from edgedistill.kits.kits import Form
from edgedistill.models.build import ZOO, count_parameters
from edgedistill.pipeline.pipeline import Plan, run_pipeline
from edgedistill.quantize.prepare import Prepared, calibrate, prepare
from edgedistill.records.base import Record
from edgedistill.records.measurement import Measurement
from edgedistill.records.stages import StudentRecord
from edgedistill.runtime import processes
from edgedistill.runtime.files import write_json
from edgedistill.runtime.folder import Run
from edgedistill.runtime.job import Job

SCHEMA: Final = "edgedistill.search/1"
WIDTHS: Final = (0.125, 0.1875, 0.25, 0.375, 0.5, 0.75, 1.0, 1.5, 2.0)
PRUNED: Final = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
CALIBRATION: Final = 32
"""Samples that untrained students take their ranges from: the integers must be there, and need not be right."""
TAKEN_OVER: Final = ("data", "teacher", "soft_labels")
"""The stages that a run for a finalist takes over from the run of the search."""
SECONDS_PER_P95_MS: Final = 0.1
"""So long a process measures for each millisecond of the limit: a hundred samples of a model at it, as p95 needs 72."""


class Wishes(Record):
    """What is asked for beside the configuration: families, how long to measure, and for how many epochs to train."""

    models: tuple[str, ...] = ()
    processes: int = 3
    seconds: float = 0.5
    epochs: int = 0


class OnTarget(Record):
    """A student in one precision on one target; `problem` is what the engine said where it failed.

    `fits` is None where no limit is exceeded and some could not be checked; `unknown` says which and why.
    """

    target: str
    precision: str
    p50_ns: float | None = None
    p95_ns: float | None = None
    size_bytes: int | None = None
    fits: bool | None = None
    exceeded: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def is_within(self) -> bool:
        """Tell whether it ran, and is known to exceed no limit."""
        return self.problem is None and self.fits is not False and not self.unknown


class Candidate(Record):
    """A student that was measured; `val_accuracy` is the task's metric after a short training, where there was one."""

    name: str
    student: StudentConfig
    parameters: int
    measured: tuple[OnTarget, ...]
    val_accuracy: float | None = None

    @property
    def fits(self) -> bool:
        """Tell whether each target has a precision that is within its budget."""
        targets = {one.target for one in self.measured}
        return targets == {one.target for one in self.measured if one.is_within}

    def best_on(self, target: str) -> OnTarget:
        """Return the fastest precision that is within a target's budget or, where none is, the fastest."""
        found = [one for one in self.measured if one.target == target]
        return min(found, key=lambda one: (not one.is_within, one.p95_ns or one.p50_ns or float("inf")))


class Found(Record):
    """All that was measured, the largest of each family that fits (best first), and why families were left out."""

    candidates: tuple[Candidate, ...]
    fitting: tuple[Candidate, ...]
    left_out: tuple[str, ...]
    epochs: int

    def to_json(self) -> str:
        """Return the result as JSON of schema edgedistill.search/1."""
        return json.dumps({"schema": SCHEMA, **self.model_dump(mode="json")}, indent=2)


def search(job: Job, wishes: Wishes) -> Found:
    """Measure sizes of each family on the job's targets, write search.json, and return what fits.

    Args:
        job: a job whose data are loaded; for a training of the finalists its soft labels are made, once there are some.
        wishes: what else is asked for.

    Raises:
        ConfigError: no target has a budget that can be checked, a model that was named does not take the data, or there are
            several processes.
        DeviceError: a device cannot be reached, lacks its engine, or runs no family, or not one that was named.
    """
    require_budget(job.config)
    if processes.count() > 1:
        raise ConfigError("search measures, which several processes would disturb: run it without accelerate launch")
    for target in job.config.target:  # a device that cannot be reached is known of before the first measurement
        form_on(job.kits[target.kit], target.device)
    ladders, left_out = _ladders(job, wishes)
    candidates, fitting, problems = list[Candidate](), list[Candidate](), list[EdgedistillError]()
    for family, sizes in ladders.items():
        try:
            tried = _tried(job, family, sizes, wishes)
        except (ConfigError, DeviceError) as error:
            if family in wishes.models:
                raise
            problems.append(error)
            left_out.append(f"{family}: {error}")
            continue
        candidates += tried
        within = [candidate for candidate in tried if candidate.fits]
        fitting += [max(within, key=lambda candidate: candidate.parameters)] if within else []
    if problems and not candidates:
        raise problems[0]
    if wishes.epochs and fitting:
        job = run_pipeline(job.config, job.run, job.kits, job.report, Plan("soft_labels"))
        fitting = [_trained(job, candidate, wishes.epochs) for candidate in fitting]
    fitting.sort(key=lambda candidate: (candidate.val_accuracy or 0.0, candidate.parameters), reverse=True)
    found = Found(candidates=tuple(candidates), fitting=tuple(fitting), left_out=tuple(left_out), epochs=wishes.epochs)
    write_json(job.folder("search") / "search.json", json.loads(found.to_json()))
    return found


def _ladders(job: Job, wishes: Wishes) -> tuple[dict[str, list[tuple[StudentConfig, int]]], list[str]]:
    """Return the sizes of each family, and why families have none; one that was named has to have some."""
    teacher, ladders, left_out = _teacher_parameters(job), dict[str, list[tuple[StudentConfig, int]]](), list[str]()
    for family in dict.fromkeys(wishes.models or _families(job)):
        try:
            sizes = _sizes(job, family, teacher)
        except ConfigError as error:
            if family in wishes.models:
                raise
            left_out.append(f"{family}: {error}")
            continue
        ladders[family] = sizes
    return ladders, left_out


def require_budget(config: Config) -> None:
    """Raise ConfigError where no target has a limit that can be checked before a training."""
    limits = [target.budget.model_dump(exclude={"accuracy"}, exclude_none=True) for target in config.target]
    if not any(limits):
        raise ConfigError(
            "search: no [[target]] has a limit of latency, size, memory or energy; give one, for example "
            "budget = { p95_ms = 5.0, size_bytes = 200_000 }"
        )


def _families(job: Job) -> list[str]:
    """Return the zoo's layouts that take the data, the user's own student, and the pruned teacher where it can be pruned."""
    own = job.config.student.model
    named = [own] if own is not None and not own.startswith("zoo:") else []
    named += [f"zoo:{name}" for name, (_, kinds) in ZOO.items() if job.data.kind in kinds]
    return named + (["prune"] if _is_module(job.config) else [])


def _is_module(config: Config) -> bool:
    return Path(config.teacher.model).suffix not in (".onnx", ".npy")


def _teacher_parameters(job: Job) -> float:
    """Return how many parameters the teacher has, infinity where only its outputs are known."""
    return count_parameters(build_teacher(job.config, job.data)) if _is_module(job.config) else float("inf")


def _sizes(job: Job, family: str, most: float) -> list[tuple[StudentConfig, int]]:
    """Return a family's sizes below `most` parameters with their number of parameters, the smallest first."""
    own = job.config.student
    plain = own if own.model == family else StudentConfig(model=family) if family != "prune" else None
    if plain is None:
        plans = [StudentConfig(prune=part) for part in PRUNED]
    else:
        widths = WIDTHS if _has_width(job, family) else (1.0,)
        plans = [plain.model_copy(update={"width": width}) for width in widths]
    counted = {plan: count_parameters(build_student(_with(job.config, plan), job.data)) for plan in plans}
    sizes = sorted({count: plan for plan, count in counted.items() if count < most}.items())
    if not sizes:
        raise ConfigError(f"even the smallest has {min(counted.values()):,} parameters, and the teacher {most:,.0f}")
    return [(plan, count) for count, plan in sizes]


def _has_width(job: Job, family: str) -> bool:
    try:
        build_student(_with(job.config, StudentConfig(model=family, width=0.5)), job.data)
    except ConfigError as error:
        if "takes no width" not in str(error):
            raise
        return False
    return True


def _with(config: Config, student: StudentConfig) -> Config:
    return config.model_copy(update={"student": student})


def _tried(job: Job, family: str, sizes: Sequence[tuple[StudentConfig, int]], wishes: Wishes) -> list[Candidate]:
    """Return what was measured on the way to the largest size that fits."""
    tried: list[Candidate] = []
    with job.report.track(family, len(sizes).bit_length()) as advance:

        def fits(place: int) -> bool:
            tried.append(_measured(job, *sizes[place], wishes))
            advance(1, tried[-1].name)
            _require_answers(tried[-1])
            return tried[-1].fits

        bisect(len(sizes), fits)
    return tried


def _require_answers(candidate: Candidate) -> None:
    """Raise DeviceError where a target ran no precision: that is a failure, and says nothing of the size."""
    for target in {one.target for one in candidate.measured}:
        problems = [one.problem for one in candidate.measured if one.target == target]
        if all(problems):
            raise DeviceError(f"{candidate.name} on {target}: {problems[0]}")


def bisect(count: int, fits: Callable[[int], bool]) -> int | None:
    """Return the last of `count` places that fits, None where none does; what follows one that does not is taken not to."""
    low, high = -1, count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return None if low < 0 else low


def _measured(job: Job, student: StudentConfig, parameters: int, wishes: Wishes) -> Candidate:
    config = _with(job.config, student)
    name = student_name(config) + (f" x{student.width:g}" if student.width != 1 else "")
    rows = np.arange(min(CALIBRATION, len(job.dataset.train)))
    samples = plain_views(job.dataset.train, job.data, config).batch(rows, rows * 0)
    check_student(config, job.data, samples[:2])
    model = _as_if_trained(build_student(config, job.data).eval())
    own = job.config.student
    skip = config.quantize.skip if (student.model, student.prune is None) == (own.model, own.prune is None) else ()
    prepared = prepare(model, samples[:1], skip, config.quantize.activations)
    calibrate(prepared, [samples])
    forms = {"fp32": model, "fp16": model, "int8": prepared}
    folder = job.folder("search") / _slug(name)
    measured = tuple(one for target in config.target for one in _on_target(job, forms, target, wishes, folder))
    candidate = Candidate(name=name, student=student, parameters=parameters, measured=measured)
    shown = ", ".join(_shown(candidate.best_on(target.name)) for target in config.target)
    job.report.detail(f"search: {name}: {shown}")
    return candidate


@torch.no_grad()
def _as_if_trained(model: nn.Module) -> nn.Module:
    """Move what initialisation leaves all alike, as norms and biases: an exporter drops a bias of 0, and a trained one stays."""
    generator = torch.Generator().manual_seed(0)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and tensor.numel() and (tensor == tensor.flatten()[0]).all():
            tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
    return model


def _shown(one: OnTarget) -> str:
    if one.problem is not None:
        return f"{one.target} {one.precision} failed"
    return f"{one.target} {one.precision} {'fits' if one.is_within else '; '.join(one.exceeded or one.unknown)}"


def _on_target(
    job: Job, forms: Mapping[str, nn.Module | Prepared], target: TargetConfig, wishes: Wishes, folder: Path
) -> Iterator[OnTarget]:
    """Yield an untrained student's measurement on a target in each of its precisions."""
    kit, form = job.kits[target.kit], form_on(job.kits[target.kit], target.device)
    limits = target.budget.model_copy(update={"accuracy": None})
    passes = ("energy",) if limits.energy_mj is not None else ()
    seconds = max(wishes.seconds, SECONDS_PER_P95_MS * (limits.p95_ms or 0.0))
    options = BenchOptions(
        device=target.device, threads=target.threads, processes=wishes.processes, seconds=seconds, passes=passes
    )
    for precision in target.precisions:
        place = folder / f"{target.name}-{precision}"
        place.mkdir(parents=True, exist_ok=True)
        save_onnx(_exported(job, forms[precision], precision, form), place / "student.onnx")
        ready = prepare_onnx(place / "student.onnx", place / "onnx", {}).model_copy(update={"precision": precision})
        try:
            found = bench_onnx(ready, kit, options, place, job.report.aside)
        except DeviceError as error:
            yield OnTarget(target=target.name, precision=precision, problem=str(error))
            continue
        yield held_against(limits, found, OnTarget(target=target.name, precision=precision))


def held_against(limits: Budget, found: Measurement, place: OnTarget) -> OnTarget:
    """Return what was measured, held against limits; where too few samples give no p95, the median may exceed its limit."""
    check, p50, p95 = check_budget(found, limits), found.latency_ns.p50, found.latency_ns.p95
    measured = place.model_copy(update={"p50_ns": p50, "p95_ns": p95, "size_bytes": found.size_bytes})
    if check is None:
        return measured
    exceeded = check.exceeded
    if p95 is None and limits.p95_ms is not None and p50 / 1e6 > limits.p95_ms:
        exceeded = (f"p95, as p50 {p50 / 1e6:.3g} ms > {limits.p95_ms:g} ms", *exceeded)
    fits = False if exceeded else check.fits
    return measured.model_copy(update={"fits": fits, "exceeded": exceeded, "unknown": check.unknown})


def _exported(job: Job, model: nn.Module, precision: str, form: Form) -> onnx.ModelProto:
    val = job.dataset.val
    requests = recorded_inputs(job, Split(val.inputs, val.rows[:CALIBRATION], val.labels[:CALIBRATION]))
    opset = job.config.export.opset or form.opset
    written = export_onnx(baked(job, model).eval(), torch.from_numpy(requests[0]), opset)
    variant = Variant(precision, form.encoding if precision == "int8" else None, opset)
    return in_form(written, variant, {written.graph.input[0].name: requests})[0]


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")


def _trained(job: Job, candidate: Candidate, epochs: int) -> Candidate:
    """Distil a candidate for a few epochs, from the soft labels of the search's run, in a run folder of its own."""
    plan = job.config.distill.model_copy(update={"epochs": epochs, "control": False, "seeds": 1})
    config = _with(job.config, candidate.student).model_copy(update={"distill": plan})
    folder = job.folder("search") / _slug(candidate.name) / "run"
    run = Run(folder)
    for stage in TAKEN_OVER:
        run.stages[stage] = job.run.stages[stage]
        if (job.run.folder / stage).is_dir():
            shutil.copytree(job.run.folder / stage, folder / stage, copy_function=_link, dirs_exist_ok=True)
    trained = run_pipeline(config, run, job.kits, job.report, Plan("student"))
    accuracy = trained.result("student", StudentRecord).student.val_accuracy
    return candidate.model_copy(update={"val_accuracy": accuracy})


def _link(source: str, target: str) -> None:
    link_or_copy(Path(source), Path(target))
