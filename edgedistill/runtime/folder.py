"""The run folder: atomic writes, content hashes, and the manifest that lets a stage be skipped."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, TypeVar

from pydantic import ValidationError

from edgedistill.errors import ConfigError
from edgedistill.records.base import FileRef, Record, explain_validation
from edgedistill.records.lineage import lineage_of
from edgedistill.records.stages import (
    DataRecord,
    ExportRecord,
    OnnxModel,
    QuantizedRecord,
    SoftLabelsRecord,
    StageRecord,
    StudentRecord,
    TeacherRecord,
)
from edgedistill.runtime.caches import caches_folder
from edgedistill.runtime.files import (
    SEAL,
    hash_of,
    is_unchanged,
    make_folder,
    remove_parts,
    seal_of,
    sha256_of,
    write_json,
)

R = TypeVar("R", bound=Record)
S = TypeVar("S", bound=StageRecord)
LOCK: Final = ".lock"
SCHEMA, FIRST_SCHEMA = "edgedistill.run/2", "edgedistill.run/1"


class Run:
    """A run folder; `manifest.json` holds for each finished stage its key, record, settings, versions and seconds, and the configuration.

    Each stage's entry has the hash of its other fields, so that a value that was edited is not believed.

    The hashes of files, also of the data, are in the cache folder, so that what only examines a run can keep them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._has_new_hashes = self._is_locked = False
        self._text = _text_of(self._file)
        self._manifest = self._read()
        self._hashes = _read_hashes(self._memo)

    @property
    def _file(self) -> Path:
        return self.folder / "manifest.json"

    def _read(self) -> dict[str, Any]:
        """Return the manifest; raise ConfigError for a damaged one."""
        path = self._file
        if self._text is None:
            return {"schema": SCHEMA, "name": self.folder.name, "stages": {}}
        try:
            manifest = json.loads(self._text.decode())
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}: not JSON ({error}); move the run folder away to start again") from None
        if not isinstance(manifest, dict) or manifest.get("schema") not in (SCHEMA, FIRST_SCHEMA):
            raise ConfigError(f"{path}: is not a {SCHEMA} manifest; use another --run-dir")
        _require_stages(path, manifest.get("stages"))
        return _upgraded(manifest) if manifest["schema"] == FIRST_SCHEMA else manifest

    def refresh(self) -> None:
        """Read the manifest again if another process has changed it."""
        text = _text_of(self._file)
        if text != self._text:
            self._text = text
            self._manifest = self._read()

    @property
    def _memo(self) -> Path:
        return caches_folder("hashes") / f"{hash_of(str(self.folder.resolve()))}.json"

    @property
    def stages(self) -> dict[str, Any]:
        """The finished stages by name, in the order in which they finished."""
        stages: dict[str, Any] = self._manifest["stages"]
        return stages

    @property
    def configuration(self) -> str | None:
        """The configuration of the last run that executed a stage, as TOML; None for runs of versions that did not record it.

        Raises ConfigError if the text was changed since.
        """
        text = self._manifest.get("configuration")
        if isinstance(text, str) and self._manifest.get("configuration_sha256", hash_of(text)) != hash_of(text):
            raise ConfigError(
                f"{self._file}: 'configuration' was changed after the run; write it again: edgedistill run CONFIG --from report"
            )
        return text if isinstance(text, str) else None

    def configure(self, text: str) -> None:
        """Record the configuration; `finish` writes it."""
        self._manifest |= {"configuration": text, "configuration_sha256": hash_of(text)}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of this run folder, also where this object holds it already.

        Creates the folder, and removes it again if nothing is written into it. Raises ConfigError if another process holds the lock.
        """
        if self._is_locked:
            yield
            return
        made = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        with self._take_lock():
            remove_parts(self.folder)
            self._is_locked = True
            try:
                yield
            finally:
                self._is_locked = False
                if made and [path.name for path in self.folder.iterdir()] == [LOCK]:
                    (self.folder / LOCK).unlink()
                    _remove_empty(made)

    def _take_lock(self) -> IO[str]:
        """Return the locked file of this run folder; raise ConfigError if another process has locked it."""
        path = self.folder / LOCK
        while True:
            # FileNotFoundError: another process has just removed the folder, which it left empty.
            with suppress(FileNotFoundError), ExitStack() as opened:
                make_folder(self.folder)
                lock = opened.enter_context(path.open("w"))
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise ConfigError(
                        f"{self.folder}: another edgedistill process is using this run folder; wait for it to finish, or use --run-dir"
                    ) from None
                if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                    opened.pop_all()  # the lock stays open
                    return lock

    def ref(self, path: Path) -> FileRef:
        """Describe a file of this run by relative path, hash and size."""
        name = path.relative_to(self.folder).as_posix()
        return FileRef(path=name, sha256=self.file_hash(path), bytes=path.stat().st_size)

    def path(self, ref: FileRef) -> Path:
        """Return the path of a file of this run."""
        return self.folder / ref.path

    def finished(self, stage: str, key: str, kind: type[R]) -> R | None:
        """Return the record of a stage if its key matches and nothing of it was changed, otherwise None."""
        entry = self.stages.get(stage)
        if entry is None or entry.get("key") != key or self.damage(stage, kind) is not None:
            return None
        return kind.model_validate(entry["record"])

    def damage(self, stage: str, kind: type[Record]) -> str | None:
        """Say which file of a finished stage is missing or was changed, or that its entry was; None if nothing was, or it has not run."""
        entry = self.stages.get(stage)
        if entry is None:
            return None
        if not is_unchanged(entry):
            return f"its entry in {self._file} was changed"
        try:
            record = kind.model_validate(entry["record"])
        except ValidationError:
            return f"its entry in {self._file} is damaged"
        changed = next((self.path(ref) for ref in files_of(record) if not self.is_intact(ref)), None)
        return None if changed is None else f"{changed} is missing or was changed"

    def entry(self, stage: str) -> dict[str, Any] | None:
        """Return the manifest's entry of a stage, None if it has not run; raise ConfigError if the entry was changed."""
        entry: dict[str, Any] | None = self.stages.get(stage)
        if entry is not None and not is_unchanged(entry):
            raise ConfigError(
                f"{self._file}: the entry of stage '{stage}' was changed after the stage ended; {again(stage)}"
            )
        return entry

    def finish(self, stage: str, entry: dict[str, Any]) -> None:
        """Record a stage as done."""
        self.stages.pop(stage, None)
        self.stages[stage] = entry | {SEAL: seal_of(entry)}
        self.save()

    def save(self) -> None:
        """Write the manifest."""
        write_json(self._file, self._manifest)
        self._text = _text_of(self._file)
        self.save_hashes()

    def save_hashes(self) -> None:
        """Write the hashes of files that were hashed, where the cache can be written, so that they are not hashed again."""
        if self._has_new_hashes:
            with suppress(OSError):
                write_json(self._memo, self._hashes)
            self._has_new_hashes = False

    def file_hash(self, path: Path) -> str:
        """Hash a file; the hash is cached by size, modification time and inode, because data and caches can be large."""
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns, status.st_ino]
        name = str(
            path.absolute()
        )  # resolving the links of 100,000 files takes seconds; the inode says which file it is
        known = self._hashes.get(name)
        if known is None or known[:-1] != stamp:
            known = self._hashes[name] = [*stamp, sha256_of(path)]
            self._has_new_hashes = True
        return str(known[-1])

    def is_intact(self, ref: FileRef) -> bool:
        """Tell whether a file of this run is there as it was described; its hash is known if the file has not changed since."""
        path = self.path(ref)
        return path.is_file() and path.stat().st_size == ref.bytes and self.file_hash(path) == ref.sha256


