"""The soft labels stage: compute the teacher's logits once for every augmented view, and replace missing labels.

The fingerprint of a cache covers the teachers' code and weights, the data, its preprocessing, the views and package versions:
any change leads to another cache. What a fingerprint cannot cover, such as a file that the user's code reads, shows in the
answers: a block of a cache is recomputed before the cache is used. Caches are in EDGEDISTILL_CACHE, by default the cache folder of the user; a run has a link to
its cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from edgedistill.data.sources import Array
from edgedistill.data.views import Views, training_views
from edgedistill.distill.blocks import blocks_of, checksum
from edgedistill.distill.cache import KIND, Cache, link_or_copy, require_finite, require_float16, stored_logits
from edgedistill.distill.cells import pack_cells, unpack_cells
from edgedistill.distill.loading import Ask, answers_of, load_teacher, teacher_predictor
from edgedistill.distill.predictors import Answer, ask_in_batches, batch_size, mean_predictor, scorer_of
from edgedistill.distill.probabilities import MESSAGE, are_probabilities, log_probabilities
from edgedistill.distill.recompute import MAIN, differing, recompute
from edgedistill.distill.settings import SoftLabelSettings, gives_detections
from edgedistill.distill.several_teachers import parts_of, store_mean
from edgedistill.distill.teacher import load_logits, teacher_label
from edgedistill.distill.teacher_engine import EngineChoice, has_openvino, openvino_predictor
from edgedistill.distill.top_k import pack, unpack
from edgedistill.distill.training import TeacherLogits
from edgedistill.errors import ConfigError
from edgedistill.losses.batch import Tensors
from edgedistill.records.base import FileRef
from edgedistill.records.stages import SoftLabelsRecord, TeacherRecord
from edgedistill.runtime import processes
from edgedistill.runtime.arrays import write_arrays
from edgedistill.runtime.caches import caches_folder
from edgedistill.runtime.files import atomic_path, write_atomic
from edgedistill.runtime.progress import Reporter
from edgedistill.stages.stage import Workspace
from edgedistill.tasks.task import Task

RECORDED = "recorded"


@dataclass(frozen=True, slots=True)
class SoftLabels:
    """Logits (views, samples, classes) in the type of the cache, samples in the order of the training split, or top-k entries.

    Top-k entries (views, samples) are read at `temperature`, one of TEMPERATURES; those of a detector have `cells` cells. `others` are the teacher's other outputs
    (views, samples, ...).
    """

    logits: Array
    temperature: float = 1.0
    others: dict[str, Array] = field(default_factory=dict)
    cells: int = 0

    def take(self, positions: Array, views: Array, _: Tensors) -> TeacherLogits:
        """Return the logits of samples in their views."""
        entries = np.ascontiguousarray(self.logits[views, positions])
        others = {
            name: torch.from_numpy(kept[views, positions].astype(np.float32)) for name, kept in self.others.items()
        }
        if self.cells and entries.dtype.names:
            return TeacherLogits(unpack_cells(entries, self.cells), None, others)
        if entries.dtype.names:
            logits, classes = unpack(entries, self.temperature)
            return TeacherLogits(logits, classes, others)
        return TeacherLogits(torch.from_numpy(entries.astype(np.float32)), None, others)


@dataclass(frozen=True, slots=True)
class OnlineTeacher:
    """A teacher that runs on every batch, for views that are never repeated."""

    ask: Ask

    def take(self, _: Array, __: Array, inputs: Tensors) -> TeacherLogits:
        """Return the teacher's outputs (B, ...) for the inputs."""
        answer = self.ask(inputs)
        return TeacherLogits(answer.main, None, answer.others)


