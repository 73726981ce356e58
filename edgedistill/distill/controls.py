"""The cache of controls on disk, shared between runs: a control does not depend on the teacher."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edgedistill.config.training import TrainingConfig
from edgedistill.distill.cache import link_or_copy
from edgedistill.distill.settings import DistillSettings
from edgedistill.records.training import TrainedModel
from edgedistill.runtime import processes
from edgedistill.runtime.caches import caches_folder
from edgedistill.runtime.files import SEAL, hash_of, is_unchanged, seal_of, sha256_of, versions_of, write_json
from edgedistill.runtime.folder import identity
from edgedistill.stages.stage import Workspace

SCHEMA: Final = "edgedistill.control/1"
PACKAGES: Final = ("edgedistill", "torch", "numpy", "accelerate", "torch-pruning")


def shared_control(
    settings: DistillSettings, workspace: Workspace, seed: int, weights: Path, train: Callable[[], TrainedModel]
) -> TrainedModel:
    """Return the control of a seed from the cache, with its weights at `weights`; train and cache it if missing or `fresh`."""
    folder = caches_folder("controls") / control_key(settings, seed)
    kept = None if workspace.fresh else processes.broadcast_from_rank0(_kept(folder))
    if kept is None:
        trained = train()
        if processes.is_main_process():
            link_or_copy(weights, folder / "model.safetensors")
            table = trained.model_dump(mode="json")
            write_json(
                folder / "control.json", table | {SEAL: seal_of(table)}
            )  # last, because it marks the weights as valid
        processes.barrier()
        return trained
    if processes.is_main_process():
        link_or_copy(folder / "model.safetensors", weights)
        workspace.report.info(f"control, seed {seed}: taken from the cache, validation {kept.val_accuracy:.2%}")
    processes.barrier()
    return kept.model_copy(update={"file": workspace.describe(weights)})


def control_key(settings: DistillSettings, seed: int) -> str:
    """Return the key of a control; it does not include the teacher, unless the student is the pruned teacher."""
    plan = settings.distill
    return hash_of([
        SCHEMA, seed, settings.data.fingerprint, settings.views.model_dump(mode="json"), settings.data.output,
        settings.student.model_dump(mode="json"), identity(settings.teacher) if settings.student.model is None else None,
        plan.model_dump(include={*TrainingConfig.model_fields, "views"}),
        plan.loss if not settings.task.smooths_labels else None,  # for values, the loss on labels depends on the loss of the plan
        processes.world_size(), versions_of(PACKAGES),
    ])  # fmt: skip


def _kept(folder: Path) -> TrainedModel | None:
    """Return the record of a cached control, or None if it is missing or damaged."""
    try:
        table = json.loads((folder / "control.json").read_bytes())
        if not is_unchanged(table):
            return None
        record = TrainedModel.model_validate({key: value for key, value in table.items() if key != SEAL})
    except (OSError, ValueError, AttributeError, TypeError):
        return None
    weights = folder / "model.safetensors"
    return record if weights.is_file() and sha256_of(weights) == record.file.sha256 else None
