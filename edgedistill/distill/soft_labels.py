"""The teacher's logits for every augmented view, computed once, and its outputs where the data has no labels.

The fingerprint of a cache covers the teachers' weights, the data, its preparation, the views and the versions, so that
another cache is another folder and nothing is ever replayed. Caches lie in EDGEDISTILL_CACHE, by default the user's
cache folder; a run has a link to its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgedistill.data.sources import Array
from edgedistill.data.views import Views, plain_views, training_views
from edgedistill.distill.cache import Cache, caches_folder, kept_logits, link_or_copy
from edgedistill.distill.predictors import BATCH, Predict, predict_split
from edgedistill.distill.teacher import load_logits, load_teacher, mean_predictor, teacher_form, teacher_predictor
from edgedistill.distill.teacher_engine import choose_engine, openvino_predictor
from edgedistill.distill.top_k import deviation, pack, unpack
from edgedistill.distill.training import TeacherLogits
from edgedistill.errors import ConfigError, EdgedistillError
from edgedistill.records.base import FileRef
from edgedistill.records.stages import SoftLabelsRecord, TeacherRecord
from edgedistill.runtime import processes
from edgedistill.runtime.files import atomic_path, write_atomic
from edgedistill.runtime.job import Job
from edgedistill.runtime.progress import Reporter
from edgedistill.tasks.tasks import TASKS

RECORDED = "recorded"
TOLERANCE = 0.02  # of the largest logit: bfloat16 keeps 8 bits, and sums in another order on another machine


@dataclass(frozen=True, slots=True)
class SoftLabels:
    """Logits (views, samples, classes) in float16, samples in the order of the training split; or entries of `top_k`.

    Those (views, samples) are read at a temperature, which is one of the cache's.
    """

    logits: Array
    temperature: float = 1.0

    def take(self, positions: Array, views: Array, _: Tensor) -> TeacherLogits:
        """Return the logits of samples in their views."""
        found = np.ascontiguousarray(self.logits[views, positions])
        if found.dtype.names:
            return TeacherLogits(*unpack(found, self.temperature))
        return TeacherLogits(torch.from_numpy(found.astype(np.float32)))


@dataclass(frozen=True, slots=True)
class OnlineTeacher:
    """A teacher asked anew for every batch; for views that are never seen twice."""

    predict: Predict

    def take(self, _: Array, __: Array, inputs: Tensor) -> TeacherLogits:
        """Return the teacher's logits (B, classes) for the inputs."""
        return TeacherLogits(self.predict(inputs))


@dataclass(frozen=True, slots=True)
class Verification:
    """How many entries were recomputed, the largest difference, and whether that is no more than rounding."""

    compared: int
    max_abs_diff: float
    holds: bool


def make_soft_labels(job: Job) -> SoftLabelsRecord:
    """Cache the teacher's logits of the training views; with 0 views the teacher is asked online."""
    teacher = job.result("teacher", TeacherRecord)
    record = SoftLabelsRecord(
        fingerprint=job.keys["soft_labels"], views=job.config.distill.views, samples=job.data.train,
        classes=len(job.data.classes), top_k=kept_logits(job.config.distill, job.data), logits=None, engine=None,
        val_accuracy=_accuracy_of_several(job), targets=_targets(job), parent=teacher.file.sha256,
    )  # fmt: skip
    if record.views == 0:
        return record
    shape = (record.views, record.samples, record.classes)
    cache = Cache(caches_folder() / record.fingerprint, record.fingerprint, shape, record.top_k)
    kept = job.folder("soft_labels")
    with cache.locked(job.report):
        if processes.as_the_first_says(processes.is_first() and cache.is_complete()):
            job.report.line("soft labels: taken from the cache")
        else:
            fill_cache(job, cache)
        if processes.is_first():
            for name in ("manifest.json", "logits.npy"):
                link_or_copy(cache.folder / name, kept / name)
    processes.wait_for_all()
    engine = (cache.folder / "engine").read_text(encoding="utf-8")
    return record.model_copy(update={"logits": job.run.ref(kept / "logits.npy"), "engine": engine})


def _accuracy_of_several(job: Job) -> float | None:
    """Return the validation metric of the teachers' mean logits; None for one teacher, whose own it is, or without labels."""
    teachers, val = job.config.teachers, job.dataset.val
    if len(teachers) == 1 or not job.data.labelled:
        return None
    predict = online_predictor(job)
    accuracy = TASKS[job.data.task].score(predict_split(predict, plain_views(val, job.data, job.config)), val.labels)
    job.report.line(
        f"soft labels: mean of {len(teachers)} teachers, validation {TASKS[job.data.task].shown} {accuracy:.2%}"
    )
    return accuracy


def _targets(job: Job) -> FileRef | None:
    """Keep the teachers' mean outputs (N, D) in float32 of validation and test samples that have no labels."""
    if job.data.labelled:
        return None
    path = job.folder("soft_labels") / "targets.npz"
    if processes.is_first():
        predict = online_predictor(job, "fp32")
        splits = {"val": job.dataset.val, "test": job.dataset.test}
        outputs = {name: predict_split(predict, plain_views(s, job.data, job.config)) for name, s in splits.items()}
        for answer in outputs.values():
            _check(answer, len(answer), len(job.data.classes))
        with atomic_path(path) as scratch, scratch.open("wb") as file:
            np.savez(file, allow_pickle=False, **outputs)
        job.report.line("soft labels: the data has no labels; students are held against the teacher's outputs")
    processes.wait_for_all()
    return job.run.ref(path)


