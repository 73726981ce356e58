"""Experiment tracking with MLflow or TensorBoard, by accelerate's trackers, if the configuration enables it."""

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
from edgedistill.records.training import Epoch

PACKAGES: Final = {"tensorboard": "tensorboard", "mlflow": "mlflow"}
"""The module that each tracker needs; the optional dependency has the name of the tracker."""


@dataclass(frozen=True, slots=True)
class TrackingFolder:
    """The trackers of a run, and the folder for TensorBoard in the run folder."""

    tracking: Tracking
    folder: Path


def check_trackers(trackers: Iterable[str]) -> None:
    """Raise ConfigError for a tracker whose package is not installed; accelerate would silently skip it."""
    for name in trackers:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise ConfigError(f"tracking.trackers: {name} is not installed; run: pip install 'edgedistill[{name}]'")


@contextmanager
def tracked(place: TrackingFolder | None, label: str, plan: TrainingConfig, *, varies: bool = False) -> Iterator[Any]:
    """Yield an accelerator whose trackers have started a run named `label`, with the values of the plan as parameters.

    `varies` is whether the weights that learn change in the training: processes then find out in each step which ones do.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs

    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)] if varies else None
    if place is None or not place.tracking.trackers:
        yield Accelerator(kwargs_handlers=handlers)
        return
    tracking = place.tracking
    check_trackers(tracking.trackers)
    folder = place.folder / label.replace(" ", "-")
    accelerator = Accelerator(log_with=list(tracking.trackers), project_dir=str(folder), kwargs_handlers=handlers)
    plain = {key: value for key, value in plan.model_dump().items() if isinstance(value, (bool, int, float, str))}
    names = {"mlflow": {"run_name": label}} if "mlflow" in tracking.trackers else {}
    accelerator.init_trackers(tracking.project, config=plain, init_kwargs=names)
    try:
        yield accelerator
    finally:
        accelerator.end_training()


def log_epoch(accelerator: Any, epoch: Epoch) -> None:
    """Log the metrics of an epoch to the trackers, if there are any; the validation metric is a fraction."""
    metrics = {"loss": epoch.loss, "validation": epoch.val_accuracy, "lr": epoch.lr, "seconds": epoch.seconds}
    accelerator.log(metrics, step=epoch.epoch)
