"""The report stage: the HTML report of a run."""

from __future__ import annotations

from typing import Final

from edgedistill.config.schema import Budget
from edgedistill.records.base import Record
from edgedistill.records.stages import BenchRecord, ReportRecord
from edgedistill.stages.stage import Sources, Stage, Workspace


class ReportSettings(Record):
    """What the report stage is given: what was measured, and the budget of each target by its name."""

    bench: BenchRecord
    budgets: dict[str, Budget]


def _declare(sources: Sources) -> ReportSettings:
    return ReportSettings(bench=sources.records[BenchRecord], budgets=sources.config.budgets)


def _write(settings: ReportSettings, workspace: Workspace) -> ReportRecord:
    from edgedistill.report.report import write_report

    return ReportRecord(report=workspace.describe(write_report(workspace.root, settings.budgets)))


REPORT: Final = Stage(
    record=ReportRecord, settings=ReportSettings, declare=_declare, make=_write, packages=("edgedistill", "matplotlib")
)
