"""The Python interface: each command of the command line as a function that returns records.

    import edgedistill
    from edgedistill import api

    result = edgedistill.run("edgedistill.toml")            # a path, a dictionary, or a Config
    result                                                  # the table of models, in a notebook as HTML
    result.comparison.groups[0].answer                      # the recommended model
    result.student.student.val_accuracy                     # each stage has a typed record
    result.comparison.groups[0].rows[-1].measurement.latency_ns.p50

    student = api.distill("edgedistill.toml")               # a StudentRecord; runs the earlier stages first if needed
    models = api.export("edgedistill.toml").models          # ONNX files: models[0].file.path, in the run folder
    api.compare(result.folder, result.folder)               # compare runs or measurement files

Records are frozen; the run folder holds the same records as JSON. Functions raise the errors of `edgedistill.errors`.
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
"""A path, a dictionary whose paths are relative to the current folder, or a Config from `load_config`."""

R = TypeVar("R", bound=StageRecord)


@dataclass(frozen=True, repr=False)
class RunResult:
    """The result of a run: the record of each stage, or None if the stage did not run, and `comparison` after bench."""

    folder: Path
    records: Records
    comparison: Comparison | None

    @property
    def data(self) -> DataRecord | None:
        """The record of the data stage."""
        return self.records.get(DataRecord)

    @property
    def teacher(self) -> TeacherRecord | None:
        """The record of the teacher stage."""
        return self.records.get(TeacherRecord)

    @property
    def soft_labels(self) -> SoftLabelsRecord | None:
        """The record of the soft labels stage."""
        return self.records.get(SoftLabelsRecord)

    @property
    def student(self) -> StudentRecord | None:
        """The record of the distill stage."""
        return self.records.get(StudentRecord)

    @property
    def quantize(self) -> QuantizedRecord | None:
        """The record of the quantize stage."""
        return self.records.get(QuantizedRecord)

    @property
    def export(self) -> ExportRecord | None:
        """The record of the export stage."""
        return self.records.get(ExportRecord)

    @property
    def compile(self) -> CompileRecord | None:
        """The record of the compile stage."""
        return self.records.get(CompileRecord)

    @property
    def bench(self) -> BenchRecord | None:
        """The record of the bench stage."""
        return self.records.get(BenchRecord)

    def __repr__(self) -> str:
        """Show the comparison table or, before bench, the finished stages."""
        done = ", ".join(self.records.made)
        return f"{self.folder}: {done}" if self.comparison is None else repr(self.comparison)

    def _repr_html_(self) -> str | None:
        return None if self.comparison is None else self.comparison._repr_html_()


def run(
    config: Configuration, *, run_dir: str | Path | None = None, until: str = "report", start: str | None = None,
    quiet: bool = False,
) -> RunResult:  # fmt: skip
    """Run the stages of the pipeline up to `until`; finished stages are reused, except those from `start` on.

    The default `run_dir` is runs/NAME. Progress is printed to stderr unless `quiet`. The comparison holds the results of the
    gates; a failed gate raises no error. Raises EdgedistillError.
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
    """Train or load the teacher; runs the earlier stages first if needed."""
    return _stage(config, run_dir, TeacherRecord)


def make_soft_labels(config: Configuration, run_dir: str | Path | None = None) -> SoftLabelsRecord:
    """Compute the teacher's soft labels for all views; runs the earlier stages first if needed."""
    return _stage(config, run_dir, SoftLabelsRecord)


def distill(config: Configuration, run_dir: str | Path | None = None) -> StudentRecord:
    """Distil the student; runs the earlier stages first if needed."""
    return _stage(config, run_dir, StudentRecord)


def quantize(config: Configuration, run_dir: str | Path | None = None) -> QuantizedRecord:
    """Quantize the student; runs the earlier stages first if needed."""
    return _stage(config, run_dir, QuantizedRecord)


def export(config: Configuration, run_dir: str | Path | None = None) -> ExportRecord:
    """Export ONNX models; runs the earlier stages first if needed."""
    return _stage(config, run_dir, ExportRecord)


def compile_models(config: Configuration, run_dir: str | Path | None = None) -> CompileRecord:
    """Compile the models for every target; runs the earlier stages first if needed."""
    return _stage(config, run_dir, CompileRecord)


def bench(config: Configuration, run_dir: str | Path | None = None) -> BenchRecord:
    """Measure the models on every target; runs the earlier stages first if needed."""
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
    """Compare run folders or measurement files with a baseline; a single run is compared with its own teacher.

    Raises IncomparableError if measurement conditions differ, and ConfigError for a path without results.
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
