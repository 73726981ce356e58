"""The checks of a configuration, its data, models and targets: `run` makes them before any stage writes, `doctor` at any time.

CHECKS is the table. A check is a function from Sources to findings; it may also raise EdgedistillError.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgedistill.config.schema import Config
from edgedistill.data.dataset import Dataset, check_mel, check_views, load_dataset
from edgedistill.data.examination import examine as examine_data
from edgedistill.data.settings import check_input_names, data_settings, fingerprint_of, view_settings
from edgedistill.data.sizes import find_coarse_limit
from edgedistill.errors import ConfigError, DeviceError
from edgedistill.kits.kits import Kit
from edgedistill.kits.scheme import with_scheme
from edgedistill.pipeline.config_checks import check_engines, check_tools, label_keys, note_views, note_weight
from edgedistill.pipeline.run_checks import Check, attempt, examine, finding, found_by
from edgedistill.pipeline.target_checks import check_file_names, check_target
from edgedistill.records.finding import Finding
from edgedistill.records.stage_names import (
    BENCH,
    COMPILE,
    DATA,
    DISTILL,
    EXPORT,
    QUANTIZE,
    SOFT_LABELS,
    STAGE_NAMES,
    TEACHER,
)
from edgedistill.records.stages import DataRecord
from edgedistill.runtime import processes
from edgedistill.runtime.files import sha256_of
from edgedistill.runtime.progress import Reporter
from edgedistill.stages.stage import Records, Sources
from edgedistill.tasks.checks import misfits
from edgedistill.tasks.table import find_task

if TYPE_CHECKING:
    from edgedistill.distill.settings import TeacherSettings
    from edgedistill.losses.batch import Tensors

LEARNING: Final = frozenset({DATA, TEACHER, SOFT_LABELS, DISTILL, QUANTIZE})
"""The stages that read the data and run models."""

SCORED: Final = 512
"""The samples that a loaded teacher is scored on before the teacher stage."""


def check_config(config: Config, kits: Mapping[str, Kit]) -> None:
    """Raise ConfigError for keys that conflict, and for targets whose kit, precision or device does not exist."""
    sources = Sources(config, kits, Records({}), lambda _: "")
    examine(CHECKS[:1], sources, frozenset(STAGE_NAMES)).require()


def check_own_folder(config: Config, folder: Path) -> None:
    """Raise ConfigError if the student starts with weights in the run's own folder, which the run replaces."""
    weights = config.student.weights
    if weights is not None and config.path(weights).is_relative_to(folder.resolve()):
        raise ConfigError(
            f"student.weights: {weights} is in the folder of this run, which would replace it; set another name, or use --run-dir"
        )


def examine_config(config: Config, kits: Mapping[str, Kit], report: Reporter) -> None:
    """Check a configuration and its data as `run` does before it writes anything, and print what is odd about the data."""
    check_config(config, kits)
    known, _ = with_scheme(config, kits)
    sources = Sources(known, kits_for(known, kits), Records({}), cache(sha256_of), report)
    examined = examine(CHECKS, sources, {DATA})
    examined.require()
    examined.tell(report)


def check_learning(sources: Sources) -> None:
    """Raise ConfigError for data, teachers, student and loss that do not go together; trains nothing."""
    examine([check for check in CHECKS if check.stages == LEARNING], sources, LEARNING).require()


def _conflicts(sources: Sources) -> Iterator[Finding]:
    """Yield the keys that conflict with the task, and the targets that cannot be as configured."""
    config = sources.config
    yield from map(partial(finding, subject="data.task"), misfits(config))
    found = (attempt(partial(check_target, sources, one), f"target '{one.name}'") for one in config.target)
    wrong = list(chain.from_iterable(found))
    yield from wrong or attempt(partial(check_file_names, config), "target")


def kits_for(config: Config, kits: Mapping[str, Kit]) -> dict[str, Kit]:
    """Return the kits; the kits of int8 targets are limited to encodings for the activations."""
    chosen, known = dict(kits), with_scheme(config, kits)[0]
    for target in config.target:
        if "int8" in target.precisions:
            chosen[target.kit] = kits[target.kit].for_activations(known.quantize.scheme.activations)
    return chosen


def _find_data(sources: Sources) -> Iterator[Finding]:
    data = sources.config.data
    for split, text in data.sources.items():
        if text is not None:
            yield from attempt(partial(fingerprint_of, sources, split, text), "data")


def _load_data(sources: Sources) -> Iterator[Finding]:
    yield from attempt(partial(dataset_of, sources), "data")


def dataset_of(sources: Sources) -> Dataset:
    """Load the data of a configuration; it is kept in memory."""
    return load_dataset(data_settings(sources), report=sources.report)


def _examine_data(sources: Sources) -> tuple[Finding, ...]:
    return examine_data(dataset_of(sources))