@dataclass(frozen=True, slots=True)
class Teachers:
    """The teachers of a run as functions: the weighted mean of their outputs."""

    settings: SoftLabelSettings
    workspace: Workspace

    @property
    def record(self) -> TeacherRecord:
        """The record of the teacher stage."""
        return self.settings.teacher

    def views(self) -> Views:
        """Return the augmented views of the samples that a student is distilled on."""
        return training_views(self.settings.dataset().distilled, self.settings.data, self.settings.views)

    def first_answer(self) -> Answer:
        """Return the teachers' answer for one view."""
        first = np.zeros(1, np.int64)
        return self.online()(self.views().batch(first, first))

    def online(self, precision: str | None = None) -> Ask:
        """Return the teachers without a cache: torch models run in torch, ONNX models in ONNX Runtime.

        Torch models compute in `precision`, by default that of their configuration.
        """
        return self._mean([self._ask(number, precision) for number in range(len(self.settings.teachers))])

    def in_engines(self, engines: str) -> Ask:
        """Return the teachers for a cache; `engines` has the engine of each teacher."""
        return self._mean([self._ask_in(number, engine) for number, engine in enumerate(engines.split())])

    def choose_engines(self, views: Views) -> str:
        """Choose the engine of each teacher; returns their names for the cache."""
        return " ".join(self._choose(number, views) for number in range(len(self.settings.teachers)))

    def _mean(self, asks: list[Ask]) -> Ask:
        return mean_predictor(asks, [teacher.weight for teacher in self.settings.teachers])

    def _file(self, number: int) -> Path:
        return self.workspace.path(self.record.teachers[number].file)

    def _ask(self, number: int, precision: str | None = None) -> Ask:
        settings, teacher = self.settings, self.settings.teachers[number]
        predict = teacher_predictor(
            teacher.source, settings.interface, settings.seed, self._file(number), precision or teacher.precision
        )
        return self._as_logits(number, answers_of(predict, settings.data.output))

    def _ask_in(self, number: int, engine: str) -> Ask:
        if engine != "openvino":
            return self._ask(number)
        if not has_openvino():  # the cache was begun where it is installed; answers of torch differ by rounding
            self.workspace.report.info(
                f"{teacher_label(number)}: OpenVINO is not installed; torch computes soft labels"
            )
            return self._ask(number)
        settings, teacher = self.settings, self.settings.teachers[number]
        model = load_teacher(teacher.source, settings.interface, settings.seed, self._file(number))
        predict = openvino_predictor(model, _first_batch(self.views()), teacher.precision)
        return self._as_logits(number, answers_of(predict, settings.data.output))

    def _as_logits(self, number: int, ask: Ask) -> Ask:
        """Return a teacher that answers with logits, also if its model ends in a softmax."""
        if not self.gives_probabilities(number, ask):
            return ask

        def answer(inputs: Tensors) -> Answer:
            main, others = ask(inputs)
            return Answer(log_probabilities(main), others)

        return answer

    def gives_probabilities(self, number: int, ask: Ask) -> bool:
        """Return whether the model of a teacher ends in a softmax, which its first batch decides, and report it."""
        found = are_probabilities(self.settings.task, ask(_first_batch(self.views())).main)
        if found:
            self.workspace.report.info(f"{teacher_label(number)}: {MESSAGE}")
        return found

    def _choose(self, number: int, views: Views) -> str:
        settings, teacher = self.settings, self.settings.teachers[number]
        if teacher.source.spec.source == "onnx":
            return "onnxruntime"
        model = load_teacher(teacher.source, settings.interface, settings.seed, self._file(number))
        choice = EngineChoice(settings.task, settings.interface, self.workspace.report)
        inputs = len(views.split) * settings.view_count
        return choice.choose((teacher.engine, teacher.precision), model, _first_batch(views), inputs)


def make_soft_labels(settings: SoftLabelSettings, workspace: Workspace) -> SoftLabelsRecord:
    """Cache the teacher's logits for the training views; with 0 views the teacher runs during training."""
    record = SoftLabelsRecord(
        fingerprint=workspace.key, views=settings.view_count, samples=settings.data.distilled,
        classes=len(settings.data.classes), top_k=stored_logits(settings.data, settings.view_count, settings.top_k), logits=None, engine=None,
        val_accuracy=_mean_accuracy(settings, workspace), targets=_targets(settings, workspace),
        parent=settings.teacher.file.sha256,
    )  # fmt: skip
    if record.views == 0:
        return record
    if settings.task.is_dense:
        found = Teachers(settings, workspace).first_answer()
        whole = {"top_k": 0} if gives_detections(settings) else {}
        record = record.model_copy(update={"shape": tuple(found.main.shape[1:])} | whole)
    cache = cache_of(record, settings.task)
    kept = workspace.folder("soft_labels")
    with cache.locked(workspace.report):
        _make_cache(settings, workspace, cache)
        if processes.is_main_process():
            for path in (cache.folder / "manifest.json", cache.folder / "logits.npy", *cache.output_files()):
                link_or_copy(path, kept / path.name)
    processes.barrier()
    engine = (cache.folder / "engine").read_text(encoding="utf-8")
    outputs = {cache.output_name(path): workspace.describe(kept / path.name) for path in cache.output_files()}
    return record.model_copy(
        update={"logits": workspace.describe(kept / "logits.npy"), "engine": engine, "outputs": outputs}
    )


