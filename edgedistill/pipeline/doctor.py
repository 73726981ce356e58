"""Examine a configuration: what is wrong or odd, and what each stage will take. Nothing is trained or written."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from edgedistill.config.load import load_config
from edgedistill.config.schema import Config
from edgedistill.errors import EdgedistillError
from edgedistill.kits.kits import Kit
from edgedistill.pipeline.checks import CHECKS, LEARNING, STAGES_OWN, dataset_of, disk_check, kits_for, with_data
from edgedistill.pipeline.estimates import Estimate, estimate, not_estimated
from edgedistill.pipeline.pipeline import Pipeline, Plan, Step
from edgedistill.pipeline.run_checks import examine, findings_of
from edgedistill.records.base import Record
from edgedistill.records.finding import Finding
from edgedistill.records.stage_names import STAGE_NAMES
from edgedistill.runtime.folder import Run
from edgedistill.runtime.progress import Reporter
from edgedistill.stages.stage import Records, Sources

SCHEMA: Final = "edgedistill.doctor/1"
_LEARNED: Final = frozenset({check.name for check in CHECKS if check.stages == LEARNING} | {"configuration"})
"""The checks without whose errors the stages can be estimated."""
BROKEN: Final = "not estimated: there are errors"


class Diagnosis(Record):
    """What was found in a configuration, errors first, and what each stage will take; `seconds` is how long this took."""

    config: Path
    run_folder: Path | None
    findings: tuple[Finding, ...]
    stages: tuple[Estimate, ...]
    seconds: float

    @property
    def errors(self) -> int:
        """The number of errors."""
        return sum(one.severity == "error" for one in self.findings)

    def to_json(self) -> str:
        """Return the diagnosis as JSON of schema edgedistill.doctor/1."""
        return json.dumps({"schema": SCHEMA, **self.model_dump(mode="json")}, indent=2)


def diagnose(
    path: Path, overrides: tuple[str, ...], run_dir: Path | None, kits: Mapping[str, Kit], report: Reporter
) -> Diagnosis:
    """Examine the configuration at `path`, with the checks of `run` and all their errors at once."""
    start = time.monotonic()
    try:
        config = load_config(path, overrides)
        run = Run(run_dir or Path("runs") / config.name)
    except EdgedistillError as error:
        found = tuple(findings_of(error, str(path)))
        return Diagnosis(config=path, run_folder=None, findings=found, stages=(), seconds=time.monotonic() - start)
    steps, records = _plan(config, run, kits)
    sources = Sources(config, _kits(config, kits), records, run.file_hash, report)
    to_run = {step.stage for step in steps if not step.cached}
    checks = (*CHECKS, *STAGES_OWN, disk_check(run.folder, to_run))
    loading_s = _load(sources)
    with report.track("doctor", len(checks) + len(steps)) as advance:
        examined = examine(checks, sources, frozenset(STAGE_NAMES), advance)
        if _LEARNED.isdisjoint(examined.failed):
            stages = estimate(with_data(sources), steps, loading_s, advance)
        else:
            stages = not_estimated(steps, BROKEN)
    run.save_hashes()
    return Diagnosis(
        config=path, run_folder=run.folder, findings=examined.findings, stages=stages,
        seconds=round(time.monotonic() - start, 3),
    )  # fmt: skip


def _kits(config: Config, kits: Mapping[str, Kit]) -> Mapping[str, Kit]:
    """Return the kits as `run` takes them; as they are if a target is wrong, which a check finds."""
    try:
        return kits_for(config, kits)
    except (EdgedistillError, KeyError):
        return kits


def _load(sources: Sources) -> float:
    """Return the seconds that the data takes to load; a check finds why it cannot be loaded."""
    start = time.perf_counter()
    try:
        dataset_of(sources)
    except EdgedistillError:
        return 0.0
    return time.perf_counter() - start


def _plan(config: Config, run: Run, kits: Mapping[str, Kit]) -> tuple[list[Step], Records]:
    """Return which stages are cached, and their records; none if the plan cannot be made, for a reason that a check finds."""
    try:
        pipeline = Pipeline(config, run, kits, Reporter(quiet=True))
        return pipeline.dry_run(Plan()), pipeline.records
    except EdgedistillError:
        steps = [Step(name, cached=False, seconds=run.stages.get(name, {}).get("seconds")) for name in STAGE_NAMES]
        return steps, Records({})
