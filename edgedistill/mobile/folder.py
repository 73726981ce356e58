"""Write a folder for app developers: the student in ORT format, a description of its inputs, and loading code."""

from __future__ import annotations

import logging
import platform
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from pydantic import Field

from edgedistill.deploy.harness import Compilation, compile_model
from edgedistill.errors import ConfigError
from edgedistill.graphs.pair_sums import MARK
from edgedistill.graphs.run import run_onnx
from edgedistill.kits.kits import Kit, targets_folder
from edgedistill.kits.scheme import overflows_on, with_form
from edgedistill.mobile.contract_code import contract_code
from edgedistill.mobile.readme import readme
from edgedistill.mobile.texts import text_readme, write_text_files
from edgedistill.mobile.usability import Usability, check_usability
from edgedistill.records.base import Encoding, Record
from edgedistill.records.contract import Contract
from edgedistill.records.stages import DataRecord, ExportRecord, InputRecord, OnnxModel, QuantizedRecord
from edgedistill.runtime.files import sha256_of, write_atomic, write_json
from edgedistill.runtime.folder import Run, read_settings, require_record, require_tokenizer, require_unchanged
from edgedistill.runtime.scratch import scratch_folder

ARCH = "aarch64"
OPERATORS = "required_operators_and_types.config"
MANIFEST = "mobile.json"
EXAMPLES = 8


class Tensor(Record):
    """An input or output of a model: its ONNX shape, batch first, with the names of axes that vary, and its numpy type."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class MobileModel(Record):
    """A model in the folder: the file in ORT format (`file`) and the ONNX file that it was converted from (`onnx`).

    `max_abs_diff` is the largest difference from the recorded outputs over the examples, on this machine; None with a
    `reason` if this machine cannot compute what a phone computes.
    """

    precision: str
    encoding: Encoding | None
    file: str
    sha256: str
    bytes: int
    onnx: str
    onnx_sha256: str
    max_abs_diff: float | None
    reason: str | None = None
    usability: tuple[Usability, ...]


class Preprocessing(Record):
    """The preprocessing of a raw sample, in this order; None or 1 means no change.

    If `baked`, the model contains the preprocessing and takes raw samples.
    """

    baked: bool
    sample_dtype: str
    sample_shape: tuple[int, ...]
    divide_by: float
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    log_mel: dict[str, Any] | None


class Mobile(Record):
    """The manifest of the folder, schema edgedistill.mobile/1; `probabilities` is whether the model contains the softmax.

    `contract` is None for models that were exported before models had contracts.
    """

    schema_: Literal["edgedistill.mobile/1"] = Field(default="edgedistill.mobile/1", serialization_alias="schema")
    name: str
    kind: str
    task: str
    classes: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    preprocessing: Preprocessing
    probabilities: bool
    contract: Contract | None = None
    models: tuple[MobileModel, ...]
    made_with: str


def write_mobile(run: Run, kit: Kit, folder: Path) -> Mobile:
    """Write the folder for the student of a run in every precision of the kit, and return its manifest.

    Raises ConfigError if the run was not exported for the kit, or if the folder contains other files.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise ConfigError(f"{folder}: is not empty and was not written by this command; choose another folder")
    with scratch_folder() as scratch:
        mobile = _write(run, kit, scratch)
        made = [path for path in scratch.rglob("*") if path.is_file()]
        for path in sorted(made, key=lambda one: one.name != MANIFEST):  # it marks the folder as this command's
            write_atomic(folder / path.relative_to(scratch), path.read_bytes())
    return mobile


def _write(run: Run, kit: Kit, folder: Path) -> Mobile:
    """Write all files into an empty folder, and return the manifest."""
    models = _students(run, kit)
    tokenizer = require_tokenizer(run, models[-1])
    if tokenizer is None:
        _require_one_input(models[-1])
    made = tuple(_write_model(run, kit, model, folder) for model in models)
    _write_operators([folder / model.file for model in made], folder / OPERATORS)
    source = onnx.load(run.path(models[-1].file))
    data = require_record(run, DataRecord)
    mobile = Mobile(
        name=run.folder.name, kind=data.inputs[0].kind, task=data.task, classes=data.classes,
        inputs=tuple(map(_tensor, source.graph.input)), outputs=tuple(map(_tensor, source.graph.output)),
        preprocessing=_preprocessing(run, data.inputs[0]), models=made,
        contract=models[-1].contract, probabilities="scores" in read_settings(run, ExportRecord)["export"]["bake"], made_with=f"onnxruntime {_version()}",
    )  # fmt: skip
    if mobile.contract is not None and mobile.contract.picture is not None:
        for name, text in contract_code(mobile.contract, targets_folder() / "mobile").items():
            write_atomic(folder / name, text)
    if tokenizer is None:
        _write_examples(run, models[-1], folder)
        text = readme(mobile.model_dump(), EXAMPLES)
    else:
        text = _with_texts(run, models[-1], folder, tokenizer, mobile)
    write_atomic(folder / "README.md", text)
    write_atomic(folder / MANIFEST, mobile.model_dump_json(indent=2, by_alias=True) + "\n")
    return mobile


def _with_texts(run: Run, model: OnnxModel, folder: Path, tokenizer: Path, mobile: Mobile) -> str:
    """Write what only models of texts have, and return the README."""
    assert mobile.contract is not None
    assert mobile.contract.text is not None
    examples = write_text_files(folder, tokenizer, mobile.contract.text, *_recorded(run, model))
    return text_readme(mobile.model_dump(), examples)


def _require_one_input(model: OnnxModel) -> None:
    """Raise ConfigError for a model that the README and its code cannot describe."""
    signature = model.signature
    if signature is not None and len(signature.inputs) != 1:
        raise ConfigError(
            f"the student has {len(signature.inputs)} inputs, and this command only describes models of one input to app "
            "developers; use the .ort files in the run's artifacts/ instead"
        )


