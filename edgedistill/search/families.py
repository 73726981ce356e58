"""The sizes of each model family that a search tries, by number of parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edgedistill.config.schema import Config
from edgedistill.config.training import StudentConfig
from edgedistill.distill.student import build_student
from edgedistill.distill.teacher import build_teacher
from edgedistill.errors import ConfigError
from edgedistill.models.build import ZOO, count_parameters
from edgedistill.runtime.job import Job
from edgedistill.search.records import SearchOptions

WIDTHS: Final = (0.125, 0.1875, 0.25, 0.375, 0.5, 0.75, 1.0, 1.5, 2.0)
PRUNED: Final = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


def find_sizes(job: Job, options: SearchOptions) -> tuple[dict[str, list[tuple[StudentConfig, int]]], list[str]]:
    """Return the sizes of each family, and the families without any, with reasons.

    Raises ConfigError if a family that the options name has no size.
    """
    teacher, ladders, left_out = _teacher_parameters(job), dict[str, list[tuple[StudentConfig, int]]](), list[str]()
    for family in dict.fromkeys(options.models or _families(job)):
        try:
            sizes = _sizes(job, family, teacher)
        except ConfigError as error:
            if family in options.models:
                raise
            left_out.append(f"{family}: {error}")
            continue
        ladders[family] = sizes
    return ladders, left_out


def _families(job: Job) -> list[str]:
    """Return the user's own student, the zoo models that take the data, and "prune" if the teacher is a torch module."""
    own = job.config.student.model
    named = [own] if own is not None and not own.startswith("zoo:") else []
    named += [f"zoo:{name}" for name, (_, kinds) in ZOO.items() if job.data.kind in kinds]
    return named + (["prune"] if _is_module(job.config) else [])


def _is_module(config: Config) -> bool:
    return Path(config.teacher.model).suffix not in (".onnx", ".npy")


def _teacher_parameters(job: Job) -> float:
    """Return the teacher's number of parameters; infinity for an ONNX or .npy teacher."""
    return count_parameters(build_teacher(job.config, job.data)) if _is_module(job.config) else float("inf")


def _sizes(job: Job, family: str, most: float) -> list[tuple[StudentConfig, int]]:
    """Return a family's sizes with fewer than `most` parameters, each with its number of parameters, the smallest first."""
    own = job.config.student
    plain = own if own.model == family else StudentConfig(model=family) if family != "prune" else None
    if plain is None:
        plans = [StudentConfig(prune=part) for part in PRUNED]
    else:
        widths = WIDTHS if _has_width(job, family) else (1.0,)
        plans = [plain.model_copy(update={"width": width}) for width in widths]
    counted = {plan: count_parameters(build_student(with_student(job.config, plan), job.data)) for plan in plans}
    sizes = sorted({count: plan for plan, count in counted.items() if count < most}.items())
    if not sizes:
        raise ConfigError(
            f"even the smallest size has {min(counted.values()):,} parameters; the teacher has {most:,.0f}"
        )
    return [(plan, count) for count, plan in sizes]


def _has_width(job: Job, family: str) -> bool:
    try:
        build_student(with_student(job.config, StudentConfig(model=family, width=0.5)), job.data)
    except ConfigError as error:
        if "takes no width" not in str(error):
            raise
        return False
    return True


def with_student(config: Config, student: StudentConfig) -> Config:
    """Return the configuration with another student."""
    return config.model_copy(update={"student": student})
