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
from edgedistill.pipeline.pipeline import Plan, run_pipeline
from edgedistill.records.base import Record
from edgedistill.records.stages import (
    BenchRecord,
    CompileRecord,
    DataRecord,
    ExportRecord,
    QuantizedRecord,
    SoftLabelsRecord,
    StudentRecord,
    TeacherRecord,
)
from edgedistill.runtime.folder import Run
from edgedistill.runtime.job import Job
from edgedistill.runtime.progress import Reporter

if TYPE_CHECKING:
    from edgedistill.search.records import SearchOptions, SearchResult

Configuration = str | Path | Mapping[str, Any] | Config
"""A file, a table whose paths are relative to the current folder, or what `load_config` returns."""

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, repr=False)
class RunResult:
    """What a run has made: the record of each stage, None where it was not asked for; `comparison` once it is measured."""

    folder: Path
    data: DataRecord | None
    teacher: TeacherRecord | None
    soft_labels: SoftLabelsRecord | None
    student: StudentRecord | None
    quantize: QuantizedRecord | None
    export: ExportRecord | None
    compile: CompileRecord | None
    bench: BenchRecord | None
    comparison: Comparison | None

    def __repr__(self) -> str:
        """Show the table, or which stages are done."""
        done = [name for name in STAGES if getattr(self, name) is not None]
        return f"{self.folder}: {', '.join(done)}" if self.comparison is None else repr(self.comparison)

    def _repr_html_(self) -> str | None:
        return None if self.comparison is None else self.comparison._repr_html_()


STAGES = ("data", "teacher", "soft_labels", "student", "quantize", "export", "compile", "bench")


def run(
    config: Configuration, *, run_dir: str | Path | None = None, until: str = "report", start: str | None = None,
    quiet: bool = False,
) -> RunResult:  # fmt: skip
    """Run the pipeline up to the stage `until`, and afresh from `start`; what is done already is not done again.

    Without `run_dir` the run folder is runs/NAME. Progress goes to stderr, unless `quiet`. Gates are in the comparison; a
    failed one raises nothing. Raises EdgedistillError.
    """
    job = _job(config, run_dir, Plan(until, start), Reporter(quiet=quiet))
    found = {name: job.results.get(name) for name in STAGES}
    comparison = (
        compare_run(job.run.folder, job.config.budgets, job.config.gate.gates, job.config.gate_baseline)
        if "bench" in job.results
        else None
    )
    return RunResult(folder=job.run.folder, comparison=comparison, **found)  # type: ignore[arg-type]  # each of its kind


def load_data(config: Configuration, run_dir: str | Path | None = None) -> DataRecord:
    """Load, check and split the data."""
    return _stage(config, run_dir, "data", DataRecord)


def train_teacher(config: Configuration, run_dir: str | Path | None = None) -> TeacherRecord:
    """Train or load the teacher, and make what that needs."""
    return _stage(config, run_dir, "teacher", TeacherRecord)


def make_soft_labels(config: Configuration, run_dir: str | Path | None = None) -> SoftLabelsRecord:
    """Ask the teacher for the soft labels of all views, and make what that needs."""
    return _stage(config, run_dir, "soft_labels", SoftLabelsRecord)


def distill(config: Configuration, run_dir: str | Path | None = None) -> StudentRecord:
    """Distil the student, and make what that needs."""
    return _stage(config, run_dir, "student", StudentRecord)


def quantize(config: Configuration, run_dir: str | Path | None = None) -> QuantizedRecord:
    """Quantize the student, and make what that needs."""
    return _stage(config, run_dir, "quantize", QuantizedRecord)


def export(config: Configuration, run_dir: str | Path | None = None) -> ExportRecord:
    """Export ONNX models, and make what that needs."""
    return _stage(config, run_dir, "export", ExportRecord)


def compile_models(config: Configuration, run_dir: str | Path | None = None) -> CompileRecord:
    """Compile for every target, and make what that needs."""
    return _stage(config, run_dir, "compile", CompileRecord)


def bench(config: Configuration, run_dir: str | Path | None = None) -> BenchRecord:
    """Measure every target, and make what that needs."""
    return _stage(config, run_dir, "bench", BenchRecord)


def search(
    config: Configuration, run_dir: str | Path | None = None, options: SearchOptions | None = None
) -> SearchResult:
    """Measure untrained students of each family on the targets, and find the largest within their budgets."""
    from edgedistill.search.records import SearchOptions
    from edgedistill.search.search import require_budget
    from edgedistill.search.search import search as search_students

    loaded = _loaded(config)
    require_budget(loaded)
    return search_students(_job(loaded, run_dir, Plan("data"), Reporter()), options or SearchOptions())


def compare(baseline: str | Path, *candidates: str | Path) -> Comparison:
    """Set run folders or measurement files against a baseline; a run alone is set against its teacher.

    Raises IncomparableError where conditions differ, and ConfigError for what is no result.
    """
    first, *others = load_results([Path(baseline), *map(Path, candidates)])
    return compare_runs(first, others) if others else summarise_run(first)


def _stage(config: Configuration, run_dir: str | Path | None, stage: str, kind: type[R]) -> R:
    return _job(config, run_dir, Plan(stage), Reporter()).result(stage, kind)


def _job(config: Configuration, run_dir: str | Path | None, plan: Plan, report: Reporter) -> Job:
    loaded = _loaded(config)
    return run_pipeline(loaded, Run(Path(run_dir or Path("runs") / loaded.name)), find_kits(), report, plan)


def _loaded(config: Configuration) -> Config:
    if isinstance(config, Config):
        return config
    if isinstance(config, Mapping):
        return parse_config(dict(config), Path(), "the configuration")
    return load_config(Path(config))
