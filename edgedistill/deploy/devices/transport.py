"""A harness command that runs on a device: the files it needs there, and the files that it returns."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

from edgedistill.deploy.devices.address import Address
from edgedistill.errors import DeviceError
from edgedistill.records.plain_text import plain

Progress = Callable[[str], None]

WAITING: Final = "waiting until another job on this device ends"
"""The line of the agent while another job runs on its device; it repeats it (targets/agent)."""
MOST_OUT_BYTES: Final = 16_000_000
"""The most that a harness command prints on stdout."""
MOST_RETURNED_BYTES: Final = 1_000_000_000
TIMES_SENT: Final = 16
"""A device returns at most so many bytes, and so many times what it was sent: raw samples have the answers to recorded inputs."""
MOST_FILES: Final = 10_000
LONGEST_NAME: Final = 1000


class LinkError(DeviceError):
    """A device could not be reached, or the link to it was cut."""


@dataclass(frozen=True, slots=True)
class HarnessCall:
    """A harness command with its arguments; names are paths in the work folder on the device, separated by `/`.

    `sends` maps names to files and folders of the host, `texts` maps names to contents. `returns` maps folders on the device
    to the folders of the host that receive their files; where `names` is not None, no other files are taken. With `keep` the
    device also keeps those files for the next call; with `alone` no other such call runs on the device at the same time. The call
    is stopped after `timeout_s`, without the time in which it waits for another job, and after `silence_s` without a line.
    """

    arguments: tuple[str, ...]
    sends: Mapping[str, Path]
    texts: Mapping[str, str] = field(default_factory=dict)
    returns: Mapping[str, Path] = field(default_factory=dict)
    names: frozenset[str] | None = None
    timeout_s: float | None = None
    silence_s: float | None = None
    keep: bool = False
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """The result of a call: exit code (-N for signal N), the text on stdout, and the last line on stderr."""

    code: int
    out: str
    last_line: str


Transport = Callable[[Address, HarnessCall, Progress], Coroutine[Any, Any, Finished]]
"""Runs a call on a device and passes on each line of its stderr; stops the call when cancelled.

Raises LinkError when the device cannot be reached or the connection is lost.
"""


def files_to_send(call: HarnessCall) -> Iterator[tuple[str, Path]]:
    """Yield the name on the device and the path on the host of every file that a call needs."""
    for name, path in call.sends.items():
        if path.is_file():
            yield name, path
        else:
            yield from folder_files(name, path)


def folder_files(name: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of a folder with their names below `name`, without caches and hidden files."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not any(part == "__pycache__" or part.startswith(".") for part in relative.parts):
            yield (PurePosixPath(name) / relative.as_posix()).as_posix(), path


def most_returned_bytes(call: HarnessCall) -> int:
    """Return how many bytes the files that a call returns may have together."""
    return MOST_RETURNED_BYTES + TIMES_SENT * sum(path.stat().st_size for _, path in files_to_send(call))


def place_returned(call: HarnessCall, name: str) -> Path:
    """Return the path on the host for a file from the device; refuse a name outside the expected folders, and unexpected names."""
    parts = PurePosixPath(name).parts
    known = "\0" not in name and len(name) <= LONGEST_NAME and (call.names is None or name in call.names)
    for folder, target in call.returns.items():
        inner = parts[len(PurePosixPath(folder).parts) :]
        if known and PurePosixPath(name).is_relative_to(folder) and inner and ".." not in inner:
            return target.joinpath(*inner)
    raise DeviceError(f"the device sent an unexpected file '{plain(name, 200)}'; it was not saved")
