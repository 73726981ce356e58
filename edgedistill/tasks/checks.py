"""Check that a configuration matches its task, before loading data."""

from __future__ import annotations

from collections.abc import Iterator

from edgedistill.config.schema import Config
from edgedistill.runtime.user_code import is_function
from edgedistill.tasks.table import find_task
from edgedistill.tasks.task import Task


def misfits(config: Config) -> Iterator[str]:
    """Yield a message for each key that has no effect with the task of a configuration; ConfigError for an unknown task."""
    task = find_task(config.data.task)
    if config.data.dimensions is not None and task.needs_labels:
        yield (
            f"data.dimensions: only applies to data without labels, but task '{task.name}' needs labels; remove the key"
        )
    if "normalize" in config.export.bake and config.data.is_text:
        yield "export.bake: texts are not normalised; remove 'normalize'"
    if config.quantize.mode == "qat" and config.data.is_text:
        yield (
            "quantize.mode: 'qat' fine-tunes rounded models of inputs of one length, and texts have many; set mode = 'auto', which chooses "
            "among forms after training"
        )
    if config.data.augment and config.data.is_text:
        yield "data.augment: texts are not augmented; remove the key"
    yield from _of_loss(config, task)
    if config.distill.top_k and not task.keeps_top_k:
        yield f"distill.top_k: only applies to classification and detection, but data.task is '{task.name}'; remove the key"
    if "scores" in config.export.bake and not task.has_scores:
        yield f"export.bake: data.task '{task.name}' has no scores; remove 'scores'"
    plans = (*config.teachers, config.distill)
    if any(plan.label_smoothing for plan in plans) and not task.smooths_labels:
        yield f"label_smoothing: only applies to classification, but data.task is '{task.name}'; remove the key"


def _of_loss(config: Config, task: Task) -> Iterator[str]:
    plan = config.distill
    if plan.loss not in task.losses and not is_function(plan.loss):
        fitting = " or ".join(f"'{name}'" for name in task.losses)
        yield f"distill.loss: '{plan.loss}' does not fit data.task '{task.name}'; set loss = {fitting}"
    if plan.loss == "dkd" and config.data.unlabelled is not None:
        yield "distill.loss: 'dkd' needs the label of each sample, and those of data.unlabelled have none; set loss = 'kd', 'dist', 'ls' or 'mse'"
    if not plan.uses_features or "kd" in task.losses:
        return
    for key in ("standardize",) if plan.loss == "cwd-features" else ("standardize", "temperature"):
        if getattr(plan, key) != type(plan).model_fields[key].default:
            yield f"distill.{key}: only applies to logits, but data.task '{task.name}' compares outputs by mse; remove the key"
