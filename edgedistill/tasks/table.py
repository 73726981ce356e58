"""The tasks by name: each is a file beside this one that holds a TASK."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path

from edgedistill.errors import ConfigError, nearest
from edgedistill.tasks.task import Task

SHARED = frozenset({"__init__", "table", "task", "values", "checks"})
"""The files of this folder that hold no task."""


def task_names() -> tuple[str, ...]:
    """Return the names that [data] task may have."""
    files = sorted(path.stem for path in Path(__file__).parent.glob("*.py"))
    return tuple(name.replace("_", "-") for name in files if name not in SHARED)


@cache
def find_task(name: str) -> Task:
    """Return the task of a name; raises ConfigError with the nearest match."""
    if name not in task_names():
        raise ConfigError(f"data.task: no task '{name}'{nearest(name, task_names())}")
    task: Task = importlib.import_module(f"edgedistill.tasks.{name.replace('-', '_')}").TASK
    return task
