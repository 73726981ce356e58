"""The disk that stages take, computed from the sizes of data and models, and whether it is free."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgedistill.compare import formatting
from edgedistill.config.schema import Config
from edgedistill.config.training import TrainingConfig
from edgedistill.records.finding import Finding
from edgedistill.records.stage_names import COMPILE, DISTILL, EXPORT, QUANTIZE, SOFT_LABELS, TEACHER
from edgedistill.records.stages import DataRecord, TeacherRecord
from edgedistill.runtime.caches import caches_folder
from edgedistill.stages.stage import Sources, key_of

if TYPE_CHECKING:
    from torch import nn

    from edgedistill.distill.settings import DistillPlan

FLOAT_BYTES: Final = 4
HALF_BYTES: Final = 2
BLOCK_BYTES: Final = 512
"""The unit of `st_blocks`; a file with holes has fewer blocks than bytes."""
FORMS: Final = 2
"""ONNX Runtime's kit keeps a compiled model in two forms."""
INT8_SHARE: Final = 4
"""An int8 file has about a quarter of the bytes of the float file."""


@dataclass(frozen=True, slots=True)
class Space:
    """The bytes that a stage leaves in the run folder and in the cache, and those that it needs for a while beside them."""

    run_bytes: int
    cache_bytes: int = 0
    scratch_bytes: int = 0

    @property
    def kept_bytes(self) -> int:
        """What the stage leaves."""
        return self.run_bytes + self.cache_bytes


@dataclass(frozen=True, slots=True)
class Sizes:
    """What decides the space: the data, the bytes of each teacher, of a student and of a view's soft labels, and the number of students."""

    data: DataRecord
    teachers: tuple[int, ...]
    student: int
    view: int
    students: int


def sizes_of(settings: DistillPlan) -> Sizes:
    """Measure the models of a configuration; builds them, and trains nothing."""
    from edgedistill.distill.loading import build_student

    student = build_student(settings.student, settings.interface, settings.seed)
    teachers = tuple(_teacher_bytes(settings, number) for number in range(len(settings.teachers)))
    return Sizes(settings.data, teachers, _state_bytes(student), _view_bytes(settings, student), settings.students)


def _teacher_bytes(settings: DistillPlan, number: int) -> int:
    from edgedistill.models.build import build_model

    source = settings.teachers[number].source
    if source.file is not None:
        return source.file.size_bytes
    return _state_bytes(build_model(source, settings.interface, settings.seed))


def _state_bytes(model: object) -> int:
    from torch import nn

    assert isinstance(model, nn.Module)
    return sum(value.numel() * value.element_size() for value in model.state_dict().values())


def _view_bytes(settings: DistillPlan, student: nn.Module) -> int:
    """Return the bytes of the labelled output of a view in the cache of soft labels: those of the student's."""
    from edgedistill.data.views import plain_views
    from edgedistill.distill.cache import cell_entry_type, entry_type, stored_logits
    from edgedistill.distill.predictors import labelled_shape
    from edgedistill.distill.settings import gives_detections
    from edgedistill.tasks.detections import COLUMNS, RULES

    classes, plan = len(settings.data.classes), settings.distill
    kept = stored_logits(settings.data, plan.views, plan.top_k)
    if not settings.task.is_dense:
        return entry_type(classes, kept).itemsize if kept else HALF_BYTES * classes
    if gives_detections(settings):
        return HALF_BYTES * RULES.limit * COLUMNS
    views = plain_views(settings.dataset().train, settings.data, settings.views)
    shape = labelled_shape(student, views, settings.data.output)
    return cell_entry_type(shape, kept).itemsize if kept else HALF_BYTES * math.prod(shape)


def space_of(config: Config, sizes: Sizes, views: int) -> dict[str, Space]:
    """Return the space of each stage that writes large files; `views` is the number of distinct views."""
    student, distill = sizes.student, config.distill
    teachers = [
        (0 if plan.weights or not plan.model.is_module else _checkpoint(size, plan), size)
        for plan, size in zip(config.teachers, sizes.teachers, strict=True)
    ]
    models = sizes.students
    scratch = (models + 1) * _checkpoint(student, distill)
    caches = len(teachers) + 1 if len(teachers) > 1 else 1  # one of each of several teachers, and their mean
    labels = views * sizes.data.distilled * sizes.view * caches
    return {
        TEACHER: Space(sum(size for _, size in teachers), 0, 2 * max(state for state, _ in teachers)),
        SOFT_LABELS: Space(0, labels, 0),
        DISTILL: Space(models * student, 0, scratch),
        QUANTIZE: Space(student, 0, 4 * student),
        EXPORT: Space(_exported(config, sizes) + _recorded(sizes.data)),
        COMPILE: Space(FORMS * sum(_compiled(target.precisions, sizes) for target in config.target)),
    }


