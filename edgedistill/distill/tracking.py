"""What a training tells MLflow or TensorBoard, by accelerate's trackers; nothing, unless the configuration asks for it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgedistill.config.training import TrainingConfig
from edgedistill.distill.settings import Tracking
from edgedistill.errors import ConfigError
from edgedistill.records.stages import Epoch

PACKAGES: Final = {"tensorboard": "tensorboard", "mlflow": "mlflow"}
"""The trackers, and the module that each needs; the extra that brings it has the tracker's name."""


@dataclass(frozen=True, slots=True)
class TrackingFolder:
    """Where trainings report their epochs: `folder` is TensorBoard's, in the run folder."""

    tracking: Tracking
    folder: Path


def check_trackers(trackers: Iterable[str]) -> None:
    """Raise ConfigError for a tracker whose package is not installed: accelerate would leave it out without a word."""
    for name in trackers:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise ConfigError(f"tracking.trackers: {name} is not installed; run: pip install 'edgedistill[{name}]'")


@contextmanager
def tracked(place: TrackingFolder | None, label: str, plan: TrainingConfig) -> Iterator[Any]:
    """Yield an accelerator; its trackers have begun a run that `label` names, with what the plan says in numbers and words."""
    from accelerate import Accelerator

    if place is None or not place.tracking.trackers:
        yield Accelerator()
        return
    tracking = place.tracking
    check_trackers(tracking.trackers)
    folder = place.folder / label.replace(" ", "-")
    accelerator = Accelerator(log_with=list(tracking.trackers), project_dir=str(folder))
    plain = {key: value for key, value in plan.model_dump().items() if isinstance(value, (bool, int, float, str))}
    names = {"mlflow": {"run_name": label}} if "mlflow" in tracking.trackers else {}
    accelerator.init_trackers(tracking.project, config=plain, init_kwargs=names)
    try:
        yield accelerator
    finally:
        accelerator.end_training()


def log_epoch(accelerator: Any, epoch: Epoch) -> None:
    """Log an epoch under its number: the validation metric is a fraction, whatever its name. Without trackers, do nothing."""
    metrics = {"loss": epoch.loss, "validation": epoch.val_accuracy, "lr": epoch.lr, "seconds": epoch.seconds}
    accelerator.log(metrics, step=epoch.epoch)
