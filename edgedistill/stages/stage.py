"""A stage of the pipeline: its settings, its record, and the key that its record is cached under.

A stage only gets the settings that it declares, a frozen record; it gets no configuration, run or data set. Its key is the
hash of these settings, the identities of the records among them, and the versions of its packages. A stage therefore
cannot depend on a value that is missing from its key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

from edgedistill.config.schema import Config
from edgedistill.errors import ConfigError
from edgedistill.kits.kits import Kit
from edgedistill.records.base import FileRef, Record
from edgedistill.records.stages import StageRecord
from edgedistill.runtime.files import hash_of, make_folder, versions_of
from edgedistill.runtime.folder import Run, identity
from edgedistill.runtime.progress import QUIET, Reporter

S = TypeVar("S", bound=Record)
R = TypeVar("R", bound=StageRecord)
P = TypeVar("P", bound=StageRecord)


@dataclass(frozen=True, slots=True)
class Records:
    """The records of the finished stages, by record type."""

    made: Mapping[str, StageRecord]

    def get(self, kind: type[P]) -> P | None:
        """Return the record of a type, or None if its stage has not run."""
        record = self.made.get(kind.stage)
        assert record is None or isinstance(record, kind)
        return record

    def __getitem__(self, kind: type[P]) -> P:
        """Return the record of a type; raises ConfigError if its stage has not run."""
        record = self.get(kind)
        if record is None:
            raise ConfigError(f"stage '{kind.stage}' has not run; run it first: --until {kind.stage}")
        return record


@dataclass(frozen=True, slots=True)
class Sources:
    """The inputs for declaring settings: the configuration, the kits, the records of earlier stages, and what reports progress.

    `fingerprints` are those of the sources of data that are known so far: listing 100,000 files takes seconds, and settings are
    declared many times in a run.
    """

    config: Config
    kits: Mapping[str, Kit]
    records: Records
    hash_file: Callable[[Path], str]
    report: Reporter = QUIET
    fingerprints: dict[Any, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Workspace:
    """The run folder of a stage, the key of its record, the progress reporter, and whether --from asks for a new result.

    A stage that is `fresh` takes nothing from a cache that runs share.
    """

    root: Path
    key: str
    report: Reporter
    describe: Callable[[Path], FileRef]
    fresh: bool = False

    def folder(self, name: str) -> Path:
        """Return a folder of the run; creates the folder if needed."""
        folder = self.root / name
        make_folder(folder)
        return folder

    def path(self, file: FileRef) -> Path:
        """Return the path of a file of the run."""
        return self.root / file.path


@dataclass(frozen=True, slots=True)
class Stage(Generic[S, R]):
    """One step of the pipeline, declared beside its code.

    `record` is the type of its result, which also has the stage's name; `declare` builds its `settings`; `packages` are the
    packages whose versions can change the result; `shared` stages run in all processes of a launch; `check` validates the
    settings before any stage writes.
    """

    record: type[R]
    settings: type[S]
    declare: Callable[[Sources], S]
    make: Callable[[S, Workspace], R]
    packages: tuple[str, ...] = ("edgedistill",)
    shared: bool = False
    check: Callable[[S], None] | None = None

    @property
    def name(self) -> str:
        """The name of the stage in messages, in --from and --until, and in the manifest."""
        return self.record.stage

    @property
    def parents(self) -> tuple[type[StageRecord], ...]:
        """The records among the settings."""
        return tuple(
            kind
            for field in self.settings.model_fields.values()
            for kind in (field.annotation, *get_args(field.annotation))
            if isinstance(kind, type) and issubclass(kind, StageRecord)
        )


def settings_of(settings: Record) -> dict[str, Any]:
    """Return the settings of a stage as JSON, without the records of other stages; the key has their identities instead."""
    records = {name for name in type(settings).model_fields if isinstance(getattr(settings, name), StageRecord)}
    return settings.model_dump(mode="json", exclude=records)


def identities_of(stage: Stage[Any, Any], records: Records) -> dict[str, str]:
    """Return the identity of each record among the settings of a stage."""
    return {parent.stage: identity(records[parent]) for parent in stage.parents}


def key_of(stage: Stage[Any, Any], settings: Record, records: Records) -> str:
    """Return the key of a stage: the hash of its settings, the records it reads, and its package versions."""
    return _key(stage.name, settings, identities_of(stage, records), stage.packages)


def key_of_changed(kind: type[StageRecord], settings: Record, packages: tuple[str, ...]) -> str:
    """Return the key that the stage of a record has for changed settings, which hold the records that it reads."""
    held = [one for name in type(settings).model_fields if isinstance(one := getattr(settings, name), StageRecord)]
    return _key(kind.stage, settings, {one.stage: identity(one) for one in held}, packages)


def _key(name: str, settings: Record, parents: Mapping[str, str], packages: tuple[str, ...]) -> str:
    return hash_of([name, settings_of(settings), parents, versions_of(packages)])


def workspace_of(run: Run, key: str, report: Reporter, *, fresh: bool = False) -> Workspace:
    """Return the workspace of a stage in a run folder."""
    return Workspace(run.folder, key, report, run.ref, fresh)
