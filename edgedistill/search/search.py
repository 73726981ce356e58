"""Find students that fit the budget of every target, measured there before any student is trained.

The latency, size and memory of a network do not depend on its weights. So the sizes of each family are tried untrained, by
bisection: each is exported, quantized, compiled and measured as the pipeline does it. The result is the largest of each
family that fits, of the sizes that were tried.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from edgedistill.config.schema import Config
from edgedistill.config.training import StudentConfig
from edgedistill.deploy.identity import form_on
from edgedistill.distill.cache import link_or_copy
from edgedistill.errors import AccuracyError, ConfigError, DeviceError, EdgedistillError
from edgedistill.pipeline.pipeline import Pipeline, Plan, run_pipeline
from edgedistill.records.stages import DataRecord, SoftLabelsRecord, StudentRecord, TeacherRecord
from edgedistill.runtime import processes
from edgedistill.runtime.files import write_json
from edgedistill.runtime.folder import Run
from edgedistill.search.families import Sizes, between, find_sizes
from edgedistill.search.measure import StudentBench, folder_name
from edgedistill.search.records import Candidate, SearchOptions, SearchResult
from edgedistill.search.settings import SearchSettings, declare_search

REUSED: Final = (DataRecord.stage, TeacherRecord.stage, SoftLabelsRecord.stage)
"""The stages of the search's own run that the run of each finalist reuses."""


REFINEMENTS: Final = 2
"""How many sizes are tried between the largest of the family's sizes that fits and the next."""


def search(pipeline: Pipeline, options: SearchOptions) -> SearchResult:
    """Measure sizes of each family on the configuration's targets, write search.json, and return the candidates that fit.

    Args:
        pipeline: a pipeline whose data is loaded; its soft labels are made if finalists are trained.
        options: families, measurement and training.

    Raises:
        ConfigError: no target has a budget that can be checked, a model of the options does not take the data, or there
            are several processes.
        DeviceError: a device cannot be reached, lacks its engine, runs no family, or fails on a family of the options.
    """
    with pipeline.run.locked():
        return _search(pipeline, options)


def _search(pipeline: Pipeline, options: SearchOptions) -> SearchResult:
    require_budget(pipeline.config)
    if processes.world_size() > 1:
        raise ConfigError(
            "search measures latency, which other processes would disturb; run it without torchrun or accelerate launch"
        )
    settings = declare_search(pipeline.sources)
    if pipeline.config.student.weights is not None:
        pipeline.report.info("search: all students start untrained, because student.weights fits one size only")
    for target in settings.targets:  # fails before the first measurement if a device cannot be reached
        form_on(settings.kits[target.kit], target.device)
    folder = pipeline.run.folder / "search"
    bench = StudentBench(settings, options, folder, pipeline.report)
    ladders, left_out = find_sizes(settings, options)
    candidates, fitting, problems = list[Candidate](), list[Candidate](), list[EdgedistillError]()
    for family, sizes in ladders.items():
        try:
            tried = _measure_sizes(bench, family, sizes)
        except (ConfigError, DeviceError) as error:
            if family in options.models:
                raise
            problems.append(error)
            left_out.append(f"{family}: {error}")
            continue
        candidates += tried
        within = [candidate for candidate in tried if candidate.fits]
        fitting += [max(within, key=lambda candidate: candidate.parameters)] if within else []
    if problems and not candidates:
        raise problems[0]
    result = _write(
        folder, SearchResult(candidates=tuple(candidates), fitting=_ranked(fitting), left_out=tuple(left_out), epochs=0)
    )
    return _write(folder, train_finalists(pipeline, result, options.epochs)) if options.epochs else result


