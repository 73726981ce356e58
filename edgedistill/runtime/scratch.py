"""Temporary folders that a killed process cannot leave behind for ever: the next process that needs one removes them."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Final

PREFIX: Final = "edgedistill-"
LOCK: Final = ".lock"
"""A file of each temporary folder; the process that works in the folder holds its lock."""
OLD_S: Final = 7 * 24 * 3600
"""The age in seconds from which a folder in the system's temporary folder is left over if it has no such file."""


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield an empty folder that only this user reads, and remove it afterwards."""
    temporary = Path(tempfile.gettempdir())
    _remove_old_folders(temporary)
    with locked_folder(temporary, PREFIX) as folder:
        work = folder / "work"
        work.mkdir()
        yield work


@contextmanager
def locked_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield a new folder in `parent` that `remove_unless_locked` spares, and remove it afterwards."""
    with ExitStack() as opened:
        while (folder := _lock_new(opened, parent, prefix)) is None:
            pass
        yield folder


def _lock_new(opened: ExitStack, parent: Path, prefix: str) -> Path | None:
    """Create a folder and lock it; return None if another process removed it before it was locked."""
    folder = Path(opened.enter_context(tempfile.TemporaryDirectory(dir=parent, prefix=prefix)))
    with suppress(FileNotFoundError):
        lock = opened.enter_context((folder / LOCK).open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / LOCK).exists():
            return folder
    return None


def remove_unless_locked(folder: Path) -> None:
    """Remove a folder of `locked_folder` unless a living process works in it."""
    try:
        with (folder / LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except FileNotFoundError:  # its process has not locked it yet, or was killed before that or while it removed it
        _remove_without_lock(folder)
    except OSError:  # another process holds the lock
        pass


def _remove_without_lock(folder: Path) -> None:
    """Remove a folder without the file of its lock; its process makes this file before others, and another folder if this one is gone."""
    with suppress(OSError):
        if LOCK not in (names := os.listdir(folder)):  # noqa: PTH208 - one look, in which the file is there or not
            for path in (folder / name for name in names):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            folder.rmdir()


@cache
def _remove_old_folders(temporary: Path) -> None:
    """Remove this user's folders in which no living process works, once in a process."""
    with os.scandir(temporary) as entries:
        mine = [
            Path(entry.path) for entry in entries
            if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False)
            and entry.stat(follow_symlinks=False).st_uid == os.getuid()
        ]  # fmt: skip
    for folder in mine:
        if (folder / LOCK).exists() or _is_old(folder):
            remove_unless_locked(folder)


def _is_old(folder: Path) -> bool:
    try:
        return time.time() - folder.stat().st_mtime > OLD_S
    except FileNotFoundError:  # another process has just removed it
        return False
