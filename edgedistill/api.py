"""edgedistill from Python: what the command line does, as functions that return records.

    import edgedistill
    from edgedistill import api

    result = edgedistill.run("edgedistill.toml")            # a path, a table such as tomllib reads, or a Config
    result                                                  # the table of models, in a notebook as HTML
    result.comparison.groups[0].answer                      # what to ship
    result.student.student.val_accuracy                     # every stage's record, typed
    result.comparison.groups[0].rows[-1].measurement.latency_ns.p50

    student = api.distill("edgedistill.toml")               # a StudentRecord; what it needs is made or taken as it is
    models = api.export("edgedistill.toml").models          # ONNX files: models[0].file.path, in the run folder
    api.compare(result.folder, result.folder)               # runs and measurement files against each other

Records are frozen, and are the JSON that the run folder holds. Errors are those of `edgedistill.errors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgedistill.compare.comparison import Comparison, compare_runs, summarise_run
from edgedistill.compare.load import load_results
from edgedistill.config.load import load_config, parse_config
from edgedistill.config.schema import Config
from edgedistill.gates.evaluate import compare_run
from edgedistill.kits.kits import find_kits
from edgedistill.pipeline.pipeline import Pipeline, Plan, run_pipeline
from edgedistill.records.stages import (
    BenchRecord,
    CompileRecord,
    DataRecord,
    ExportRecord,
    QuantizedRecord,
    SoftLabelsRecord,
    StageRecord,
    StudentRecord,
    TeacherRecord,
)
from edgedistill.runtime.folder import Run
from edgedistill.runtime.progress import Reporter
from edgedistill.stages.stage import Records

if TYPE_CHECKING:
    from edgedistill.search.records import SearchOptions, SearchResult

Configuration = str | Path | Mapping[str, Any] | Config
"""A file, a table whose paths are relative to the current folder, or what `load_config` returns."""

R = TypeVar("R", bound=StageRecord)


@dataclass(frozen=True, repr=False)
class RunResult:
    """What a run has made: the record of each stage, None where it was not asked for; `comparison` once it is measured."""

    folder: Path
    records: Records
    comparison: Comparison | None

    @property
    def data(self) -> DataRecord | None:
        """What the data is."""
        return self.records.get(DataRecord)

    @property
    def teacher(self) -> TeacherRecord | None:
        """The teachers."""
        return self.records.get(TeacherRecord)

    @property
    def soft_labels(self) -> SoftLabelsRecord | None:
        """The teacher's answers."""
        return self.records.get(SoftLabelsRecord)

    @property
    def student(self) -> StudentRecord | None:
        """The distilled student."""
        return self.records.get(StudentRecord)

    @property
    def quantize(self) -> QuantizedRecord | None:
        """The student in int8."""
        return self.records.get(QuantizedRecord)

    @property
    def export(self) -> ExportRecord | None:
        """The ONNX models."""
        return self.records.get(ExportRecord)

    @property
    def compile(self) -> CompileRecord | None:
        """The artifacts."""
        return self.records.get(CompileRecord)

    @property
    def bench(self) -> BenchRecord | None:
        """The measurement files."""
        return self.records.get(BenchRecord)

    def __repr__(self) -> str:
        """Show the table, or which stages are done."""
        done = ", ".join(self.records.made)
        return f"{self.folder}: {done}" if self.comparison is None else repr(self.comparison)

    def _repr_html_(self) -> str | None:
        return None if self.comparison is None else self.comparison._repr_html_()


def run(
    config: Configuration, *, run_dir: str | Path | None = None, until: str = "report", start: str | None = None,
    quiet: bool = False,
) -> RunResult:  # fmt: skip
    """Run the pipeline up to the stage `until`, and afresh from `start`; what is done already is not done again.

    Without `run_dir` the run folder is runs/NAME. Progress goes to stderr, unless `quiet`. Gates are in the comparison; a
    failed one raises nothing. Raises EdgedistillError.
    """
    pipeline = _pipeline(config, run_dir, Plan(until, start), Reporter(quiet=quiet))
    records, comparison = pipeline.records, None
    if records.get(BenchRecord) is not None:
        gates = pipeline.config.gate.gates
        comparison = compare_run(pipeline.run.folder, pipeline.config.budgets, gates, pipeline.config.gate_baseline)
    return RunResult(folder=pipeline.run.folder, records=records, comparison=comparison)


def load_data(config: Configuration, run_dir: str | Path | None = None) -> DataRecord:
    """Load, check and split the data."""
    return _stage(config, run_dir, DataRecord)


def train_teacher(config: Configuration, run_dir: str | Path | None = None) -> TeacherRecord:
    """Train or load the teacher, and make what that needs."""
    return _stage(config, run_dir, TeacherRecord)


def make_soft_labels(config: Configuration, run_dir: str | Path | None = None) -> SoftLabelsRecord:
    """Ask the teacher for the soft labels of all views, and make what that needs."""
    return _stage(config, run_dir, SoftLabelsRecord)


def distill(config: Configuration, run_dir: str | Path | None = None) -> StudentRecord:
    """Distil the student, and make what that needs."""
    return _stage(config, run_dir, StudentRecord)


def quantize(config: Configuration, run_dir: str | Path | None = None) -> QuantizedRecord:
    """Quantize the student, and make what that needs."""
    return _stage(config, run_dir, QuantizedRecord)


def export(config: Configuration, run_dir: str | Path | None = None) -> ExportRecord:
    """Export ONNX models, and make what that needs."""
    return _stage(config, run_dir, ExportRecord)


def compile_models(config: Configuration, run_dir: str | Path | None = None) -> CompileRecord:
    """Compile for every target, and make what that needs."""
    return _stage(config, run_dir, CompileRecord)


def bench(config: Configuration, run_dir: str | Path | None = None) -> BenchRecord:
    """Measure every target, and make what that needs."""
    return _stage(config, run_dir, BenchRecord)


def search(
    config: Configuration, run_dir: str | Path | None = None, options: SearchOptions | None = None
) -> SearchResult:
    """Measure untrained students of each family on the targets, and find the largest within their budgets."""
    from edgedistill.search.records import SearchOptions
    from edgedistill.search.search import require_budget
    from edgedistill.search.search import search as search_students

    loaded = _loaded(config)
    require_budget(loaded)
    return search_students(_pipeline(loaded, run_dir, Plan(DataRecord.stage), Reporter()), options or SearchOptions())


def compare(baseline: str | Path, *candidates: str | Path) -> Comparison:
    """Set run folders or measurement files against a baseline; a run alone is set against its teacher.

    Raises IncomparableError where conditions differ, and ConfigError for what is no result.
    """
    first, *others = load_results([Path(baseline), *map(Path, candidates)])
    return compare_runs(first, others) if others else summarise_run(first)


def _stage(config: Configuration, run_dir: str | Path | None, kind: type[R]) -> R:
    return _pipeline(config, run_dir, Plan(kind.stage), Reporter()).records[kind]


def _pipeline(config: Configuration, run_dir: str | Path | None, plan: Plan, report: Reporter) -> Pipeline:
    loaded = _loaded(config)
    return run_pipeline(loaded, Run(Path(run_dir or Path("runs") / loaded.name)), find_kits(), report, plan)


def _loaded(config: Configuration) -> Config:
    if isinstance(config, Config):
        return config
    if isinstance(config, Mapping):
        return parse_config(dict(config), Path(), "the configuration")
    return load_config(Path(config))
