"""Sentences for what the operating system refuses on this device, first of all a full disk."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from typing import Optional

SMALL_BYTES = 1 << 20
"""A disk with less free space than this counts as full."""


def failure(error: OSError) -> str:
    """Return what the operating system refused, and for a full disk what to do; numpy reports a full disk without an error number."""
    where = str(error.filename or _folder())
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or (error.errno is None and _is_full(where)):
        return _full(where)
    return str(error)


def why_full() -> Optional[str]:
    """Return the sentence for a full disk if the disk of the temporary folder is full."""
    return _full(_folder()) if _is_full(_folder()) else None


def _is_full(where: str) -> bool:
    folder = where if os.path.isdir(where) else os.path.dirname(where)
    return os.path.isdir(folder) and shutil.disk_usage(folder).free < SMALL_BYTES


def _folder() -> str:
    """Return the folder for temporary files; Python's own answer is another one when the disk of this one is full."""
    return os.environ.get("TMPDIR") or tempfile.gettempdir()


def _full(where: str) -> str:
    return f"the disk of the device is full ({where}); free some space there, and run the command again"
