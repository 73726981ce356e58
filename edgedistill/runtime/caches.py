"""The folders of caches that runs share, and their locks."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def caches_folder(kind: str) -> Path:
    """Return the folder of the caches of a kind, in EDGEDISTILL_CACHE or in the XDG cache folder of the user."""
    named = os.environ.get("EDGEDISTILL_CACHE")
    base = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "edgedistill"
    return base / kind


@contextmanager
def locked(folder: Path, wait: Callable[[], None]) -> Iterator[None]:
    """Create a folder and hold its lock; calls `wait` first if another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
