"""Files: atomic writes, content hashes, and the versions of packages."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from glob import escape
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Final

from edgedistill.records.base import Record
from edgedistill.runtime.scratch import locked_folder, remove_unless_locked

PART: Final = ".part-"
"""In the names of an unfinished file and its temporary folder."""
SEAL: Final = "sha256"
"""The field of a table that has the hash of all other fields."""
SEAL_BYTES: Final = 32
"""The size of the SHA-256 at the start of a sealed file."""


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file atomically: readers see the old or the new content, also after a crash."""
    with atomic_path(path) as scratch:
        scratch.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield the path of a new file, which replaces `path` if the block succeeds, and is deleted otherwise.

    The block writes in a temporary folder beside `path`, which is locked, so that no other process takes it for one that a killed
    process left. A lock of the file itself would end where a library writes another file and renames it, as safetensors does.
    What killed processes left of the same file is removed.
    """
    make_folder(path.parent)
    begin = f".{path.stem}{PART}"
    _remove_unless_locked(path.parent.glob(f"{escape(begin)}*"))
    with ExitStack() as opened:
        with locked_folder(path.parent, begin) as folder:
            scratch = folder / path.name
            yield scratch
            written = _finish(scratch, opened.enter_context(scratch.open("r+b")))
            opened.callback(written.unlink, missing_ok=True)
        written.replace(path)  # last, so that a process that is killed after it leaves nothing
        _flush_folder(path.parent)


def _finish(scratch: Path, file: IO[bytes]) -> Path:
    """Lock a file, which NFS allows if it is open for writing, write it to the disk, and move it out of its temporary folder."""
    fcntl.flock(file, fcntl.LOCK_EX)
    os.fsync(file.fileno())
    umask = os.umask(0)
    os.umask(umask)
    scratch.chmod(0o666 & ~umask)
    return scratch.rename(scratch.parent.with_name(f"{scratch.parent.name}.whole"))


def make_folder(folder: Path) -> None:
    """Create a folder and the missing ones above it, so that their names survive a loss of power."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            break
        except (
            FileExistsError
        ):  # a file has this name, or another process has removed the folder just after mkdir met it
            if os.path.lexists(folder) and not folder.is_dir():
                raise
    for one in missing:
        _flush_folder(one.parent)


def _flush_folder(folder: Path) -> None:
    """Write a folder's list of names to the disk, so that a new name survives a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_files(folder: Path, pattern: str) -> None:
    """Remove files from a folder and those in it, so that they do not come back after a loss of power."""
    for path in list(folder.rglob(pattern)):
        path.unlink()
        _flush_folder(path.parent)


def remove_parts(folder: Path) -> None:
    """Remove what killed processes left of unfinished files, from a folder and those in it; a living process locks its own."""
    for parent, folders, files in os.walk(folder):
        parts = [name for name in (*folders, *files) if name.startswith(".") and PART in name]
        folders[:] = [name for name in folders if name not in parts]
        _remove_unless_locked(Path(parent) / name for name in parts)


def _remove_unless_locked(parts: Iterable[Path]) -> None:
    for path in parts:
        if path.is_dir():
            remove_unless_locked(path)
            continue
        with suppress(OSError), path.open("r+b") as file:  # another process has locked or removed it
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)


def write_json(path: Path, value: Record | dict[str, Any]) -> None:
    """Write a record or a table as indented JSON, atomically."""
    text = value.model_dump_json(indent=2) if isinstance(value, Record) else json.dumps(value, indent=2)
    write_atomic(path, text + "\n")


def write_sealed(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write a file atomically: the SHA-256 of the content, then the content, which `write` writes."""
    with atomic_path(path) as scratch, scratch.open("w+b") as file:
        file.write(bytes(SEAL_BYTES))
        write(file)
        file.seek(SEAL_BYTES)
        digest = _digest(file)
        file.seek(0)
        file.write(digest)


def read_sealed(path: Path) -> BytesIO | None:
    """Return the content of a file of `write_sealed`, or None if the file is damaged."""
    with path.open("rb") as file:
        digest, content = file.read(SEAL_BYTES), file.read()
    return BytesIO(content) if hashlib.sha256(content).digest() == digest else None


def sha256_of(path: Path) -> str:
    """Hash a file's content."""
    with path.open("rb") as file:
        return _digest(file).hex()


def _digest(file: IO[bytes]) -> bytes:
    """Hash the rest of an open file."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.digest()


def hash_of(value: Any) -> str:
    """Hash a JSON-like value in its canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def seal_of(table: Mapping[str, Any]) -> str:
    """Hash a table of JSON without its own hash, the field `sha256`: it shows whether the table was changed since it was written."""
    content = {key: value for key, value in table.items() if key != SEAL}
    return hash_of(json.loads(json.dumps(content)))  # as it will be read: keys are text


def is_unchanged(table: Mapping[str, Any]) -> bool:
    """Tell whether a table fits its own hash; a table of an earlier version, which has none, does."""
    return SEAL not in table or table[SEAL] == seal_of(table)


def versions_of(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the installed versions of packages, without importing them."""
    return {package: _version_of(package) for package in packages}


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
