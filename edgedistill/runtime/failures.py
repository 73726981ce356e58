"""Failures of the machine rather than of the program, as sentences: a full disk, missing permission, no memory, no package."""

from __future__ import annotations

import errno
import platform
import re
import shlex
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edgedistill.errors import ConfigError
from edgedistill.runtime.extras import missing_package
from edgedistill.runtime.files import versions_of

REPORTED: Final = ("edgedistill", "numpy", "onnx", "onnxruntime", "torch", "openvino")

FULL: Final = (
    "free some space, or name a folder on another disk (--run-dir, EDGEDISTILL_CACHE, TMPDIR); what is finished is kept"
)
STEPS: Final = {
    errno.ENOSPC: FULL, errno.EDQUOT: FULL, errno.EFBIG: FULL,
    errno.EACCES: "change its permissions, or name another folder",
    errno.EPERM: "change its permissions, or name another folder",
    errno.EROFS: "name a folder that can be written (--run-dir, EDGEDISTILL_CACHE, TMPDIR)",
    errno.ENOENT: "it was there before; run the command again when nothing removes files",
    errno.EIO: "the disk or the connection to it fails; copy the files to another disk",
    errno.ENOTDIR: "a file stands where a folder is needed; rename one of them",
    errno.EISDIR: "a folder stands where a file is needed; rename one of them",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its links lead in a circle; name the file itself",
    errno.EMFILE: "allow more open files: ulimit -n 4096",
    errno.ENFILE: "the machine has too many open files; end other programs",
}  # fmt: skip
"""The next step for each error number of the operating system that a user can act on."""
DISK_FULL: Final = re.compile(
    r"No space left on device|os error 28|\d+ requested and \d+ written|iostream error|inline_container.*unexpected pos"
)
"""The messages with which numpy, safetensors and torch report a full disk, without its error number."""
GONE: Final = re.compile(r"Parent directory .* does not exist|No such file or directory|os error 2\b")
"""The messages with which torch and safetensors report a folder that was removed, without the error number."""
NO_MEMORY: Final = re.compile(r"out of memory|can't allocate memory|not enough memory|bad_alloc|Unable to allocate")
MEMORY: Final = (
    "not enough memory; make [distill] batch_size or [data] size smaller, or end other programs. "
    "'edgedistill doctor CONFIG' says what each stage takes"
)


def failure_of(error: Exception) -> ConfigError | None:
    """Return the sentence for a failure of the machine, or None if the error is a bug of the program."""
    for one in _causes(error):
        found = _failure(one)
        if found is not None:
            return found
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes; a library's own error often has the operating system's as its cause."""
    while error is not None:
        yield error
        error = error.__cause__


def _failure(error: BaseException) -> ConfigError | None:
    if isinstance(error, ModuleNotFoundError):
        return missing_package(error)
    if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
        return ConfigError(MEMORY)
    if isinstance(error, RecursionError) and _is_reading(error):
        return ConfigError(
            "a JSON or TOML file has lists or tables that are nested too deeply; the option --verbose of edgedistill shows where it is read"
        )
    if isinstance(error, OSError) and error.errno in STEPS:
        where = f"{error.filename}: " if error.filename is not None else ""
        return ConfigError(f"{where}{(error.strerror or 'failed').lower()}; {STEPS[error.errno]}")
    return _in_words_of_a_library(str(error))


def _in_words_of_a_library(message: str) -> ConfigError | None:
    """Return the sentence for a failure that a library reports without the error number of the operating system, or None."""
    if DISK_FULL.search(message):
        return ConfigError(f"the disk is full; {FULL}")
    if GONE.search(message):
        return ConfigError(f"a file or its folder is gone ({message}); {STEPS[errno.ENOENT]}")
    return None


def _is_reading(error: BaseException) -> bool:
    """Return whether an error comes from Python's readers of JSON or TOML, which call themselves for each level of a file."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(Path(frame.filename).parent.name in ("json", "tomllib", "tomli") for frame in frames)


def bug_report(error: Exception) -> str:
    """Return the traceback of an unexpected error, and what to send to the project."""
    lines = "".join(traceback.format_exception(error))
    command = shlex.join(["edgedistill", *sys.argv[1:]])
    versions = ", ".join(f"{name} {number}" for name, number in versions_of(REPORTED).items() if number != "absent")
    return (
        f"{lines}edgedistill: this is a bug in edgedistill, not in your input. Please report it with the text above, the command "
        f"({command}) and the versions: Python {platform.python_version()}, {versions}"
    )