def _check_kinds(sources: Sources) -> Iterator[Finding]:
    """Yield the inputs whose values do not look like the kind that their shape and type stand for."""
    from edgedistill.data.recognition import find_doubts

    yield from find_doubts(dataset_of(sources), data_settings(sources).kinds)


def _check_views(sources: Sources) -> Iterator[Finding]:
    """Yield keys of [data], [distill] and [teacher] that do not fit the loaded data."""
    from edgedistill.data.views import training_views

    config, dataset = sources.config, dataset_of(sources)
    views = view_settings(config)
    yield from attempt(partial(check_input_names, config, dataset.record), "data.inputs")
    yield from attempt(partial(check_views, views, dataset.record), "data")
    plain = views.model_copy(update={"inputs": {}})
    yield from attempt(partial(training_views, dataset.train, dataset.record, plain), "data.augment")
    if not dataset.record.labelled or find_task(dataset.record.task).scores_pairs:
        yield from map(partial(finding, subject="data"), label_keys(config))


def _check_normalization(sources: Sources) -> Iterator[Finding]:
    from edgedistill.data.normalization import find_misfits

    yield from find_misfits(dataset_of(sources), view_settings(sources.config))


def _check_mel(sources: Sources) -> Iterator[Finding]:
    settings, views = data_settings(sources), view_settings(sources.config)
    yield from attempt(partial(check_mel, settings, views, load_dataset(settings).record), "data.mel")


def _find_teachers(sources: Sources) -> Iterator[Finding]:
    from edgedistill.models.source import teacher_source

    for number in range(len(sources.config.teachers)):
        yield from attempt(partial(teacher_source, sources.config, number, sources.hash_file), "teacher.model")


def _find_student(sources: Sources) -> Iterator[Finding]:
    from edgedistill.models.source import student_source

    yield from attempt(partial(student_source, sources.config, sources.hash_file), "student.model")


def _find_loss(sources: Sources) -> Iterator[Finding]:
    from edgedistill.distill.settings import custom_loss

    yield from attempt(partial(custom_loss, sources.config), "distill.loss")


def with_data(sources: Sources) -> Sources:
    """Return sources in which the data stage has run."""
    record = dataset_of(sources).record
    return replace(sources, records=Records({DataRecord.stage: record}))


def _sample(sources: Sources) -> Tensors:
    """Return inputs of models from two training samples that differ; without mean and std that do not fit the data."""
    import numpy as np

    from edgedistill.data.views import plain_views

    dataset, views = dataset_of(sources), view_settings(sources.config)
    if list(attempt(partial(check_views, views, dataset.record), "data")):
        views = views.model_copy(update={"inputs": {}})
    inputs, rows = dataset.train.inputs.values(), dataset.train.rows
    other = (at for at, row in enumerate(rows) if any(not np.array_equal(x[rows[0]], x[row]) for x in inputs))
    chosen = np.array([0, *islice(other, 1)])
    return plain_views(dataset.train, dataset.record, views).batch(chosen, chosen * 0)


def _check_teachers(sources: Sources) -> Iterator[Finding]:
    from edgedistill.distill.settings import declare_teacher

    dataset, settings = dataset_of(sources), declare_teacher(with_data(sources))
    for number in range(len(settings.teachers)):
        for one in found_by(partial(_check_teacher, sources, settings, number), "teacher"):
            hint = _hint(dataset) if one.severity == "error" else ""
            yield one.model_copy(update={"text": f"{one.text}{hint}"})


def _check_teacher(sources: Sources, settings: TeacherSettings, number: int) -> list[Finding]:
    from edgedistill.distill.settings import distinct_views
    from edgedistill.distill.teacher import check_teacher, load_logits, recorded_samples

    said = check_teacher(settings, number, _sample(sources))
    source = settings.teachers[number].source
    if source.spec.source == "logits":
        load_logits(source, settings, distinct_views(sources.config).views, recorded_samples(settings))
    return said


def _hint(dataset: Dataset) -> str:
    """Explain an error of a teacher whose classes may be numbered as the labels were before they were numbered anew."""
    if dataset.note is None:
        return ""
    return f" ({dataset.note}; to keep the numbers, list the names of all outputs of the teacher in data.classes)"


def _check_student(sources: Sources) -> Iterator[Finding]:
    from edgedistill.distill.settings import LearningSettings, learning
    from edgedistill.distill.student import check_student
    from edgedistill.models.source import student_source

    settings = LearningSettings(**learning(with_data(sources)))
    student = student_source(sources.config, sources.hash_file, settings.data.classes)
    yield from found_by(partial(check_student, settings, student, _sample(sources)), "student")


def _check_start(sources: Sources) -> Iterator[Finding]:
    """Yield how the inputs of an earlier run, whose student this one starts with, differ from those of this run."""
    from edgedistill.models.start import find_differences

    config = sources.config
    name = config.student.weights
    if name is not None and config.path(name).is_dir():
        record = dataset_of(sources).record
        yield from find_differences(config.path(name), name, record, view_settings(config))


