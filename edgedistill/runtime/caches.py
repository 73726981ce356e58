"""The folders of caches that runs share, and their locks."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgedistill.errors import ConfigError
from edgedistill.runtime.files import make_folder, remove_parts


def caches_folder(kind: str) -> Path:
    """Return the folder of the caches of a kind, in EDGEDISTILL_CACHE or in the XDG cache folder of the user."""
    named = os.environ.get("EDGEDISTILL_CACHE")
    base = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "edgedistill"
    return base / kind


@contextmanager
def locked(folder: Path, wait: Callable[[], None]) -> Iterator[None]:
    """Create a folder and hold its lock; calls `wait` first if another process holds it.

    Raises ConfigError for a folder that cannot be written.
    """
    try:
        make_folder(folder)
        opened = (folder / ".lock").open("w")
    except OSError as error:
        raise ConfigError(
            f"{folder}: the cache cannot be written: {error.strerror}; set EDGEDISTILL_CACHE to a folder that can be written"
        ) from None
    with opened as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
        remove_parts(folder)
        yield
