"""What the compile and bench stages are given."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import Field

from edgedistill.config.schema import BenchConfig, Budget, TargetConfig
from edgedistill.deploy.identity import form_on, identify_device
from edgedistill.kits.kits import Kit, targets_folder
from edgedistill.kits.scheme import with_form
from edgedistill.records.base import Record
from edgedistill.records.stages import (
    CompileRecord,
    DataRecord,
    ExportRecord,
    OnnxModel,
    QuantizedRecord,
    StudentRecord,
    TeacherRecord,
)
from edgedistill.runtime.files import hash_of, versions_of
from edgedistill.stages.stage import Sources


class TargetSettings(Record):
    """A target without its budget, its kit, the hash of the kit's files, and what is known of the device."""

    target: TargetConfig
    kit: Kit
    kit_sha256: str
    device: dict[str, str]

    def takes(self, model: OnnxModel) -> bool:
        """Tell whether an exported model is for this target."""
        if model.encoding not in (None, form_on(self.kit, self.target.device).encoding):
            return False
        return model.precision in self.target.precisions or (model.name, model.precision) == ("teacher", "fp32")


class CompileSettings(Record):
    """What the compile stage is given; `engines` are the versions of the engines' packages here."""

    export: ExportRecord
    targets: tuple[TargetSettings, ...]
    engines: dict[str, str]


class BenchSettings(CompileSettings):
    """What the bench stage is given; `harness` is the hash of the program that measures."""

    compiled: CompileRecord
    data: DataRecord
    teacher: TeacherRecord
    student: StudentRecord
    quantized: QuantizedRecord
    bench: BenchConfig
    seed: int
    harness: str
    meter: Path | None = Field(exclude=True)


def declare_compilation(sources: Sources) -> CompileSettings:
    """Declare what decides the artifacts; raises DeviceError for a device that cannot be reached or lacks its engine."""
    quantized = sources.records[QuantizedRecord]
    targets = tuple(_target(target, with_form(sources.kits[target.kit], quantized)) for target in sources.config.target)
    engines = versions_of(tuple(sorted({one.kit.package for one in targets})))
    return CompileSettings(export=sources.records[ExportRecord], targets=targets, engines=engines)


def declare_bench(sources: Sources) -> BenchSettings:
    """Declare what decides the measurements."""
    compilation, config, records = declare_compilation(sources), sources.config, sources.records
    meter = None if config.bench.meter is None else config.path(config.bench.meter)
    return BenchSettings(
        export=compilation.export, targets=compilation.targets, engines=compilation.engines,
        compiled=records[CompileRecord], data=records[DataRecord], teacher=records[TeacherRecord],
        student=records[StudentRecord], quantized=records[QuantizedRecord], bench=config.bench,
        seed=config.seed, harness=folder_hash(targets_folder() / "harness"), meter=meter,
    )  # fmt: skip


def _target(target: TargetConfig, kit: Kit) -> TargetSettings:
    return TargetSettings(
        target=target.model_copy(update={"budget": Budget()}), kit=kit, kit_sha256=folder_hash(kit.folder),
        device=identify_device(kit, target.device),
    )  # fmt: skip


def folder_hash(folder: Path) -> str:
    """Hash the programs and tables of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in (".py", ".toml", ".json"))
    return hash_of([[p.relative_to(folder).as_posix(), hashlib.sha256(p.read_bytes()).hexdigest()] for p in files])