def _checkpoint(size: int, plan: TrainingConfig) -> int:
    """Return the bytes of the state of a training: the model, its best epoch, the optimizer, and a moving average."""
    return size * (2 + (2 if plan.optimizer == "adamw" else 1) + bool(plan.ema))


def _exported(config: Config, sizes: Sizes) -> int:
    precisions = {name for target in config.target for name in target.precisions}
    return _compiled(tuple(precisions | {"fp32"}), sizes)


def _compiled(precisions: tuple[str, ...], sizes: Sizes) -> int:
    shares = {"fp32": sizes.student, "fp16": sizes.student // 2, "int8": sizes.student // INT8_SHARE}
    return sizes.teachers[0] + sum(shares.get(name, sizes.student) for name in precisions)


def _recorded(data: DataRecord) -> int:
    """Return the bytes of the recorded test inputs, as float32."""
    return data.test * sum(math.prod(one.shape) for one in data.inputs) * FLOAT_BYTES


def missing_space(needed: Mapping[str, Space], folder: Path, cache: Path) -> Iterator[Finding]:
    """Yield an error for each file system without the space that stages need: of the run folder, and of the cache folder."""
    run, kept = _existing(folder), _existing(cache)
    shared = run.stat().st_dev == kept.stat().st_dev
    # On one file system the run has hard links to the cache, otherwise copies.
    in_run = {stage: one.run_bytes + (one.cache_bytes if not shared else 0) for stage, one in needed.items()}
    in_cache = {stage: one.cache_bytes for stage, one in needed.items()}
    scratch = {stage: one.scratch_bytes for stage, one in needed.items()}
    if shared:
        in_run = {stage: in_run[stage] + in_cache[stage] for stage in needed}
    else:
        yield from _missing(cache, kept, in_cache, dict.fromkeys(needed, 0))
    yield from _missing(folder, run, in_run, scratch)


def _missing(folder: Path, existing: Path, kept: Mapping[str, int], scratch: Mapping[str, int]) -> Iterator[Finding]:
    need = left = 0
    for stage, size in kept.items():
        need = max(need, left + size + scratch[stage])
        left += size
    free = shutil.disk_usage(existing).free
    if need > free:
        largest = max(kept, key=lambda stage: kept[stage] + scratch[stage])
        yield Finding(
            severity="error", subject=f"disk of {folder}",
            text=f"the stages need about {formatting.size(need)}, most of it for {largest}, and {formatting.size(free)} are free; {_advice(largest)}",
        )  # fmt: skip


def _advice(stage: str) -> str:
    if stage == SOFT_LABELS:
        return (
            "free space, lower distill.views, set distill.top_k, or set EDGEDISTILL_CACHE to a folder on another disk"
        )
    return "free space, or use --run-dir on another disk"


def _existing(folder: Path) -> Path:
    """Return a folder, or the nearest folder above it that exists."""
    folder = folder.resolve()
    return next(one for one in (folder, *folder.parents) if one.is_dir())


def _already_cached(sources: Sources) -> int:
    """Return the bytes of the soft labels on disk; unknown, and 0, before the teacher stage has run."""
    from edgedistill.distill.cache import KIND
    from edgedistill.distill.settings import declare_soft_labels
    from edgedistill.distill.stages import SOFT_LABELS as STAGE

    if sources.records.get(TeacherRecord) is None or sources.records.get(DataRecord) is None:
        return 0
    key = key_of(STAGE, declare_soft_labels(sources), sources.records)
    files = (caches_folder(KIND) / key).glob("*.npy")
    return sum(BLOCK_BYTES * path.stat().st_blocks for path in files)


def check_space(sources: Sources, plan: DistillPlan, folder: Path, stages: AbstractSet[str]) -> Iterator[Finding]:
    """Yield an error for each file system without the space that some stages need; `folder` is the run folder."""
    from edgedistill.distill.cache import KIND

    spaces = space_of(sources.config, sizes_of(plan), plan.distill.views)
    labels = spaces[SOFT_LABELS]
    spaces[SOFT_LABELS] = replace(labels, cache_bytes=max(0, labels.cache_bytes - _already_cached(sources)))
    needed = {stage: one for stage, one in spaces.items() if stage in stages}
    if needed:
        yield from missing_space(needed, folder, caches_folder(KIND))
