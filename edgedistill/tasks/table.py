"""Find tasks by name: each is a module in this folder with a constant TASK."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path

from edgedistill.errors import ConfigError, nearest
from edgedistill.tasks.task import Task

SHARED = frozenset({
    "__init__", "table", "task", "values", "checks", "class_labels", "chance", "match", "matches", "detections", "decoders",
    "detector_forms", "coco", "details", "resampling", "paired", "mask_drops",
})  # fmt: skip
"""The modules in this folder that are not tasks."""


def task_names() -> tuple[str, ...]:
    """Return the possible values of [data] task."""
    files = sorted(path.stem for path in Path(__file__).parent.glob("*.py"))
    return tuple(name.replace("_", "-") for name in files if name not in SHARED)


@cache
def find_task(name: str) -> Task:
    """Return a task by name; raises ConfigError with the nearest match for an unknown name."""
    if name not in task_names():
        raise ConfigError(f"data.task: no task '{name}'{nearest(name, task_names())}")
    task: Task = importlib.import_module(f"edgedistill.tasks.{name.replace('-', '_')}").TASK
    return task
