"""The sizes of each model family that a search tries, by number of parameters."""

from __future__ import annotations

from typing import Final

from edgedistill.config.training import StudentConfig
from edgedistill.distill.loading import build_student
from edgedistill.errors import ConfigError
from edgedistill.models.build import build_model, count_parameters, zoo_for
from edgedistill.models.encoder import Encoder, LayerStack
from edgedistill.models.narrow import is_narrower
from edgedistill.search.records import SearchOptions
from edgedistill.search.settings import LAYERS, PARTS, PRUNE, SearchSettings

WIDTHS: Final = (0.125, 0.1875, 0.25, 0.375, 0.5, 0.75, 1.0, 1.5, 2.0)
NARROWED: Final = (0.25, 0.5, 0.75)
PRUNED: Final = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
Sizes = list[tuple[StudentConfig, int]]
"""Students of a family, each with its number of parameters, the smallest first."""


def find_sizes(settings: SearchSettings, options: SearchOptions) -> tuple[dict[str, Sizes], list[str]]:
    """Return the sizes of each family, and the families without any, with reasons.

    Raises ConfigError if a family that the options name has no size.
    """
    teacher, sizes_of, left_out = _teacher_parameters(settings), dict[str, Sizes](), list[str]()
    for family in dict.fromkeys(options.models or _families(settings)):
        try:
            sizes = _sizes(settings, family, teacher)
        except ConfigError as error:
            if family in options.models:
                raise
            left_out.append(f"{family}: {error}")
            continue
        sizes_of[family] = sizes
    return sizes_of, left_out


def _families(settings: SearchSettings) -> list[str]:
    """Return the user's own student, the zoo models that take the data, and the parts of a teacher that is a torch module."""
    own = settings.own.model
    named = [own.text] if own is not None and own.source != "zoo" else []
    if len(settings.data.inputs) == 1:
        kind = settings.interface.first.kind
        named += [f"zoo:{name}" for name, one in zoo_for(settings.interface.task).items() if kind in one.kinds]
    parts = PARTS if settings.teacher.spec.source == "hf" else (PRUNE,)
    return named + ([*parts] if settings.teacher.spec.is_module else [])


def _teacher_parameters(settings: SearchSettings) -> float:
    """Return the teacher's number of parameters; infinity for an ONNX or .npy teacher."""
    if not settings.teacher.spec.is_module:
        return float("inf")
    return count_parameters(build_model(settings.teacher, settings.interface, settings.seed))


def _sizes(settings: SearchSettings, family: str, most: float) -> Sizes:
    """Return a family's sizes with fewer than `most` parameters, each with its number of parameters, the smallest first."""
    plain = settings.plan(family)
    if plain is None:
        plans = _parts(settings, family)
    else:
        widths = WIDTHS if _has_width(settings, plain) else (1.0,)
        plans = [plain.model_copy(update={"width": width}) for width in widths]
    if not plans:
        raise ConfigError(f"{settings.teacher.spec.text} has one layer, or layers of one head, so none can be left out")
    counted = [(_count(settings, plan), plan) for plan in plans]
    sizes = sorted({count: plan for count, plan in counted if count < most}.items())
    if not sizes:
        smallest = min(count for count, _ in counted)
        raise ConfigError(f"even the smallest size has {smallest:,} parameters; the teacher has {most:,.0f}")
    return [(plan, count) for count, plan in sizes]


def _parts(settings: SearchSettings, family: str) -> list[StudentConfig]:
    """Return students that are parts of the teacher: without channels, with fewer layers, or with all layers made narrower."""
    if family == PRUNE:
        return [StudentConfig(prune=part) for part in PRUNED]
    teacher = build_model(settings.teacher, settings.interface, settings.seed)
    if not isinstance(teacher, LayerStack):
        raise ConfigError(f"{settings.teacher.spec.text} has no layers to keep; name a teacher hf:FOLDER")
    total = len(teacher.layers)
    if family == LAYERS:
        return [StudentConfig(layers=count) for count in range(1, total)]
    if not isinstance(teacher, Encoder):
        raise ConfigError(f"{settings.teacher.spec.text} is no encoder of texts; only those are made narrower")
    return [StudentConfig(layers=total, width=width) for width in NARROWED if is_narrower(teacher, width)]


def between(
    settings: SearchSettings, smaller: tuple[StudentConfig, int], larger: tuple[StudentConfig, int]
) -> tuple[StudentConfig, int] | None:
    """Return a size halfway between two of a family, with its number of parameters; None if there is no other size there."""
    (one, fewest), (other, most) = smaller, larger
    if one.prune is not None and other.prune is not None:
        plan = one.model_copy(update={"prune": round((one.prune + other.prune) / 2, 4)})
    elif one.layers is None and one.width != other.width:  # whole heads of an encoder have no size in between
        plan = one.model_copy(update={"width": round((one.width + other.width) / 2, 5)})
    else:
        return None
    count = _count(settings, plan)
    return (plan, count) if fewest < count < most else None


def _count(settings: SearchSettings, plan: StudentConfig) -> int:
    return count_parameters(build_student(settings.student(plan), settings.interface, settings.seed))


def _has_width(settings: SearchSettings, plan: StudentConfig) -> bool:
    try:
        _count(settings, plan.model_copy(update={"width": 0.5}))
    except ConfigError as error:
        if "takes no width" not in str(error):
            raise
        return False
    return True
