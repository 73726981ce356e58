"""The settings of a search: the data, the student, and the targets with their budgets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from edgedistill.config.model_spec import parse_model_spec
from edgedistill.config.schema import QuantizeConfig, TargetConfig
from edgedistill.config.training import START_KEYS, StudentConfig
from edgedistill.distill.settings import learning
from edgedistill.errors import ConfigError
from edgedistill.export.settings import FileSettings
from edgedistill.kits.kits import Kit
from edgedistill.models.source import ModelSource, StudentSource, teacher_source
from edgedistill.records.stages import DataRecord
from edgedistill.runtime.user_code import code_ref
from edgedistill.stages.stage import Sources

PRUNE, LAYERS, WIDTH = "prune", "layers", "width"
"""The families of students that are the pruned teacher, some layers of it, and all of its layers made narrower."""
PARTS: Final = (PRUNE, LAYERS, WIDTH)
"""The families of students that are a part of the teacher."""


WITHOUT_START: Final = {key: StudentConfig.model_fields[key].default for key in ("weights", *START_KEYS)}
"""The keys of a student that starts untrained: weights fit one size only."""


class SearchSettings(FileSettings):
    """The settings of a search; `own` is the student of the configuration, `teachers` their number, `folder` that of user code."""

    own: StudentConfig
    teacher: ModelSource
    teachers: int
    quantize: QuantizeConfig
    targets: tuple[TargetConfig, ...]
    kits: dict[str, Kit]
    folder: Path

    def student(self, plan: StudentConfig) -> StudentSource:
        """Return the source of a student."""
        if plan.model is None:
            return StudentSource(
                model=None, prune=plan.prune, teacher=self.teacher, layers=plan.layers, width=plan.width
            )
        code = code_ref(plan.model.name, self.folder) if plan.model.source == "function" else None
        model = ModelSource(spec=plan.model, width=plan.width, depth=plan.depth, code=code)
        return StudentSource(model=model, prune=None, teacher=None)

    def title(self, plan: StudentConfig) -> str:
        """Return the title of a student, with its width."""
        is_wider = plan.model is not None and plan.width != 1
        return self.student(plan).title + (f" x{plan.width:g}" if is_wider else "")

    def plan(self, family: str) -> StudentConfig | None:
        """Return the student of a family at width 1, or None for parts of the teacher; raises ConfigError for an unknown family."""
        if family in PARTS:
            return None
        if self.own.model is not None and self.own.model.text == family:
            return self.own
        try:
            return StudentConfig(model=parse_model_spec(family))
        except ValueError as error:
            raise ConfigError(f"--model {family}: {error}") from None


def declare_search(sources: Sources) -> SearchSettings:
    """Declare the settings of a search; the data stage must be finished."""
    config, kits = sources.config, sources.kits
    own = config.student.model_copy(update=WITHOUT_START)
    return SearchSettings(
        **learning(sources), own=own, teacher=teacher_source(config, 0, sources.hash_file, sources.records[DataRecord].classes),
        name=config.name, teachers=len(config.teachers), quantize=config.quantize, export=config.export, targets=config.target, kits=_kits(config.target, kits),
        folder=config.folder,
    )  # fmt: skip


def _kits(targets: tuple[TargetConfig, ...], kits: Mapping[str, Kit]) -> dict[str, Kit]:
    return {target.kit: kits[target.kit] for target in targets}