def _make_cache(settings: SoftLabelSettings, workspace: Workspace, cache: Cache) -> None:
    """Fill a cache, unless it is complete and right; the caller holds its lock."""
    if processes.broadcast_from_rank0(processes.is_main_process() and _is_usable(settings, workspace, cache)):
        workspace.report.info("soft labels: taken from the cache")
    elif parts := parts_of(settings, cache):
        for number, (own, part) in enumerate(parts):
            workspace.report.info(f"soft labels: of {teacher_label(number)}, {own.teachers[0].source.spec}")
            with part.locked(workspace.report):
                _make_cache(own, replace(workspace, key=part.fingerprint), part)
        _fill_with_mean(cache, [part for _, part in parts], [teacher.weight for teacher in settings.teachers])
    else:
        fill_cache(settings, workspace, cache)


def _fill_with_mean(cache: Cache, parts: Sequence[Cache], weights: Sequence[float]) -> None:
    if processes.is_main_process():
        engines = [part.engines() or RECORDED for part in parts]
        write_atomic(cache.folder / "engine", " ".join(engines))
        store_mean(cache, parts, weights)
    processes.barrier()


def _is_usable(settings: SoftLabelSettings, workspace: Workspace, cache: Cache) -> bool:
    """Return whether a cache is complete and holds the answers of these teachers.

    Removes a cache that is damaged or of other teachers, complete or not, and any cache if `--from` asks for new soft labels.
    """
    if workspace.fresh:
        cache.discard()
        return False
    complete, block = cache.is_complete(workspace.report), cache.first_block()
    engines = cache.engines()
    if block is None or engines is None or engines == RECORDED:
        return complete
    teachers = Teachers(settings, workspace)
    files = {MAIN: cache.folder / "logits.npy"} | {cache.output_name(path): path for path in cache.output_files()}
    entries = {name: np.load(path, mmap_mode="r") for name, path in files.items()}
    wrong = differing(entries, recompute(teachers.in_engines(engines), teachers.views(), entries, block))
    if wrong:
        workspace.report.info(
            f"soft labels: the cache {cache.folder} holds other answers than this teacher gives now ({', '.join(wrong)}); "
            "it is removed and made again"
        )
        cache.discard()
    return complete and not wrong


def cache_of(record: SoftLabelsRecord, task: Task) -> Cache:
    """Return the cache of soft labels, which may not exist."""
    shape = (record.views, record.samples, *(record.shape or (record.classes,)))
    number: Literal["float16", "float32"] = "float32" if task.has_units else "float16"
    return Cache(
        caches_folder(KIND) / record.fingerprint, record.fingerprint, shape, record.top_k, record.classes, number
    )


def _mean_accuracy(settings: SoftLabelSettings, workspace: Workspace) -> float | None:
    """Return the validation metric of the mean of several teachers; None for a single teacher or without labels."""
    count = len(settings.teachers)
    if count == 1 or not settings.data.labelled:
        return None
    ask = Teachers(settings, workspace).online()
    scorer = replace(scorer_of(settings, settings.dataset().val), output=None)
    accuracy = scorer.score(lambda inputs: {"logits": ask(inputs).main})
    workspace.report.info(
        f"soft labels: mean of {count} teachers, validation {settings.task.metric_title} {accuracy:.2%}"
    )
    return accuracy


def _targets(settings: SoftLabelSettings, workspace: Workspace) -> FileRef | None:
    """Save the teachers' mean outputs (N, D), float32, for validation and test samples without labels."""
    if settings.data.labelled:
        return None
    path = workspace.folder("soft_labels") / "targets.npz"
    if processes.is_main_process():
        ask, data = Teachers(settings, workspace).online("fp32"), settings.dataset()
        outputs = {}
        for name, split in {"val": data.val, "test": data.test}.items():
            scorer = replace(scorer_of(settings, split), output=None)
            outputs[name] = scorer.answers(lambda inputs: {"logits": ask(inputs).main})
            _check(outputs[name], len(outputs[name]), (len(settings.data.classes),))
        with atomic_path(path) as scratch:
            write_arrays(scratch, outputs)
        workspace.report.info("soft labels: the data has no labels; students are compared with the teacher's outputs")
    processes.barrier()
    return workspace.describe(path)