def _ranked(fitting: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Return candidates, best first: those that were trained, by their metric, and then the others, by their size."""
    return tuple(sorted(fitting, key=lambda one: (one.val_accuracy is None, -(one.val_accuracy or 0), -one.parameters)))


def _write(folder: Path, result: SearchResult) -> SearchResult:
    write_json(folder / "search.json", json.loads(result.to_json()))
    return result


def train_finalists(pipeline: Pipeline, result: SearchResult, epochs: int) -> SearchResult:
    """Train the candidates that fit for a few epochs, to rank them; one that cannot be trained keeps its measurements."""
    if result.fitting:
        pipeline.execute(Plan(SoftLabelsRecord.stage))
    tried = [_try_to_train(pipeline, candidate, epochs) for candidate in result.fitting]
    left_out = (*result.left_out, *(reason for _, reason in tried if reason))
    return result.model_copy(
        update={"fitting": _ranked(one for one, _ in tried), "left_out": left_out, "epochs": epochs}
    )


def _try_to_train(pipeline: Pipeline, candidate: Candidate, epochs: int) -> tuple[Candidate, str]:
    """Return a candidate with its metric, or as it is with the reason why it cannot be trained."""
    try:
        return _train_briefly(pipeline, candidate, epochs), ""
    except (ConfigError, AccuracyError) as error:
        return candidate, f"{candidate.name}: not trained: {error}"


def require_budget(config: Config) -> None:
    """Raise ConfigError unless some target has a limit that can be checked before training."""
    limits = [
        target.budget.model_dump(exclude={"accuracy", "accuracy_drop"}, exclude_none=True) for target in config.target
    ]
    if not any(limits):
        raise ConfigError(
            "search: no [[target]] has a limit of latency, size, memory or energy; add one, for example "
            "budget = { p95_ms = 5.0, size_bytes = 200_000 }"
        )


def _measure_sizes(bench: StudentBench, family: str, sizes: Sizes) -> list[Candidate]:
    """Measure sizes by bisection for the largest that fits, then sizes between it and the next; return all measured candidates."""
    tried: list[Candidate] = []
    with bench.report.track(family, len(sizes).bit_length() + REFINEMENTS) as advance:

        def fits(size: tuple[StudentConfig, int]) -> bool:
            tried.append(bench.measure(*size))
            advance(1, tried[-1].name)
            _require_answers(tried[-1])
            return tried[-1].fits

        best = bisect(len(sizes), lambda index: fits(sizes[index]))
        if best is not None and best + 1 < len(sizes):
            refine(bench.settings, sizes[best], sizes[best + 1], fits)
    return tried


def refine(
    settings: SearchSettings,
    low: tuple[StudentConfig, int],
    high: tuple[StudentConfig, int],
    fits: Callable[[tuple[StudentConfig, int]], bool],
) -> None:
    """Try sizes between the largest that fits and the smallest that does not, each halfway between the last two."""
    for _ in range(REFINEMENTS):
        middle = between(settings, low, high)
        if middle is None:
            return
        low, high = (middle, high) if fits(middle) else (low, middle)


def _require_answers(candidate: Candidate) -> None:
    """Raise DeviceError if a target ran no precision: the engine failed, independent of the student's size."""
    for target in {one.target for one in candidate.measured}:
        problems = [one.problem for one in candidate.measured if one.target == target]
        if all(problems):
            raise DeviceError(f"{candidate.name} on {target}: {problems[0]}")


def bisect(count: int, fits: Callable[[int], bool]) -> int | None:
    """Return the last index below `count` that fits, or None; indices after one that does not fit are assumed not to fit."""
    low, high = -1, count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return None if low < 0 else low


def _train_briefly(pipeline: Pipeline, candidate: Candidate, epochs: int) -> Candidate:
    """Distil a candidate for a few epochs in its own run folder, from the soft labels of the search's run."""
    plan = pipeline.config.distill.model_copy(update={"epochs": epochs, "control": False, "seeds": 1})
    config = pipeline.config.model_copy(update={"student": candidate.student, "distill": plan})
    folder = pipeline.run.folder / "search" / folder_name(candidate.name) / "run"
    run = Run(folder)
    for stage in REUSED:
        run.stages[stage] = pipeline.run.stages[stage]
        if (pipeline.run.folder / stage).is_dir():
            shutil.copytree(pipeline.run.folder / stage, folder / stage, copy_function=_link, dirs_exist_ok=True)
    trained = run_pipeline(config, run, pipeline.kits, pipeline.report, Plan(StudentRecord.stage))
    accuracy = trained.records[StudentRecord].student.val_accuracy
    return candidate.model_copy(update={"val_accuracy": accuracy})


def _link(source: str, target: str) -> None:
    link_or_copy(Path(source), Path(target))
