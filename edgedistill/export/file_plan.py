"""The plan of `edgedistill quantize` and `export` for an ONNX file (`--dry-run`); nothing is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import onnx

from edgedistill.data.requests import Samples, require_test_samples
from edgedistill.export.detector_file import DetectorOptions, read_data
from edgedistill.export.file_choice import measures_forms
from edgedistill.export.file_forms import (
    PER_CHANNEL_OPSET,
    choose_integers,
    fix_file_shapes,
    output_path,
    require_calibration,
    require_exportable,
    require_float,
    require_inputs,
    require_no_folder,
    variants_of,
)
from edgedistill.export.file_records import FileOptions
from edgedistill.export.forms import Variant
from edgedistill.graphs.canonical import canonical
from edgedistill.graphs.encodings import activations_of
from edgedistill.graphs.opset import opset_of
from edgedistill.graphs.random_inputs import Shapes
from edgedistill.graphs.read import read_sound_onnx
from edgedistill.quantize.smoothing import has_normalisations
from edgedistill.records.base import Activations, Encoding, Record, Weights
from edgedistill.runtime.files import sha256_of

FORMS_MEASURED: Final = (
    "the forms of the transformer will be timed, and the fastest decides the encoding of a kit's file"
)
SCHEMA: Final = "edgedistill.file_plan/1"


class PlannedFile(Record):
    """A file that would be written; `exists` is true if a file has that path already."""

    file: Path
    precision: str
    encoding: Encoding | None
    opset: int
    exists: bool


class FilePlan(Record):
    """The plan for an ONNX file.

    `samples` is the number of real inputs in `data`, and `test` has the inputs that will measure errors; `choices` are the automatic decisions about shapes, one line each;
    `skip` names the layers to leave in float. `activations` and `weights` are the integers of an int8 file, and
    `scheme_reason` says why; these, `ranking` and `force` are None if nothing is quantized.
    `ranking` is true if the layers will be ranked by their error, and `force` is true if the
    files will be written even if int8 loses a channel of an output.
    """

    command: Literal["quantize", "export"]
    model: Path
    sha256: str
    shapes: Shapes
    choices: tuple[str, ...]
    data: Path | None
    samples: int
    test: Path | None = None
    kits: tuple[str, ...]
    arch: str | None
    precision: str
    activations: Activations | None = None
    weights: Weights | None = None
    scheme_reason: str | None = None
    skip: tuple[str, ...] = ()
    ranking: bool | None = None
    force: bool | None = None
    files: tuple[PlannedFile, ...]

    def to_json(self) -> str:
        """Return the plan as JSON of schema edgedistill.file_plan/1."""
        return json.dumps({"schema": SCHEMA, **self.model_dump(mode="json")}, indent=2)

    def lines(self) -> Iterator[str]:
        """Yield the plan for a person."""
        kits = f" for {', '.join(self.kits)}" if self.kits else ""
        arch = f" on {self.arch}" if self.arch else ""
        data = f", with {self.samples:,} inputs of {self.data}" if self.data else ", with random inputs"
        data += f", tested with {self.test}" if self.test else ""
        yield f"would {self.command} {self.model}: {self.precision}{kits}{arch}{data}"
        if self.scheme_reason is not None:
            yield f"int8: {self.scheme_reason}"
        yield from (f"input {name}: {'x'.join(map(str, shape))}" for name, shape in self.shapes.items())
        yield from self.choices
        if self.skip:
            yield f"left in float: {', '.join(self.skip)}"
        if self.ranking is False:
            yield "layers are not ranked by their errors"
        if self.force:
            yield "files are written even if int8 loses a channel of an output"
        for one in self.files:
            encoding = f", encoding {one.encoding}" if one.encoding else ""
            replaced = "; replaces the existing file" if one.exists else ""
            yield f"would write {one.file}: {one.precision}, opset {one.opset}{encoding}{replaced}"


def plan_quantize(order: FileOptions, skip: tuple[str, ...], *, ranking: bool = True) -> FilePlan:
    """Return the plan of `quantize_file`; raises those of its errors that need no run of the model."""
    require_calibration(order)
    model = read_sound_onnx(order.model)
    require_float(order, model)
    if order.test is not None and order.data is not None:
        both = [(path, _samples(order, path, model)) for path in (order.test, order.data)]
        require_test_samples(both[0], both[1])
    scheme, reason = choose_integers(order)
    taking = order.for_activations(scheme.activations)
    variants = variants_of(taking, "int8", max(opset_of(model), PER_CHANNEL_OPSET), scheme.activations)
    plan = _plan(order, "quantize", "int8", model, variants)
    forms = (FORMS_MEASURED,) if measures_forms(order) and has_normalisations(model) else ()
    return plan.model_copy(
        update=scheme.model_dump()
        | {"choices": (*plan.choices, *forms)}
        | {"scheme_reason": reason, "skip": skip, "ranking": ranking, "force": order.force, "test": order.test}
    )


def plan_export(order: FileOptions, precision: str) -> FilePlan:
    """Return the plan of `export_file`; raises those of its errors that need no run of the model."""
    model = read_sound_onnx(order.model)
    require_exportable(order, model, precision)
    activations: Activations = activations_of(canonical(model)) if precision == "int8" else "signed"
    variants = variants_of(order.for_activations(activations), precision, opset_of(model), activations)
    require_inputs(order, variants)
    return _plan(order, "export", precision, model, variants)


def _samples(order: FileOptions, path: Path, model: onnx.ModelProto) -> Samples:
    return read_data(path, model, order.detector or DetectorOptions(), order.shapes)[0]


def _plan(
    order: FileOptions,
    command: Literal["quantize", "export"],
    precision: str,
    model: onnx.ModelProto,
    variants: list[Variant],
) -> FilePlan:
    require_no_folder(order.output)
    samples = None if order.data is None else _samples(order, order.data, model)
    shapes, choices = fix_file_shapes(model, order.shapes, samples)
    paths = [output_path(order, variant, alone=len(variants) == 1) for variant in variants]
    return FilePlan(
        command=command, model=order.model, sha256=sha256_of(order.model), shapes=shapes, choices=tuple(choices),
        data=order.data, samples=0 if samples is None else len(next(iter(samples.requests.values()))),
        kits=tuple(kit.name for kit in order.kits), arch=order.arch, precision=precision,
        files=tuple(
            PlannedFile(file=path, precision=one.precision, encoding=one.encoding, opset=one.opset,
            exists=path.exists()) for path, one in zip(paths, variants, strict=True)
        ),
    )  # fmt: skip
