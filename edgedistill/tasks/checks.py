"""Check that a configuration matches its task, before loading data."""

from __future__ import annotations

from edgedistill.config.schema import Config
from edgedistill.errors import ConfigError
from edgedistill.runtime.user_code import is_function
from edgedistill.tasks.table import find_task
from edgedistill.tasks.task import Task


def check_task(config: Config) -> None:
    """Raise ConfigError for keys that have no effect with the task of a configuration."""
    task = find_task(config.data.task)
    if config.data.dimensions is not None and task.needs_labels:
        raise ConfigError(
            f"data.dimensions: only applies to data without labels, but task '{task.name}' needs labels; remove the key"
        )
    _check_loss(config.distill.loss, task)
    if config.distill.top_k and not task.keeps_top_k:
        raise ConfigError(
            f"distill.top_k: only applies to classification, but data.task is '{task.name}'; remove the key"
        )
    if "scores" in config.export.bake and not task.has_scores:
        raise ConfigError(f"export.bake: data.task '{task.name}' has no scores; remove 'scores'")
    plans = (*config.teachers, config.distill)
    if any(plan.label_smoothing for plan in plans) and not task.smooths_labels:
        raise ConfigError(
            f"label_smoothing: only applies to classification, but data.task is '{task.name}'; remove the key"
        )


def _check_loss(loss: str, task: Task) -> None:
    if loss not in task.losses and not is_function(loss):
        fitting = " or ".join(f"'{name}'" for name in task.losses)
        raise ConfigError(f"distill.loss: '{loss}' does not fit data.task '{task.name}'; set loss = {fitting}")
