"""The pipeline: run the stages in order, and skip each stage whose key has not changed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final

from edgedistill.config.schema import Config
from edgedistill.config.writing import to_toml
from edgedistill.data.stages import DATA
from edgedistill.deploy.stages import BENCH, COMPILE, TIMERS
from edgedistill.distill.stages import DISTILL, SOFT_LABELS, TEACHER
from edgedistill.errors import ConfigError, nearest
from edgedistill.export.stages import EXPORT, GRAPHS
from edgedistill.kits.kits import Kit
from edgedistill.kits.scheme import with_scheme
from edgedistill.pipeline.checks import CHECKS, check_config, check_own_folder, disk_check, kits_for
from edgedistill.pipeline.opening import opening
from edgedistill.pipeline.run_checks import examine
from edgedistill.pipeline.staleness import explain_stale
from edgedistill.quantize.stages import quantize_stage
from edgedistill.quantize.timers import Services
from edgedistill.records.base import Record
from edgedistill.records.stage_names import STAGE_NAMES
from edgedistill.records.stages import QuantizedRecord, StageRecord
from edgedistill.report.stages import REPORT
from edgedistill.runtime import processes
from edgedistill.runtime.files import versions_of
from edgedistill.runtime.folder import Run
from edgedistill.runtime.progress import Reporter, in_words
from edgedistill.stages.stage import Records, Sources, Stage, identities_of, key_of, settings_of, workspace_of

STAGES: Final[tuple[Stage[Any, Any], ...]] = (
    DATA, TEACHER, SOFT_LABELS, DISTILL, quantize_stage(Services(TIMERS, GRAPHS)), EXPORT, COMPILE, BENCH, REPORT,
)  # fmt: skip
"""The stages, in their order."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The stages to run: up to `until`, ignoring cached results from `start` on; raises ConfigError for an unknown stage."""

    until: str = STAGE_NAMES[-1]
    start: str | None = None

    def __post_init__(self) -> None:
        """Check the names."""
        for name in (self.until, self.start):
            if name is not None and name not in STAGE_NAMES:
                raise ConfigError(f"there is no stage '{name}'{nearest(name, STAGE_NAMES)}")

    @property
    def stages(self) -> tuple[Stage[Any, Any], ...]:
        """The stages up to `until`."""
        return STAGES[: STAGE_NAMES.index(self.until) + 1]

    def is_fresh(self, stage: Stage[Any, Any]) -> bool:
        """Return whether a stage runs even if it is cached."""
        return self.start is not None and STAGE_NAMES.index(stage.name) >= STAGE_NAMES.index(self.start)


@dataclass(frozen=True, slots=True)
class Step:
    """A stage in a dry run: `seconds` is the duration of its last run, `why` the reason that it has to run."""

    stage: str
    cached: bool
    seconds: float | None
    why: str | None = None


