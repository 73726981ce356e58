"""The run folder: atomic writes, content hashes, and the manifest that lets a stage be skipped."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from edgedistill.errors import ConfigError
from edgedistill.records.base import FileRef, Record
from edgedistill.records.stages import DataRecord, SoftLabelsRecord
from edgedistill.runtime.files import hash_of, sha256_of, write_json

R = TypeVar("R", bound=Record)
SCHEMA = "edgedistill.run/1"


class Run:
    """A run folder; `manifest.json` holds for each finished stage its key, record, configuration, versions and seconds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._manifest: dict[str, Any] = {"schema": SCHEMA, "name": folder.name, "stages": {}}
        self._hashes: dict[str, list[Any]] = {}
        path = folder / "manifest.json"
        if path.exists():
            try:
                manifest = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ConfigError(f"{path}: not JSON ({error}); move the run folder away to start afresh") from None
            if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
                raise ConfigError(f"{path}: is not a manifest of {SCHEMA}; use another --run-dir")
            self._manifest = manifest
        if self._memo.exists():
            self._hashes = json.loads(self._memo.read_text(encoding="utf-8"))

    @property
    def _memo(self) -> Path:
        return self.folder / ".hashes.json"  # beside the manifest, since it holds paths of this machine

    @property
    def stages(self) -> dict[str, Any]:
        """The finished stages, by name, in the order they ended."""
        stages: dict[str, Any] = self._manifest["stages"]
        return stages

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process out of this run folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"{self.folder}: another edgedistill works in this run folder; wait, or use --run-dir"
                ) from None
            yield

    def ref(self, path: Path) -> FileRef:
        """Describe a file of this run by relative path, hash and size."""
        name = path.relative_to(self.folder).as_posix()
        return FileRef(path=name, sha256=self.file_hash(path), bytes=path.stat().st_size)

    def path(self, ref: FileRef) -> Path:
        """Return where a file of this run lies."""
        return self.folder / ref.path

    def finished(self, stage: str, key: str, kind: type[R]) -> R | None:
        """Return a stage's record when it was made under the same key and its files are as they were left."""
        entry = self.stages.get(stage)
        if entry is None or entry["key"] != key:
            return None
        record = kind.model_validate(entry["record"])
        return record if all(self._intact(ref) for ref in files_of(record)) else None

    def finish(self, stage: str, entry: dict[str, Any]) -> None:
        """Record a stage as done."""
        self.stages.pop(stage, None)
        self.stages[stage] = entry
        self.save()

    def save(self) -> None:
        """Write the manifest."""
        write_json(self.folder / "manifest.json", self._manifest)
        write_json(self._memo, self._hashes)

    def file_hash(self, path: Path) -> str:
        """Hash a file, remembering the answer for its size and modification time, as data and caches can be large."""
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        name = str(path.resolve())
        known = self._hashes.get(name)
        if known is None or known[:2] != stamp:
            known = self._hashes[name] = [*stamp, sha256_of(path)]
        return str(known[2])

    def _intact(self, ref: FileRef) -> bool:
        path = self.path(ref)
        return path.is_file() and path.stat().st_size == ref.bytes and self.file_hash(path) == ref.sha256


def identity(record: Record) -> str:
    """Hash what a stage made, by content: when it was made, and how long that took, do not matter to its children."""
    if isinstance(record, DataRecord | SoftLabelsRecord):
        return record.fingerprint
    return hash_of([ref.sha256 for ref in files_of(record)])


def files_of(value: Any) -> Iterator[FileRef]:
    """Yield every file that a record refers to."""
    if isinstance(value, FileRef):
        yield value
    elif isinstance(value, Record):
        for name in type(value).model_fields:
            yield from files_of(getattr(value, name))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from files_of(item)
