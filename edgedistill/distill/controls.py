"""Controls on disk, shared between runs: without a teacher, a student is the same whatever it was to learn from one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from edgedistill.config.training import TrainingConfig
from edgedistill.distill.cache import caches_folder, link_or_copy
from edgedistill.records.stages import TrainedModel
from edgedistill.runtime import processes
from edgedistill.runtime.files import hash_of, sha256_of, versions_of, write_json
from edgedistill.runtime.folder import identity
from edgedistill.runtime.job import Job
from edgedistill.runtime.user_code import is_function, module_file

SCHEMA: Final = "edgedistill.control/1"
PACKAGES: Final = ("edgedistill", "torch", "numpy", "accelerate", "torch-pruning")


def shared_control(job: Job, seed: int, weights: Path, train: Callable[[], TrainedModel]) -> TrainedModel:
    """Return the control of a seed from the cache, its weights linked as `weights`, or train it and keep it there."""
    folder = caches_folder("controls") / control_key(job, seed)
    kept = processes.as_the_first_says(_kept(folder))
    if kept is None:
        trained = train()
        if processes.is_first():
            link_or_copy(weights, folder / "model.safetensors")
            write_json(folder / "control.json", trained)  # last: it vouches for the weights
        processes.wait_for_all()
        return trained
    if processes.is_first():
        link_or_copy(folder / "model.safetensors", weights)
        job.report.line(f"control, seed {seed}: taken from the cache, validation {kept.val_accuracy:.2%}")
    processes.wait_for_all()
    return kept.model_copy(update={"file": job.run.ref(weights)})


def control_key(job: Job, seed: int) -> str:
    """Return the hash of all that decides a control: nothing of the teacher, unless the student is made from it by pruning."""
    config, plan, data = job.config, job.config.distill, job.config.data
    spec = config.student.model
    is_own = spec is not None and is_function(spec) and spec.partition(":")[0] not in ("zoo", "timm")
    return hash_of([
        SCHEMA, seed, job.data.fingerprint, config.seed, data.augment, data.mean, data.std,
        None if data.mel is None else data.mel.model_dump(),
        config.student.model_dump(), job.run.file_hash(module_file(spec, config.folder)) if is_own and spec else None,
        identity(job.results["teacher"]) if spec is None else None,
        plan.model_dump(include={*TrainingConfig.model_fields, "views"}),
        plan.loss if job.data.task != "classification" else None,
        processes.count(), versions_of(PACKAGES),
    ])  # fmt: skip


def _kept(folder: Path) -> TrainedModel | None:
    """Return the record of a control that is whole; a damaged one is made anew."""
    try:
        record = TrainedModel.model_validate_json((folder / "control.json").read_bytes())
    except (OSError, ValidationError):
        return None
    weights = folder / "model.safetensors"
    return record if weights.is_file() and sha256_of(weights) == record.file.sha256 else None
