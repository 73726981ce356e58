"""A stage of the pipeline: what it is given, what it makes, and under which key that is kept.

A stage is handed the settings that it declares, a frozen record, and nothing else of the configuration, the run or the
data. Its key is made of exactly these settings, the identities of the records among them, and the versions of its
packages. So a stage cannot read what its key lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

from edgedistill.config.schema import Config
from edgedistill.errors import ConfigError
from edgedistill.kits.kits import Kit
from edgedistill.records.base import FileRef, Record
from edgedistill.records.stages import StageRecord
from edgedistill.runtime.files import hash_of, versions_of
from edgedistill.runtime.folder import Run, identity
from edgedistill.runtime.progress import Reporter

S = TypeVar("S", bound=Record)
R = TypeVar("R", bound=StageRecord)
P = TypeVar("P", bound=StageRecord)


@dataclass(frozen=True, slots=True)
class Records:
    """The records of the stages that are done, each found by its type."""

    made: Mapping[str, StageRecord]

    def get(self, kind: type[P]) -> P | None:
        """Return the record of a type, or None where its stage has not run."""
        record = self.made.get(kind.stage)
        assert record is None or isinstance(record, kind)
        return record

    def __getitem__(self, kind: type[P]) -> P:
        """Return the record of a type; its stage must be done."""
        record = self.get(kind)
        if record is None:
            raise ConfigError(f"stage '{kind.stage}' has not run; run it first: --until {kind.stage}")
        return record


@dataclass(frozen=True, slots=True)
class Sources:
    """What settings are declared from: the configuration, the kits, and the records of the stages before."""

    config: Config
    kits: Mapping[str, Kit]
    records: Records
    hash_file: Callable[[Path], str]


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where a stage works: the files of its run, the key that its result is kept under, and where progress is reported."""

    root: Path
    key: str
    report: Reporter
    describe: Callable[[Path], FileRef]

    def folder(self, name: str) -> Path:
        """Return a folder of the run, made if need be."""
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def path(self, file: FileRef) -> Path:
        """Return where a file of the run lies."""
        return self.root / file.path


@dataclass(frozen=True, slots=True)
class Stage(Generic[S, R]):
    """One step of the pipeline, declared beside its code.

    `record` is what it makes, and names it; `settings` is what it is given, made by `declare`; `packages` are those whose
    versions could change its result; `shared` tells whether all processes of a launch take part; `check` looks at the
    settings before anything is written.
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
        """The stage's name, as it is printed, given to --from and --until, and found in the manifest."""
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
    """Return what a stage's settings say, without the records of other stages, which count by their identities."""
    records = {name for name in type(settings).model_fields if isinstance(getattr(settings, name), StageRecord)}
    return settings.model_dump(mode="json", exclude=records)


def identities_of(stage: Stage[Any, Any], records: Records) -> dict[str, str]:
    """Return the identity of each record that a stage reads."""
    return {parent.stage: identity(records[parent]) for parent in stage.parents}


def key_of(stage: Stage[Any, Any], settings: Record, records: Records) -> str:
    """Return the hash of all that decides what a stage makes."""
    parents = identities_of(stage, records)
    return hash_of([stage.name, settings_of(settings), parents, versions_of(stage.packages)])


def workspace_of(run: Run, key: str, report: Reporter) -> Workspace:
    """Return a run folder as a stage sees it."""
    return Workspace(run.folder, key, report, run.ref)
