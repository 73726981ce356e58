"""What each stage will take: seconds, disk and memory, measured on a few batches or computed; None with a reason otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

from pydantic import Field

from edgedistill.config.schema import Config
from edgedistill.errors import EdgedistillError
from edgedistill.pipeline.opening import bench_time
from edgedistill.pipeline.pipeline import Step
from edgedistill.records.base import Record
from edgedistill.records.stage_names import (
    BENCH,
    COMPILE,
    DATA,
    DISTILL,
    EXPORT,
    QUANTIZE,
    REPORT,
    SOFT_LABELS,
    TEACHER,
)
from edgedistill.runtime.memory import resident_bytes
from edgedistill.runtime.progress import Advance
from edgedistill.stages.stage import Sources

if TYPE_CHECKING:
    from edgedistill.distill.pace import Pace, Paces
    from edgedistill.distill.settings import DistillPlan, TeacherSettings
    from edgedistill.pipeline.space import Space

FAKE_INT8: Final = 3.0
"""How many times as long a pass of the student takes with every tensor rounded; 2.2 to 3.4 on CNNs and transformers."""
NOT_EXPORTED: Final = "not known before the export"
NOT_COMPILED: Final = "depends on the engine: seconds on a PC, minutes with TensorRT"
NOT_HERE: Final = "not known before the models are measured on the device"
SMALL: Final = "small"
UNMEASURED: Final = "not measured"
FIGURES: Final = ("seconds", "disk_bytes", "memory_bytes")


class Estimate(Record):
    """What a stage will take; `basis` says what an estimate is made from, `reasons` why a figure is None.

    `seconds` and `memory_bytes` are of this machine; `disk_bytes` is what the stage leaves, in the run folder and in the cache.
    `last_seconds` is the duration of the stage in its last run. A stage that is cached takes nothing.
    """

    stage: str
    cached: bool
    seconds: float | None = None
    last_seconds: float | None = None
    disk_bytes: int | None = None
    memory_bytes: int | None = None
    basis: str | None = None
    reasons: dict[str, str] = Field(default_factory=dict)


class Taken(NamedTuple):
    """Seconds and memory of a stage, and what they are made from."""

    seconds: float
    memory_bytes: int | None
    basis: str


def estimate(sources: Sources, steps: Sequence[Step], loading_s: float, advance: Advance) -> tuple[Estimate, ...]:
    """Estimate each stage of a plan; the checks must have found no error of data, models and loss.

    `sources` has the record of the data, `loading_s` is how long the data took to load, and `advance` is called for each stage.
    Nothing is written.
    """
    from edgedistill.distill.settings import declare_plan, declare_teacher
    from edgedistill.pipeline.space import sizes_of, space_of

    plan, teachers = declare_plan(sources), declare_teacher(sources)
    spaces = space_of(sources.config, sizes_of(plan), plan.distill.views)
    takes = _Takes(sources.config, plan, teachers, loading_s)
    stages = []
    for step in steps:
        advance(1, step.stage)
        stages.append(_estimate(step, takes, spaces.get(step.stage)))
    return tuple(stages)


def not_estimated(steps: Sequence[Step], reason: str) -> tuple[Estimate, ...]:
    """Return the stages of a plan without figures."""
    return tuple(
        Estimate(
            stage=step.stage, cached=step.cached, last_seconds=step.seconds, reasons=dict.fromkeys(FIGURES, reason)
        )
        for step in steps
    )


def _estimate(step: Step, takes: _Takes, space: Space | None) -> Estimate:
    whole = Estimate(stage=step.stage, cached=step.cached, last_seconds=step.seconds)
    if step.cached:
        return whole.model_copy(update={"seconds": 0.0, "disk_bytes": 0, "memory_bytes": 0, "basis": "cached"})
    try:
        taken = takes.of(step.stage)
    except (EdgedistillError, RuntimeError, ValueError, TypeError) as error:
        taken = f"not measured: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    disk = 0 if step.stage == DATA else None if space is None else space.kept_bytes
    reasons = {} if disk is not None else {"disk_bytes": SMALL}
    if isinstance(taken, str):
        reasons |= {"seconds": taken, "memory_bytes": takes.unknown_memory(step.stage)}
        return whole.model_copy(update={"disk_bytes": disk, "reasons": reasons})
    if taken.memory_bytes is None:
        reasons["memory_bytes"] = takes.unknown_memory(step.stage)
    return whole.model_copy(update={**taken._asdict(), "disk_bytes": disk, "reasons": reasons})


@dataclass(frozen=True)
class _Takes:
    """What each stage takes; the student is measured once for the stages that train it."""

    config: Config
    plan: DistillPlan
    teachers: TeacherSettings
    loading_s: float

    def _bench(self) -> Taken:
        seconds, words = bench_time(self.config)
        return Taken(seconds, None, words)

    def of(self, stage: str) -> Taken | str:
        """Return what a stage takes, or why it is not known."""
        known: dict[str, Callable[[], Taken | str]] = {
            DATA: lambda: Taken(self.loading_s, resident_bytes(), "the data was loaded once"),
            TEACHER: lambda: teacher_taken(self.teachers),
            SOFT_LABELS: lambda: soft_labels_taken(self.plan, self._passes),
            DISTILL: lambda: distill_taken(self.plan, self._student, self._online),
            QUANTIZE: lambda: quantize_taken(self.plan, self.config, self._student),
            EXPORT: lambda: NOT_EXPORTED,
            COMPILE: lambda: NOT_COMPILED,
            BENCH: self._bench,
            REPORT: lambda: SMALL,
        }
        return known[stage]()

    @staticmethod
    def unknown_memory(stage: str) -> str:
        """Say why the memory of a stage is not known."""
        return NOT_HERE if stage in (COMPILE, BENCH) else UNMEASURED

    @cached_property
    def _student(self) -> Paces:
        from edgedistill.distill.pace import pace_distillation

        return pace_distillation(self.plan)

    @cached_property
    def _passes(self) -> list[Pace]:
        return teacher_passes(self.plan)

    @property
    def _online(self) -> list[Pace]:
        """The teachers that run in training; with a feature loss, the step of the student has them."""
        return self._passes if self.plan.distill.views == 0 and not self.plan.distill.uses_features else []


def teacher_taken(settings: TeacherSettings) -> Taken:
    """Estimate the training of the teachers, or their loading and validation."""
    from edgedistill.distill.pace import pace_teacher_training

    seconds, peaks, words = 0.0, [], []
    for number, plan in enumerate(settings.teachers):
        if not plan.source.spec.is_module:
            words.append("a file is copied")
            continue
        pace = pace_teacher_training(settings, number)
        if plan.source.weights is not None:
            seconds += settings.data.val * pace.forward.seconds
            peaks.append(pace.forward)
            words.append("one validation")
            continue
        epoch = training_seconds(pace, settings.data.train, settings.data.val, plan.training.batch_size)
        seconds += plan.training.epochs * epoch
        peaks.append(pace.step)
        words.append(f"{plan.training.epochs} epochs of {step_words(settings.data.train, plan.training.batch_size)}")
    return Taken(seconds, most(peaks), ", ".join(words))


def soft_labels_taken(plan: DistillPlan, paces: Sequence[Pace]) -> Taken:
    """Estimate the forward passes of the teachers on all views."""
    passes = plan.distill.views * plan.data.distilled
    each = sum(pace.seconds for pace in paces)
    in_torch = any(one.engine != "torch" and one.source.spec.is_module for one in plan.teachers)
    words = (
        f"{passes:,} forward passes of {each * 1e3:.3g} ms{' in torch; OpenVINO is often faster' if in_torch else ''}"
    )
    return Taken(passes * each, most(paces), words)


def teacher_passes(plan: DistillPlan) -> list[Pace]:
    """Measure the forward pass of each teacher; saved logits need none."""
    from edgedistill.distill.pace import pace_soft_labels

    numbers = range(len(plan.teachers))
    return [
        pace_soft_labels(plan, number) for number in numbers if plan.teachers[number].source.spec.source != "logits"
    ]


def distill_taken(plan: DistillPlan, pace: Paces, teachers: Sequence[Pace]) -> Taken:
    """Estimate the training of the students and, with `control`, of the controls; `teachers` run in training, if any."""
    distill, data = plan.distill, plan.data
    epoch = training_seconds(pace, data.distilled, data.val, distill.batch_size)
    online = data.distilled * sum(one.seconds for one in teachers)
    students = plan.students
    seconds = distill.epochs * (students * epoch + distill.seeds * online)
    words = f"{students} {'students' if students > 1 else 'student'}, {distill.epochs} epochs of {step_words(data.distilled, distill.batch_size)}"
    return Taken(seconds, most([pace.step, *teachers]), words)


def quantize_taken(plan: DistillPlan, config: Config, pace: Paces) -> Taken:
    """Estimate int8: one post-training attempt and, where the mode fine-tunes, the training."""
    quantize, data = config.quantize, plan.data
    if quantize.mode == "none" or not any("int8" in target.precisions for target in config.target):
        return Taken(0.0, None, "no target takes int8")
    forward = pace.forward.seconds
    post = forward * (data.val * (1 + FAKE_INT8) + min(quantize.samples, data.train) * FAKE_INT8)
    if quantize.mode == "ptq":
        return Taken(post, None, f"post-training int8 on {min(quantize.samples, data.train)} samples")
    step = data.distilled * (pace.step.seconds * FAKE_INT8 + forward) + data.val * forward * FAKE_INT8
    tuned = post + quantize.epochs * step
    if quantize.mode == "qat":
        return Taken(tuned, None, f"{quantize.epochs} epochs of fine-tuning in rounded arithmetic")
    return Taken(tuned, None, f"{quantize.epochs} epochs of fine-tuning; {post:.2g} s if post-training int8 suffices")


def training_seconds(pace: Paces, train: int, val: int, batch: int) -> float:
    """Return the seconds of an epoch: its whole batches, and the validation."""
    size = min(batch, train)
    return train // size * size * pace.step.seconds + val * pace.forward.seconds


def step_words(train: int, batch: int) -> str:
    """Say how many steps an epoch has."""
    size = min(batch, train)
    return f"{train // size} steps of {size}"


def most(paces: Sequence[Pace]) -> int | None:
    """Return the largest peak, or None if none is known."""
    return max((pace.peak_bytes for pace in paces if pace.peak_bytes is not None), default=None)