def fill_cache(settings: SoftLabelSettings, workspace: Workspace, cache: Cache) -> None:
    """Fill a cache; an interrupted cache keeps its engines."""
    teachers = Teachers(settings, workspace)
    views = teachers.views()
    note, source = cache.folder / "engine", settings.teachers[0].source
    if source.spec.source == "logits":
        write_atomic(note, RECORDED)
        samples = len(next(iter(views.split.inputs.values())))
        logits = load_logits(source, settings, settings.view_count, samples)[views.split.rows]
        if are_probabilities(settings.task, torch.from_numpy(logits)):
            workspace.report.info(f"teacher: {MESSAGE}")
            logits = log_probabilities(torch.from_numpy(logits)).numpy()
        store_soft_labels(cache, logits[None])
        return
    if processes.is_main_process() and cache.engines() is None:
        write_atomic(note, teachers.choose_engines(views))
    processes.barrier()
    ask = teachers.in_engines(note.read_text(encoding="utf-8"))
    build_soft_labels(cache, _named_others(ask, settings.other_outputs), views, workspace.report)


def _named_others(ask: Ask, names: tuple[str, ...] | None) -> Ask:
    """Return a teacher limited to the named other outputs; None keeps all."""
    if names is None:
        return ask

    def answer(inputs: Tensors) -> Answer:
        main, others = ask(inputs)
        return Answer(main, {name: value for name, value in others.items() if name in names})

    return answer


def _first_batch(views: Views) -> Tensors:
    positions = np.arange(min(batch_size(views), len(views.split)))
    return views.batch(positions, np.zeros_like(positions))


def build_soft_labels(cache: Cache, ask: Ask, views: Views, report: Reporter) -> Path:
    """Fill a cache with a teacher's logits of augmented views and return its logits.npy.

    Entries of an interrupted call are kept. Raises ConfigError for logits that are not finite or too large for float16,
    and ConfigError for a teacher with another number of classes.
    """
    logits, done = cache.open()
    count, samples = cache.shape[:2]
    share = blocks_of(count, samples)[processes.rank() :: processes.world_size()]
    with report.track("soft labels", len(share)) as advance:
        for view, number, block in share:
            if not done[view, number].any():
                answer, others = ask_in_batches(ask, views, block, view)
                logits[view, block] = _entries(cache, answer, len(block))
                logits.flush()
                opened = cache.open_outputs({name: x.shape[1:] for name, x in others.items()})
                for name, kept in opened.items():
                    kept[view, block] = require_float16(others[name].numpy(), name)
                    kept.flush()
                filled = (logits, *(opened[name] for name in sorted(opened)))
                done[view, number] = checksum(kept[view, block] for kept in filled)
                done.flush()  # after the entries are on disk, in case the process is killed
            advance(1, f"view {view + 1} of {count}")
    processes.barrier()
    return cache.seal()


def store_soft_labels(cache: Cache, logits: Array) -> Path:
    """Store saved logits (views, samples, classes) as a finished cache and return its logits.npy."""
    entries = [_entries(cache, torch.from_numpy(np.ascontiguousarray(view)), cache.shape[1]) for view in logits]
    kept, _ = cache.open()
    kept[:] = np.stack(entries)
    kept.flush()
    return cache.seal()


def _entries(cache: Cache, answer: Tensor, samples: int) -> Array:
    """Check a teacher's logits and convert them to entries of the cache."""
    _check(answer.numpy(), samples, cache.shape[2:])
    if cache.number == "float16":
        require_float16(answer.numpy(), "logits")
    if not cache.top_k:
        return answer.numpy()
    return pack(answer, cache.top_k) if answer.ndim == 2 else pack_cells(answer, cache.classes, cache.top_k)


def _check(answer: Array, samples: int, shape: tuple[int, ...]) -> None:
    if answer.shape != (samples, *shape):
        raise ConfigError(f"teacher.model: outputs have shape {answer.shape}; expected {(samples, *shape)}")
    require_finite(answer, "logits")


def load_soft_labels(workspace: Workspace, record: SoftLabelsRecord, temperature: float = 1.0) -> SoftLabels:
    """Memory-map the logits and other outputs of a finished cache; `temperature` applies to top-k entries."""
    assert record.logits is not None
    others = {name: np.load(workspace.path(file), mmap_mode="r") for name, file in record.outputs.items()}
    cells = record.shape[0] if record.shape is not None and record.top_k else 0
    return SoftLabels(np.load(workspace.path(record.logits), mmap_mode="r"), temperature, others, cells)