def _check_distillation(sources: Sources) -> Iterator[Finding]:
    from edgedistill.distill.loading import build_student
    from edgedistill.distill.settings import declare_plan
    from edgedistill.distill.student import check_distillation

    plan = declare_plan(with_data(sources))
    student = build_student(plan.student, plan.interface, plan.seed).eval()
    yield from attempt(partial(check_distillation, plan, student, _sample(sources)), "distill")


def _check_export(sources: Sources) -> Iterator[Finding]:
    from edgedistill.pipeline.export_checks import find_unexportable

    yield from find_unexportable(with_data(sources))


def _check_int8(sources: Sources) -> Iterator[Finding]:
    from edgedistill.pipeline.export_checks import find_unquantizable

    yield from find_unquantizable(with_data(sources))


def _check_limit(sources: Sources) -> Iterator[Finding]:
    """Say if the validation set cannot tell whether int8 loses more than max_drop."""
    config, record = sources.config, dataset_of(sources).record
    has_int8 = any("int8" in target.precisions for target in config.target)
    if has_int8 and config.quantize.mode == "auto" and find_task(record.task).is_proportion:
        yield from find_coarse_limit(record.val, config.quantize.max_drop)


def _reach_targets(sources: Sources) -> Iterator[Finding]:
    """Yield the devices that do not answer, and the engines that they lack; targets with an error are not asked."""
    from edgedistill.deploy.reach import unreached

    if processes.is_main_process():
        sound = [one for one in sources.config.target if not list(attempt(partial(check_target, sources, one), ""))]
        yield from unreached(sound, sources.kits)


def _note_numbers(sources: Sources) -> Iterator[Finding]:
    note = dataset_of(sources).note
    if note is not None:
        yield finding(note, "data", "note")


def _score_teachers(sources: Sources) -> Iterator[Finding]:
    from edgedistill.distill.settings import declare_teacher
    from edgedistill.distill.teacher import examine_loaded

    settings = declare_teacher(with_data(sources))
    for number in range(len(settings.teachers)):
        yield from found_by(partial(examine_loaded, settings, number, SCORED), "teacher")


def disk_check(folder: Path, stages: AbstractSet[str]) -> Check:
    """Return the check that the disk has the space that some stages need; `folder` is the run folder."""

    def find(sources: Sources) -> Iterator[Finding]:
        from edgedistill.distill.settings import declare_plan
        from edgedistill.pipeline.space import check_space

        if processes.is_main_process():
            yield from check_space(sources, declare_plan(with_data(sources)), folder, stages)

    return Check("disk", find, LEARNING - {DATA}, needs=("teachers and data", "student and data", "loss"))


CHECKS: Final = (
    Check("configuration", _conflicts, frozenset(STAGE_NAMES)),
    Check("tools", check_tools, LEARNING),
    Check("data", _find_data, LEARNING),
    Check("samples", _load_data, LEARNING, needs=("data",)),
    Check("examination", _examine_data, frozenset({DATA}), needs=("samples",)),
    Check("kinds", _check_kinds, frozenset({DATA}), needs=("samples",)),
    Check("views", _check_views, LEARNING, needs=("samples",)),
    Check("mel", _check_mel, LEARNING, needs=("samples",)),
    Check("normalization", _check_normalization, frozenset({DATA, TEACHER, DISTILL}), needs=("views", "mel")),
    Check("teacher", _find_teachers, LEARNING),
    Check("student", _find_student, LEARNING),
    Check("loss", _find_loss, LEARNING),
    Check("teachers and data", _check_teachers, LEARNING, needs=("mel", "teacher")),
    Check("student and data", _check_student, LEARNING, needs=("mel", "student")),
    Check("start", _check_start, frozenset({DISTILL}), needs=("views", "student and data")),
    Check(
        "distillation",
        _check_distillation,
        LEARNING,
        needs=("teachers and data", "student and data", "loss"),
    ),
    Check("export", _check_export, frozenset({EXPORT}), needs=("configuration", "tools", "distillation")),
    Check("int8", _check_int8, frozenset({QUANTIZE}), needs=("configuration", "tools", "distillation")),
    Check("engine", check_engines, frozenset({SOFT_LABELS})),
    Check("number of views", note_views, frozenset({SOFT_LABELS})),
    Check("weight of the teacher", note_weight, frozenset({SOFT_LABELS})),
    Check("limit of int8", _check_limit, frozenset({QUANTIZE}), needs=("samples",)),
    Check("targets", _reach_targets, frozenset({COMPILE, BENCH}), error=DeviceError),
)
"""Each check before the stages that need it; a check comes after the checks that it needs."""

STAGES_OWN: Final = (
    Check("label numbers", _note_numbers, frozenset({DATA}), needs=("samples",)),
    Check("loaded teachers", _score_teachers, frozenset({TEACHER}), needs=("views", "teachers and data")),
)
"""Checks of `doctor` only: the stages data and teacher begin with them, and score a teacher on all of its samples."""
