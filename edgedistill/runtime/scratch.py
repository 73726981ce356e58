"""Temporary folders that a killed process cannot leave behind for ever: the next command that needs one removes them."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

PREFIX: Final = "edgedistill-"
LOCK: Final = ".lock"
OLD_S: Final = 7 * 24 * 3600
"""The age in seconds from which a folder without a lock is left over: its process ended before it had a lock."""


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield an empty folder that only this user reads, and remove it afterwards."""
    _remove_left_over()
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name, (Path(name) / "new").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        Path(lock.name).rename(Path(name) / LOCK)  # under this name only once it is locked
        work = Path(name) / "work"
        work.mkdir()
        yield work


@cache
def _remove_left_over() -> None:
    """Remove this user's folders that no living process holds, once in a process."""
    with os.scandir(tempfile.gettempdir()) as entries:
        mine = [
            Path(entry.path) for entry in entries
            if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False)
            and entry.stat(follow_symlinks=False).st_uid == os.getuid()
        ]  # fmt: skip
    for folder in mine:
        if _is_left_over(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_left_over(folder: Path) -> bool:
    try:
        with (folder / LOCK).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return folder.exists() and time.time() - folder.stat().st_mtime > OLD_S
    except OSError:  # another process holds the lock, or has just removed the folder
        return False
    return True