def _text_of(path: Path) -> bytes | None:
    """Return the content of a file, or None if there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, each in the next, up to the first that is not empty."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _read_hashes(path: Path) -> dict[str, list[Any]]:
    """Return size, modification time, inode and hash by path; empty if there is no such file, or a damaged one."""
    try:
        hashes = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return hashes if isinstance(hashes, dict) else {}


def _require_stages(path: Path, stages: Any) -> None:
    """Raise ConfigError for stages without the tables that a manifest has."""
    entries = stages if isinstance(stages, dict) else {"stages": None}
    tables = ("record", "config", "parents")
    for name, entry in entries.items():
        if (
            not isinstance(entry, dict)
            or not all(isinstance(entry.get(key, {}), dict) for key in tables)
            or "record" not in entry
        ):
            raise ConfigError(
                f"{path}: the entry of stage '{name}' is damaged; move the run folder away to start again"
            )


def _upgraded(manifest: dict[str, Any]) -> dict[str, Any]:
    """Convert a manifest of the first schema, which called distillation "student" and stored settings without nesting."""
    names = {"student": StudentRecord.stage}
    stages = {names.get(name, name): entry for name, entry in manifest.get("stages", {}).items()}
    for name, entry in stages.items():
        parents = {names.get(parent, parent): value for parent, value in entry.get("parents", {}).items()}
        config = dict(entry.get("config", {}))
        if name == ExportRecord.stage:
            normalization = {key: config.get(key) for key in ("mean", "std")}
            config["views"] = {
                "seed": config.get("seed", 0),
                "mel": config.get("mel"),
                "inputs": {"input": normalization},
            }
        stages[name] = entry | {"parents": parents, "config": config}
    return manifest | {"schema": SCHEMA, "stages": stages}


def read_record(run: Run, kind: type[S]) -> S | None:
    """Return the record of a finished stage, None if the stage has not run; raise ConfigError for an unreadable or changed record."""
    entry = run.entry(kind.stage)
    if entry is None:
        return None
    try:
        return kind.model_validate(entry.get("record"))
    except ValidationError as error:
        raise ConfigError(explain_validation(error, run.folder / "manifest.json" / kind.stage)) from None


def require_record(run: Run, kind: type[S]) -> S:
    """Return the record of a stage; raise ConfigError where it has not run."""
    record = read_record(run, kind)
    if record is None:
        raise ConfigError(f"{run.folder}: stage '{kind.stage}' has not run; run 'edgedistill run CONFIG' first")
    return record


def read_settings(run: Run, kind: type[StageRecord]) -> dict[str, Any]:
    """Return the settings of a finished stage, or an empty dictionary if the stage has not run."""
    settings: dict[str, Any] = (run.entry(kind.stage) or {}).get("config", {})
    return settings


def read_lineage(run: Run, model: OnnxModel) -> dict[str, str]:
    """Return the lineage of an exported model; raise ConfigError if a stage has not run."""
    data, teacher = require_record(run, DataRecord), require_record(run, TeacherRecord)
    return lineage_of(model, data, teacher, require_record(run, StudentRecord), require_record(run, QuantizedRecord))


def require_unchanged(run: Run, file: FileRef, stage: str = ExportRecord.stage) -> Path:
    """Return the path of a file that a stage made; raise ConfigError if the file is missing or was changed."""
    path = run.path(file)
    if not run.is_intact(file):
        raise ConfigError(f"{path}: missing, or changed since stage '{stage}' made it; {again(stage)}")
    return path


def again(stage: str) -> str:
    """Return the next step where a result of a stage is missing or was changed."""
    return f"make it again: edgedistill run CONFIG --from {stage}"


def require_tokenizer(run: Run, model: OnnxModel) -> Path | None:
    """Return the tokenizer of a model of texts, None for other models; raise ConfigError if the file is missing or was changed."""
    text = None if model.contract is None else model.contract.text
    if text is None:
        return None
    path = run.folder / Path(model.file.path).with_name(text.tokenizer)
    if not path.is_file() or sha256_of(path) != text.sha256:
        raise ConfigError(
            f"{path}: missing, or changed since stage '{ExportRecord.stage}' made it; {again(ExportRecord.stage)}"
        )
    return path


def identity(record: Record) -> str:
    """Hash the content of a record; times and durations are excluded, because later stages do not depend on them."""
    if isinstance(record, DataRecord):
        return record.fingerprint
    if isinstance(record, SoftLabelsRecord):  # its fingerprint covers the other outputs
        record = record.model_copy(update={"outputs": {}})
        return hash_of([record.fingerprint, *(ref.sha256 for ref in files_of(record))])
    return hash_of([ref.sha256 for ref in files_of(record)])


def files_of(value: Any) -> Iterator[FileRef]:
    """Yield every file that a record refers to."""
    if isinstance(value, FileRef):
        yield value
    elif isinstance(value, Record):
        for name in type(value).model_fields:
            yield from files_of(getattr(value, name))
    elif isinstance(value, (tuple, list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from files_of(item)
