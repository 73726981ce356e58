"""Write a bundle: one file with the harness, a kit, a run's student and recorded inputs, which Python runs on a device."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field

from edgedistill.config.schema import BenchConfig
from edgedistill.deploy.devices.transport import folder_files
from edgedistill.deploy.stage import MIN_AGREEMENT
from edgedistill.errors import ConfigError
from edgedistill.kits.kits import Kit, targets_folder
from edgedistill.kits.scheme import with_form
from edgedistill.records.base import Encoding, Record
from edgedistill.records.bench_job import Arm, BenchJob
from edgedistill.records.measurement import ModelIdentity
from edgedistill.records.stages import (
    BenchRecord,
    CompileRecord,
    DataRecord,
    ExportRecord,
    OnnxModel,
    QuantizedRecord,
)
from edgedistill.runtime.files import atomic_path, sha256_of
from edgedistill.runtime.folder import (
    Run,
    read_lineage,
    read_settings,
    require_record,
    require_tokenizer,
    require_unchanged,
)
from edgedistill.runtime.version import VERSION
from edgedistill.tasks.table import find_task

SHEBANG = b"#!/usr/bin/env python3\n"
ADDRESS: Final = "bundle"
"""The address of the device in a bundle's measurements."""


class PackedFile(Record):
    """The hash and size of a file in a bundle."""

    sha256: str
    bytes: int


class DeviceForm(Record):
    """The encoding of int8 models for an architecture (None means any) from an engine version on."""

    arch: str | None
    since: str = Field(serialization_alias="from")
    encoding: Encoding


class BundledModel(Record):
    """An ONNX model in a bundle; `name` is that of its arm in the job, whose outputs must agree at least `min_agreement`."""

    name: str
    precision: str
    encoding: Encoding | None
    min_agreement: float


class Bundle(Record):
    """The manifest of a bundle, schema edgedistill.bundle/2.

    `job` is a job of the harness (edgedistill.job/1) with one arm per model. The `entry` of each arm is the ONNX model; the
    program replaces it with the artifact that it compiles on the device.
    """

    schema_: Literal["edgedistill.bundle/2"] = Field(default="edgedistill.bundle/2", serialization_alias="schema")
    name: str
    version: str
    kit: str
    install: str
    forms: tuple[DeviceForm, ...]
    job: dict[str, Any]
    models: tuple[BundledModel, ...]
    files: dict[str, PackedFile]


def write_bundle(run: Run, kit: Kit, precisions: tuple[str, ...], path: Path) -> tuple[Bundle, str]:
    """Write a bundle of a run's student for a kit; return its manifest and SHA-256. Equal runs give equal files.

    Raises ConfigError when the run has no export, or no model in one of the precisions.
    """
    kit = _kit_of(require_record(run, QuantizedRecord), kit, precisions)
    chosen = _chosen(run, kit, precisions)
    sources: dict[str, Path] = {}
    for model in chosen:
        sources |= {
            _model_path(model): require_unchanged(run, model.file),
            _io_path(model): require_unchanged(run, model.io),
        }
        tokenizer = require_tokenizer(run, model)
        if tokenizer is not None:
            sources[f"models/{tokenizer.name}"] = tokenizer
    models = tuple(_bundled(kit, model) for model in chosen)
    return pack(run.folder.name, kit, _job(run, kit, chosen), models, sources, path)


def pack(
    name: str, kit: Kit, job: BenchJob, models: tuple[BundledModel, ...], sources: dict[str, Path], path: Path
) -> tuple[Bundle, str]:
    """Write a bundle of models, with `sources`, the files of the job by their names in the bundle; return its manifest and SHA-256."""
    sources = dict(_program(kit)) | sources
    forms = [DeviceForm(arch=arch, since="0", encoding=encoding) for arch, encoding in sorted(kit.encoding.items())]
    forms += [DeviceForm(arch=None, since=form.since, encoding=form.encoding) for form in kit.form]
    manifest = Bundle(
        name=name, version=VERSION, kit=kit.name, install=kit.install, forms=tuple(forms), job=job.to_table(), models=models,
        files={file: _packed(source) for file, source in sorted(sources.items())},
    )  # fmt: skip
    with atomic_path(path) as scratch:
        scratch.write_bytes(_archive(manifest, sources))
        scratch.chmod(0o755)
        sha256 = sha256_of(scratch)
    path.chmod(0o755)
    return manifest, sha256


def _kit_of(quantized: QuantizedRecord, kit: Kit, precisions: tuple[str, ...]) -> Kit:
    """Return the kit with the encodings for the run's int8 model; there must be one for its activations if int8 is requested."""
    try:
        return with_form(kit.for_activations(quantized.activations), quantized)
    except ConfigError:
        if "int8" in precisions:
            raise
        return kit  # its float models do not depend on how activations are quantized