def fill_cache(job: Job, cache: Cache) -> None:
    """Fill a cache by the teacher's form; an interrupted cache keeps the engines that it was begun with."""
    views = training_views(job.dataset.train, job.data, job.config)
    note = cache.folder / "engine"
    if teacher_form(job.config.teacher) == "logits":
        write_atomic(note, RECORDED)
        store_soft_labels(cache, load_logits(job.config, job.data, len(views.split.inputs))[views.split.rows][None])
        return
    if processes.is_first() and not note.exists():
        write_atomic(note, " ".join(_choose(job, number, views) for number in range(len(job.config.teachers))))
    processes.wait_for_all()
    engines = note.read_text(encoding="utf-8")
    build_soft_labels(cache, soft_label_predictor(job, engines), views, job.report)


def soft_label_predictor(job: Job, engines: str) -> Predict:
    """Return the teachers as they answer, or answered, for a cache: each in its engine, which the cache names."""
    predicts = [_predictor_in(job, number, engine) for number, engine in enumerate(engines.split())]
    return mean_predictor(predicts, [plan.weight for plan in job.config.teachers])


def online_predictor(job: Job, precision: str | None = None) -> Predict:
    """Return the teachers as they answer without a cache: torch models in torch, ONNX models in ONNX Runtime.

    Torch models compute in `precision`, or in that of their own configuration.
    """
    predicts = [teacher_predictor(job, number, precision) for number in range(len(job.config.teachers))]
    return mean_predictor(predicts, [plan.weight for plan in job.config.teachers])


def _predictor_in(job: Job, number: int, engine: str) -> Predict:
    if engine != "openvino":
        return teacher_predictor(job, number)
    views = training_views(job.dataset.train, job.data, job.config)
    return openvino_predictor(load_teacher(job, number), _first_batch(views), job.config.teachers[number].precision)


def _choose(job: Job, number: int, views: Views) -> str:
    plan = job.config.teachers[number]
    if teacher_form(plan) == "onnx":
        return "onnxruntime"
    return choose_engine(plan, load_teacher(job, number), _first_batch(views), job.report, job.data.task)


def _first_batch(views: Views) -> Tensor:
    positions = np.arange(min(BATCH, len(views.split)))
    return views.batch(positions, np.zeros_like(positions))


def verify_soft_labels(job: Job, samples: int) -> Verification:
    """Recompute blocks of a run's cached entries, drawn at random, until `samples` of them were compared."""
    record = job.result("soft_labels", SoftLabelsRecord)
    if record.logits is None or record.engine is None or record.engine == "recorded":
        raise ConfigError("there is nothing to recompute: the teacher is asked online, or its logits were recorded")
    kept = load_soft_labels(job.run.path(record.logits)).logits
    views = training_views(job.dataset.train, job.data, job.config)
    predict = soft_label_predictor(job, record.engine)
    # Whole blocks, as they were computed: in bfloat16 an answer depends on what else is in its batch.
    blocks = [(v, start) for v in range(record.views) for start in range(0, record.samples, BATCH)]
    order = np.random.default_rng().permutation(len(blocks))
    worst, compared, scale = 0.0, 0, float(np.abs(kept["logits"][0] if kept.dtype.names else kept[0]).max())
    for view, start in (blocks[i] for i in order):
        block = np.arange(start, min(start + BATCH, record.samples))
        answer, entries = predict(views.batch(block, np.full_like(block, view))), kept[view, block]
        worst = max(worst, deviation(answer, entries))
        compared += len(block)
        if compared >= samples:
            break
    return Verification(compared, worst, worst <= TOLERANCE * scale)


def build_soft_labels(cache: Cache, predict: Predict, views: Views, report: Reporter) -> Path:
    """Fill a cache with a teacher's logits of augmented views and return its logits.npy.

    What an interrupted call had done is kept. Raises EdgedistillError for logits that are not finite or do not fit
    float16, and for a teacher of other classes.
    """
    logits, done = cache.open()
    count, samples, _ = cache.shape
    blocks = [(v, np.arange(i, min(i + BATCH, samples))) for v in range(count) for i in range(0, samples, BATCH)]
    share = blocks[processes.rank() :: processes.count()]
    with report.track("soft labels", len(share)) as advance:
        for view, block in share:
            if not done[view, block].all():
                answer = predict(views.batch(block, np.full_like(block, view)))
                logits[view, block] = _entries(cache, answer, len(block))
                logits.flush()
                done[view, block] = True  # after the logits are on disk, so that a kill cannot mark what is not
                done.flush()
            advance(1, f"view {view + 1} of {count}")
    processes.wait_for_all()
    return cache.seal()


def store_soft_labels(cache: Cache, logits: Array) -> Path:
    """Keep recorded logits (views, samples, classes) as a finished cache and return its logits.npy."""
    found = [_entries(cache, torch.from_numpy(np.ascontiguousarray(view)), cache.shape[1]) for view in logits]
    kept, done = cache.open()
    kept[:], done[:] = np.stack(found), True
    kept.flush()
    return cache.seal()


def _entries(cache: Cache, answer: Tensor, samples: int) -> Array:
    """Return what a cache keeps of a teacher's logits, once they are seen to be sound."""
    _check(answer.numpy(), samples, cache.shape[2])
    return pack(answer, cache.top_k) if cache.top_k else answer.numpy()


def _check(answer: Array, samples: int, classes: int) -> None:
    if answer.shape != (samples, classes):
        raise ConfigError(f"teacher.model: answers {answer.shape} for {samples} samples of {classes} classes or values")
    if not np.isfinite(answer).all() or np.abs(answer).max() > np.finfo(np.float16).max:
        raise EdgedistillError(
            "teacher: logits are not finite, or too large for float16; check its weights and mean/std"
        )


def load_soft_labels(path: Path, temperature: float = 1.0) -> SoftLabels:
    """Map a finished cache's logits, to be read at a temperature where they are not all of a view's."""
    return SoftLabels(np.load(path, mmap_mode="r"), temperature)