def _students(run: Run, kit: Kit) -> list[OnnxModel]:
    """Return the student in each of the kit's precisions, int8 in the encoding for phones; float first."""
    models = require_record(run, ExportRecord).models
    quantized = require_record(run, QuantizedRecord)
    encoding = with_form(kit.for_activations(quantized.activations), quantized).encoding_for(ARCH)
    students = [
        model for model in models
        if model.name == "student" and model.precision in kit.precisions and model.encoding in (None, encoding)
    ]  # fmt: skip
    has_int8 = any(model.precision == "int8" for model in models)
    if not students or (has_int8 and all(model.precision != "int8" for model in students)):
        raise ConfigError(
            f"{run.folder}: no student was exported in encoding {encoding}, which phones need; add a [[target]] with "
            f"kit = '{kit.name}' to the configuration, and run 'edgedistill export' again"
        )
    for model in students:
        require_unchanged(run, model.file)
    return sorted(students, key=lambda model: model.precision != "fp32")


def _write_model(run: Run, kit: Kit, model: OnnxModel, folder: Path) -> MobileModel:
    source, name = run.path(model.file), f"student-{model.precision}"
    with scratch_folder() as scratch:
        work = Compilation(kit=kit, model=source, precision=model.precision, threads=1, out=scratch)
        made = compile_model(work)
        graph = (scratch / next(extra for extra in made["extras"] if extra.startswith("mobile/"))).read_bytes()
    write_atomic(folder / f"{name}.ort", graph)
    write_atomic(folder / f"{name}.onnx", source.read_bytes())
    reason = _incomparable(source, model.encoding)
    return MobileModel(
        precision=model.precision, encoding=model.encoding, file=f"{name}.ort", sha256=sha256_of(folder / f"{name}.ort"),
        bytes=len(graph), onnx=f"{name}.onnx", onnx_sha256=model.file.sha256,
        max_abs_diff=None if reason else _difference(graph, run, model), reason=reason, usability=check_usability(source),
    )  # fmt: skip


def _incomparable(source: Path, encoding: Encoding | None) -> str | None:
    """Return why this machine computes other outputs from a model than a phone does, or None."""
    if encoding is None or not encoding.startswith("u8") or not overflows_on(platform.machine()):
        return None
    marks = {entry.key: entry.value for entry in onnx.load(str(source), load_external_data=False).metadata_props}
    if MARK.items() <= marks.items():
        return None
    return (
        "not measured: this processor has no VNNI and adds products of int8 in 16 bits, which overflow; no phone does"
    )


def _difference(graph: bytes, run: Run, model: OnnxModel) -> float:
    """Return the largest difference from the recorded outputs over the examples; raises an error for outputs that are not finite."""
    inputs, expected = _recorded(run, model)
    outputs = run_onnx(graph, inputs)
    return max(float(np.abs(outputs[name].astype(np.float64) - wanted).max()) for name, wanted in expected.items())


def _recorded(run: Run, model: OnnxModel) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the first recorded inputs and the expected outputs, each (EXAMPLES, *shape)."""
    prefix = f"expected.{model.expected}."
    with np.load(run.path(model.io), allow_pickle=False) as archive:
        inputs = {name[6:]: archive[name][:EXAMPLES] for name in archive.files if name.startswith("input.")}
        outputs = {
            name.removeprefix(prefix): archive[name][:EXAMPLES] for name in archive.files if name.startswith(prefix)
        }
    return inputs, outputs


def _write_examples(run: Run, model: OnnxModel, folder: Path) -> None:
    """Write inputs as raw files and expected outputs as JSON, for a test in the app."""
    inputs, outputs = _recorded(run, model)
    for name, array in inputs.items():
        write_atomic(folder / "examples" / f"{_safe(name)}.raw", np.ascontiguousarray(array).tobytes())
    answers = {name: array.reshape(len(array), -1).tolist() for name, array in outputs.items()}
    write_json(folder / "examples" / "answers.json", {"model": f"student-{model.precision}", "outputs": answers})


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)


def _write_operators(graphs: Sequence[Path], path: Path) -> None:
    """Write the operators that a custom build of ONNX Runtime needs, with file names instead of paths."""
    from onnxruntime.tools.ort_format_model import create_config_from_models

    logging.getLogger("ort_format_model.utils").setLevel(logging.WARNING)  # or it prints where the scratch file is
    with scratch_folder() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves files open
        create_config_from_models(list(graphs), scratch / OPERATORS, True)  # noqa: FBT003 - ONNX Runtime's own
        text = (scratch / OPERATORS).read_text(encoding="utf-8")
    write_atomic(path, "\n".join(_without_paths(text)) + "\n")


def _without_paths(text: str) -> Iterator[str]:
    for line in text.splitlines():
        yield f"# - {Path(line[4:]).name}" if line.startswith("# - ") else line


def _preprocessing(run: Run, one: InputRecord) -> Preprocessing:
    from edgedistill.data.kinds import FULL_SCALE

    settings = read_settings(run, ExportRecord)
    views = settings["views"]
    normalization = views["inputs"].get(one.name, {})
    return Preprocessing(
        baked="normalize" in settings["export"]["bake"], sample_dtype=one.dtype, sample_shape=one.shape,
        divide_by=FULL_SCALE.get(one.dtype, 1.0), mean=normalization.get("mean"), std=normalization.get("std"),
        log_mel=views["mel"],
    )  # fmt: skip


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    return Tensor(
        name=value.name, dtype=dtype, shape=tuple(axis.dim_param or axis.dim_value for axis in kind.shape.dim)
    )


def _version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)