class Pipeline:
    """A configuration with its run folder and kits; `executed` names the stages that were not taken from the folder."""

    def __init__(self, config: Config, run: Run, kits: Mapping[str, Kit], report: Reporter) -> None:
        check_config(config, kits)
        check_own_folder(config, run.folder)
        self.config, self.scheme_reason = with_scheme(config, kits)
        self._given = config
        self.run, self.report = run, report
        self.kits = kits_for(self.config, kits)
        self.executed: list[str] = []
        self._made: dict[str, StageRecord] = {}
        self._fingerprints: dict[Any, str] = {}

    @property
    def records(self) -> Records:
        """The records of the finished stages."""
        return Records(self._made)

    @property
    def sources(self) -> Sources:
        """The inputs for declaring the settings of stages."""
        return Sources(self.config, self.kits, self.records, self.run.file_hash, self.report, self._fingerprints)

    def execute(self, plan: Plan) -> Records:
        """Run the unfinished stages and return all records; nothing but the lock is written before all checks pass."""
        if self._may_be_finished(plan) and self._take_finished(plan) == len(plan.stages):
            self.run.save_hashes()
            return self.records
        with self.run.locked() if processes.is_main_process() else nullcontext():
            processes.barrier()  # none reads the folder before the lock is held
            self.run.refresh()  # the process that held the lock has finished stages
            self._run_unfinished(plan, self._take_finished(plan))
        return self.records

    def _may_be_finished(self, plan: Plan) -> bool:
        """Return whether the folder has all stages of a plan, so that nothing may have to run."""
        return plan.start is None and all(stage.name in self.run.stages for stage in plan.stages)

    def _run_unfinished(self, plan: Plan, done: int) -> None:
        stages = plan.stages[done:]
        if not stages:
            return
        first = self._step(plan, done, done)
        self.report.debug(f"{first.stage}: runs, {first.why}")
        names = {stage.name for stage in stages}
        examined = examine((*CHECKS, disk_check(self.run.folder, names)), self.sources, names)
        examined.require()
        examined.tell(self.report)
        if self.scheme_reason and any(stage.record is QuantizedRecord for stage in stages):
            self.report.info(f"quantize: {self.scheme_reason}")
        processes.barrier()  # before the first of them writes
        self.run.configure(to_toml(self._given))
        for stage in stages:
            if processes.is_main_process() or stage.shared:
                self._run_stage(stage, fresh=plan.is_fresh(stage))

    def dry_run(self, plan: Plan) -> list[Step]:
        """Return for each stage whether it is cached or would run."""
        done = self._take_finished(plan)
        steps = [self._step(plan, place, done) for place in range(len(plan.stages))]
        self.run.save_hashes()
        return steps

    def _step(self, plan: Plan, place: int, done: int) -> Step:
        """Describe the stage at `place` when `done` stages are finished."""
        stages, why = plan.stages, None
        stage = stages[place]
        entry = self.run.stages.get(stage.name)
        if place == done and plan.is_fresh(stage):
            why = "requested by --from"
        elif place == done:
            settings = stage.declare(self.sources)
            parents = identities_of(stage, self.records)
            why = self.run.damage(stage.name, stage.record) or explain_stale(
                entry, settings_of(settings), parents, versions_of(stage.packages)
            )
        elif place > done:
            why = f"because {stages[done].name} is to run"
        return Step(stage.name, place < done, None if entry is None else entry.get("seconds"), why)

    def _take_finished(self, plan: Plan) -> int:
        """Load the records of finished stages; returns the index of the first unfinished stage."""
        self._made.clear()
        for place, stage in enumerate(plan.stages):
            settings = stage.declare(self.sources)
            key = key_of(stage, settings, self.records)
            kept = None if plan.is_fresh(stage) else self.run.finished(stage.name, key, stage.record)
            if kept is None:
                return place
            self._made[stage.name] = kept
        return len(plan.stages)

    def _run_stage(self, stage: Stage[Any, Any], *, fresh: bool) -> None:
        settings = stage.declare(self.sources)
        key = key_of(stage, settings, self.records)
        kept = None if fresh else self.run.finished(stage.name, key, stage.record)
        if kept is not None:
            self._made[stage.name] = kept
            return
        if processes.is_main_process():
            last = self.run.stages.get(stage.name)
            damage = None if fresh else self.run.damage(stage.name, stage.record)
            if damage is not None:
                self.report.info(f"{stage.name}: is made again, because {damage}")
            self.report.info(opening(stage.name, self.config, None if last is None else last.get("seconds")))
        start = time.monotonic()
        record = stage.make(settings, workspace_of(self.run, key, self.report, fresh=fresh))
        seconds = time.monotonic() - start
        self._made[stage.name] = record
        self.executed.append(stage.name)
        if processes.is_main_process():
            self.run.finish(stage.name, self._entry(stage, settings, record) | {"seconds": round(seconds, 3)})
            self.report.info(f"{stage.name}: done in {in_words(seconds)}")

    def _entry(self, stage: Stage[Any, Any], settings: Record, record: StageRecord) -> dict[str, Any]:
        """Return the manifest entry of a stage."""
        return {
            "key": key_of(stage, settings, self.records),
            "parents": identities_of(stage, self.records),
            "record": record.model_dump(mode="json", by_alias=True),
            "config": settings_of(settings),
            "versions": versions_of(stage.packages),
        }


def run_pipeline(config: Config, run: Run, kits: Mapping[str, Kit], report: Reporter, plan: Plan) -> Pipeline:
    """Run the unfinished stages of a configuration, and return the pipeline with all records."""
    pipeline = Pipeline(config, run, kits, report)
    pipeline.execute(plan)
    return pipeline


def dry_run(config: Config, run: Run, kits: Mapping[str, Kit], report: Reporter, plan: Plan) -> list[Step]:
    """Return for each stage of a configuration whether it is cached or would run."""
    return Pipeline(config, run, kits, report).dry_run(plan)