def _chosen(run: Run, kit: Kit, precisions: tuple[str, ...]) -> list[OnnxModel]:
    """Return the student's models in `precisions`, by default in all of the kit's, and int8 in each encoding of the kit."""
    for precision in precisions:
        if precision not in kit.precisions:
            raise ConfigError(f"kit '{kit.name}' has no precision '{precision}'; it has: {', '.join(kit.precisions)}")
    encodings = {None, *kit.encoding.values(), *(form.encoding for form in kit.form)}
    opset = max((kit.opset, *(form.opset for form in kit.form)))
    students = [model for model in require_record(run, ExportRecord).models if model.name == "student"]
    chosen = [
        model for model in students
        if model.precision in (precisions or kit.precisions) and model.encoding in encodings and model.opset <= opset
    ]  # fmt: skip
    missing = [precision for precision in precisions if precision not in {model.precision for model in chosen}]
    if missing or not chosen:
        exported = ", ".join(f"{m.precision} ({m.encoding or 'float'}, opset {m.opset})" for m in students)
        raise ConfigError(
            f"{run.folder}: no {missing[0] if missing else 'student'} model was exported for kit '{kit.name}', only {exported}; add a "
            f"[[target]] with kit = '{kit.name}' to the configuration, and run 'edgedistill export CONFIG' again"
        )
    return chosen


def _program(kit: Kit) -> Iterator[tuple[str, Path]]:
    """Yield the files of a bundle's program, the harness and the kit, with their names in the bundle."""
    yield "__main__.py", targets_folder() / "bundle" / "__main__.py"
    for name, folder in (("harness", targets_folder() / "harness"), (f"kits/{kit.name}", kit.folder)):
        yield from folder_files(name, folder)


def _bundled(kit: Kit, model: OnnxModel) -> BundledModel:
    return BundledModel(
        name=_arm_name(kit, model), precision=model.precision, encoding=model.encoding,
        min_agreement=MIN_AGREEMENT[model.precision],
    )  # fmt: skip


def _job(run: Run, kit: Kit, models: list[OnnxModel]) -> BenchJob:
    """Return the job of the run's bench stage for the models of a bundle, with the defaults where that stage has not run."""
    bench = read_settings(run, BenchRecord).get("bench", BenchConfig().model_dump())
    return BenchJob(
        arms=tuple(_arm(run, kit, model) for model in models), processes=bench["processes"], seconds=bench["seconds"],
        seed=read_settings(run, ExportRecord)["views"]["seed"],
    )  # fmt: skip


def _arm(run: Run, kit: Kit, model: OnnxModel) -> Arm:
    targets = read_settings(run, CompileRecord).get("targets", [])
    unmeasured: dict[str, Any] = {"name": kit.name, "threads": 1}
    target = next((target for target in targets if target["kit"] == kit.name), unmeasured)
    return Arm(
        name=_arm_name(kit, model), target=target["name"], address=ADDRESS, kit=kit.name, kit_dir=f"kits/{kit.name}",
        precision=model.precision, threads=target["threads"], entry=_model_path(model), files=(_model_path(model),),
        size_bytes=model.file.bytes,
        model=ModelIdentity(name=model.name, sha256=model.file.sha256, lineage=read_lineage(run, model)),
        io=_io_path(model), expected=model.expected, output=model.judged_output, threshold=model.threshold,
        metric=find_task(require_record(run, DataRecord).task).metric, contract=model.contract,
    )  # fmt: skip


def _arm_name(kit: Kit, model: OnnxModel) -> str:
    encoding = "" if model.encoding is None else f"-{model.encoding}"
    return f"bundle-{kit.name}-{model.precision}{encoding}"


def _model_path(model: OnnxModel) -> str:
    return f"models/{Path(model.file.path).name}"


def _io_path(model: OnnxModel) -> str:
    return f"io/{Path(model.io.path).name}"


def _packed(path: Path) -> PackedFile:
    return PackedFile(sha256=sha256_of(path), bytes=path.stat().st_size)


def _archive(manifest: Bundle, sources: dict[str, Path]) -> bytes:
    """Return a zip file that Python and a shell can run; its comment is the hash of the manifest."""
    text = manifest.model_dump_json(indent=2, by_alias=True).encode()
    buffer = io.BytesIO()
    buffer.write(SHEBANG)
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("bundle.json"), text, zipfile.ZIP_DEFLATED)
        for name, path in sorted(sources.items()):
            # The fixed date of ZipInfo makes equal files give equal bundles.
            archive.writestr(zipfile.ZipInfo(name), path.read_bytes(), zipfile.ZIP_DEFLATED)
        archive.comment = hashlib.sha256(text).hexdigest().encode()
    return buffer.getvalue()
