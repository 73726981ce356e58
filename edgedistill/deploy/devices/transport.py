"""One verb of the harness as a device is given it: what it needs there, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from edgedistill.deploy.devices.address import Address
from edgedistill.errors import DeviceError

Progress = Callable[[str], None]


class LinkError(DeviceError):
    """A device could not be reached, or the link to it was cut."""


@dataclass(frozen=True, slots=True)
class HarnessCall:
    """A verb of the harness and its arguments; names are paths in the device's work folder, with `/` between the parts.

    `sends` are files and folders of the host by name, `texts` contents by name; `returns` are folders on the device, and
    the host's folders that get what is in them. With `keep` the device holds on to that, as it is wanted there next; with
    `alone` no other such call runs on the device meanwhile.
    """

    arguments: tuple[str, ...]
    sends: Mapping[str, Path]
    texts: Mapping[str, str] = field(default_factory=dict)
    returns: Mapping[str, Path] = field(default_factory=dict)
    timeout_s: float | None = None
    keep: bool = False
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """How a verb ended: exit code (-N for signal N), what it wrote to stdout, and its last line on stderr."""

    code: int
    out: str
    last_line: str


Transport = Callable[[Address, HarnessCall, Progress], Coroutine[Any, Any, Finished]]
"""Runs a call on a device, its stderr passed on line by line; when it is cancelled, it kills what it started there.

Raises LinkError when the device cannot be reached or is lost.
"""


def files_to_send(call: HarnessCall) -> Iterator[tuple[str, Path]]:
    """Yield the name on the device and the path here of every file that a call needs."""
    for name, path in call.sends.items():
        if path.is_file():
            yield name, path
        else:
            yield from folder_files(name, path)


def folder_files(name: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of a folder by their names below `name`, without what Python and editors leave there."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not any(part == "__pycache__" or part.startswith(".") for part in relative.parts):
            yield (PurePosixPath(name) / relative.as_posix()).as_posix(), path


def place_returned(call: HarnessCall, name: str) -> Path:
    """Return where a file from the device belongs here; one that would leave the folder it was asked for is refused."""
    parts = PurePosixPath(name).parts
    for folder, target in call.returns.items():
        inner = parts[len(PurePosixPath(folder).parts) :]
        if PurePosixPath(name).is_relative_to(folder) and inner and ".." not in inner:
            return target.joinpath(*inner)
    raise DeviceError(f"the device sent a file '{name}' that nobody asked for; it was refused")
