"""What a command on an ONNX file refuses, and the files that it writes: variants and their paths."""

from __future__ import annotations

from pathlib import Path

import onnx

from edgedistill.data.requests import Samples
from edgedistill.errors import ConfigError
from edgedistill.export.file_records import ENCODED, FileOptions
from edgedistill.export.forms import Variant, is_half
from edgedistill.export.lint.report import usual_arch
from edgedistill.graphs.integer_forms import require_int8_q_dq
from edgedistill.graphs.random_inputs import Shapes
from edgedistill.graphs.read import fix_shapes, is_quantized
from edgedistill.graphs.shapes import require_samples_fit
from edgedistill.kits.kits import FLOAT16_OPSET
from edgedistill.kits.scheme import Choice, Site, choose_scheme
from edgedistill.records.base import Activations, Encoding

PER_CHANNEL_OPSET = 13
"""The first opset whose DequantizeLinear has a scale for each channel."""


def choose_integers(order: FileOptions) -> Choice:
    """Return the integers of an int8 file for the kits of an order, and the reasons."""
    sites = [Site(kit, order.arch or usual_arch(kit)) for kit in order.kits]
    if order.activations == "float":
        choice = choose_scheme("auto", order.weights, sites)
        return Choice(choice.scheme, f"float activations (as set), {choice.scheme.weights} weights")
    if order.activations != "dynamic":
        return choose_scheme(order.activations, order.weights, sites)
    choice = choose_scheme("auto", order.weights, sites)
    return Choice(choice.scheme, f"dynamic inputs of dense layers (as set); other layers: {choice.reason}")


def require_calibration(order: FileOptions) -> None:
    """Raise ConfigError for an order without real inputs to calibrate with."""
    if order.data is None:
        raise ConfigError("int8 ranges are measured on real inputs; give some with --data calibration.npz")


def require_float(order: FileOptions, model: onnx.ModelProto) -> None:
    """Raise ConfigError for a model that is quantized already, in any form."""
    require_int8_q_dq(order.model, model)
    if is_quantized(model):
        raise ConfigError(f"{order.model}: already quantized; 'edgedistill export' writes it for a kit")


def require_exportable(order: FileOptions, model: onnx.ModelProto, precision: str) -> None:
    """Raise ConfigError for int8 of a float model, a float precision of a quantized model, and integers of other forms."""
    if precision == "int8" or is_quantized(model):
        require_int8_q_dq(order.model, model)
    if is_quantized(model) == (precision == "int8"):
        return
    raise ConfigError(
        f"{order.model}: a float model; first run 'edgedistill quantize {order.model} --data calibration.npz'"
        if precision == "int8"
        else f"{order.model}: already quantized; export it with --precision int8"
    )


def fix_file_shapes(model: onnx.ModelProto, shapes: Shapes, samples: Samples | None) -> tuple[Shapes, list[str]]:
    """Write fixed shapes of inputs into a model, as `fix_shapes` does, unless samples have several lengths: then axes vary as before."""
    if samples is not None and samples.varies:
        return {}, ["samples keep their own lengths, and the length of inputs varies"]
    given = {} if samples is None else {name: tuple(array.shape[1:]) for name, array in samples.requests.items()}
    require_samples_fit(model, given)
    return fix_shapes(model, shapes | given)


def require_inputs(order: FileOptions, variants: list[Variant]) -> None:
    """Raise ConfigError for a file in float16 without real inputs."""
    if order.data is None and any(is_half(variant) for variant in variants):
        raise ConfigError(
            "float16 overflows above 65504, and only real inputs show where; give some with --data FILE.npz"
        )


def variants_of(order: FileOptions, precision: str, opset: int, activations: Activations) -> list[Variant]:
    """Return the files to write for a model of an opset: one per encoding of the kits, in an opset they take."""
    wanted: dict[Encoding | None, int] = {}
    if not order.kits:
        static: Encoding = "u8-f32" if activations == "unsigned" else "s8-f32"
        own = ENCODED.get(order.activations, static)
        wanted[own if precision == "int8" else None] = opset
    for kit in order.kits:
        if precision not in kit.precisions:
            raise ConfigError(f"kit '{kit.name}' has no precision '{precision}'; it has {', '.join(kit.precisions)}")
        for form in (kit.form_for(order.arch or usual_arch(kit), "0"), *kit.form):
            encoding = form.encoding if precision == "int8" else None
            wanted[encoding] = min(wanted.get(encoding, opset), form.opset)
    lowest = {"s8-f16": FLOAT16_OPSET}
    return [Variant(precision, encoding, max(most, lowest.get(encoding or "", 0))) for encoding, most in wanted.items()]


def require_no_folder(output: Path | None) -> None:
    """Raise ConfigError if the output of a command is a folder."""
    if output is not None and output.is_dir():
        raise ConfigError(f"{output}: is a folder; name the file to write with -o, for example {output / 'model.onnx'}")


def output_path(order: FileOptions, variant: Variant, *, alone: bool) -> Path:
    """Return the file to write: the path of -o, with the encoding in its name if there are several files."""
    again = order.model.stem.endswith(f"-{variant.precision}")
    name = order.model.stem if again else f"{order.model.stem}-{variant.precision}"
    path = order.output or order.model.with_name(f"{name}.onnx")
    if variant.encoding and (again or variant.encoding != "s8-f32") and not (alone and order.output):
        path = path.with_name(f"{path.stem}-{variant.encoding}.onnx")
    if path.resolve() == order.model.resolve():
        raise ConfigError(f"{path}: would overwrite the input model; choose another file with -o")
    return path
