"""What every stage is given: the configuration, the run folder, the kits, the data, and a voice."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from edgedistill.config.schema import Config
from edgedistill.kits.kits import Kit
from edgedistill.records.base import Record
from edgedistill.records.stages import DataRecord, SoftLabelsRecord
from edgedistill.runtime.folder import Run
from edgedistill.runtime.progress import Reporter

if TYPE_CHECKING:
    from edgedistill.data.dataset import Dataset

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Job:
    """One invocation of the pipeline."""

    config: Config
    run: Run
    kits: dict[str, Kit]
    report: Reporter
    results: dict[str, Record] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    def result(self, stage: str, kind: type[R]) -> R:
        """Return the record of an earlier stage."""
        record = self.results[stage]
        assert isinstance(record, kind), stage
        return record

    @property
    def data(self) -> DataRecord:
        """Return what the data is."""
        return self.result("data", DataRecord)

    @cached_property
    def fingerprint(self) -> str:
        """Return the hash of everything that decides the data."""
        from edgedistill.data.dataset import fingerprint_data

        return fingerprint_data(self.config, self.run)

    @property
    def dataset(self) -> Dataset:
        """The data; once soft labels are made for data without labels, with the teacher's outputs for validation and test."""
        record = self.results.get("soft_labels")
        return self._judged if isinstance(record, SoftLabelsRecord) and record.targets is not None else self._loaded

    @cached_property
    def _loaded(self) -> Dataset:
        """Load the data, once."""
        from edgedistill.data.dataset import load_dataset

        return load_dataset(self.config, self.fingerprint)

    @cached_property
    def _judged(self) -> Dataset:
        from edgedistill.data.dataset import with_targets

        targets = self.result("soft_labels", SoftLabelsRecord).targets
        assert targets is not None
        return with_targets(self._loaded, self.run.path(targets))

    def folder(self, stage: str) -> Path:
        """Return a stage's folder in the run, made if need be."""
        folder = self.run.folder / stage
        folder.mkdir(parents=True, exist_ok=True)
        return folder
