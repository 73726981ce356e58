"""Write a user's own ONNX file for kits: `edgedistill quantize MODEL.onnx` and `edgedistill export MODEL.onnx`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import onnx

from edgedistill.data.checks import check_varied
from edgedistill.errors import ConfigError
from edgedistill.export.file_choice import fastest_forms, measures_forms
from edgedistill.export.file_forms import (
    PER_CHANNEL_OPSET,
    choose_integers,
    require_calibration,
    require_exportable,
    require_float,
    require_no_folder,
    variants_of,
)
from edgedistill.export.file_records import FileOptions, FileResult
from edgedistill.export.forms import Variant
from edgedistill.export.original import CALIBRATION, Converted, Original, answers_for, count
from edgedistill.graphs.canonical import canonical
from edgedistill.graphs.dynamic import with_dynamic_inputs
from edgedistill.graphs.encodings import activations_of
from edgedistill.graphs.opset import opset_of
from edgedistill.quantize.onnx_file import quantize_onnx
from edgedistill.quantize.placement import is_int8
from edgedistill.quantize.smoothing import smoothed
from edgedistill.quantize.timers import Timers
from edgedistill.records.base import Ranges, Scheme
from edgedistill.runtime.progress import Reporter

SMOOTHED = 32
"""The number of samples that show the largest value of each channel."""
LOSS = 0.005
"""The lost metric (a fraction) from which other ranges of activations are tried."""
RANKED = 8
"""The number of samples for the ranking of layers: more do not change which layers lose most."""


def quantize_file(
    order: FileOptions,
    skip: tuple[str, ...] = (),
    ranges: Literal["auto"] | Ranges = "auto",
    report: Reporter | None = None,
    *,
    ranking: bool = True,
    timers: Timers | None = None,
) -> FileResult:
    """Quantize a float model after training; write it in each form of the kits, or in the canonical form without kits.

    With `timers`, a kit gets the fastest form of a transformer, if the order leaves the activations open.
    With "auto", `ranges` are "mse", and "minmax" if "mse" loses more than LOSS of a known metric, and "minmax" loses less, both on
    the calibration data.
    The layers are ranked by their error alone, which takes one quantization with few samples for each layer;
    `ranking=False` skips the ranking.

    Raises:
        ParityError: a channel of an output lost what it is for, or a class lost more than the order's limit, and the order
            has no `force`; no file is written.
        ConfigError: there is no data, all its samples are identical, the model is quantized already, has control flow or has
            no layer to quantize, a kit takes no unsigned activations, or the output is a folder.
        LintError: the linter finds an error in a file for a kit.
    """
    require_calibration(order)
    require_no_folder(order.output)
    scheme, reason = choose_integers(order)
    original = Original(order.for_activations(scheme.activations), report)
    require_float(order, original.model)
    source = original.simplified(PER_CHANNEL_OPSET)
    few = original.calibration.first(CALIBRATION)
    check_varied(str(order.data), few.values())
    source, moved = smoothed(source, original.calibration.first(SMOOTHED))
    if moved:
        original.choices += (f"outlier channels of {moved} normalisations are moved into the weights behind them",)
    with original.report.track("samples for calibration", count(few)) as advance:
        first = "mse" if ranges == "auto" else ranges
        canonical_int8, layers = quantize_onnx(source, few, skip, first, scheme, advance)
    if order.activations == "dynamic":
        original.choices += (_dynamic_layers(order, canonical_int8),)
    if moved and timers is not None and measures_forms(order):
        fastest = fastest_forms(original, source, canonical_int8, timers)
        original.order = original.order.model_copy(update={"kits": fastest.kits})
        original.choices += fastest.lines
    variants = variants_of(original.order, "int8", opset_of(canonical_int8), activations_of(canonical_int8))
    if ranges == "auto":
        made = _with_better_ranges(
            original, canonical_int8, variants, lambda: quantize_onnx(source, few, skip, "minmax", scheme)[0]
        )
    else:
        made = original.convert(canonical_int8, variants)
    sensitivity = _sensitivity(original, source, layers, scheme) if ranking else {}
    if not order.force:
        for one in made:
            original.require_kept(one, source, layers, sensitivity)
    made_files = [original.save(one) for one in made]
    result = original.result(made_files, layers, sensitivity)
    return result.model_copy(update={"scheme": scheme, "scheme_reason": reason})


def _with_better_ranges(
    original: Original, int8: onnx.ModelProto, variants: list[Variant], with_minmax: Callable[[], onnx.ModelProto]
) -> list[Converted]:
    """Return a model in each form, or the model with other ranges if the metric on the calibration data shows that they are better."""
    made = original.convert(int8, variants)
    if original.order.test is not None and original.calibration.labels is None:
        return made
    judge = original.on_calibration()
    before = judge.quality()
    if before is None:
        return made
    mse = _worst(judge, made if judge is original else judge.convert(int8, variants))
    if mse >= before - LOSS:
        return made
    other = with_minmax()
    others = judge.convert(other, variants)
    minmax = _worst(judge, others)
    if minmax <= mse:
        return made
    data = original.order.data
    note = f"which give {minmax:.2%} on {data}; the least squared error gave {mse:.2%}"
    original.choices += (f"ranges of activations are the largest magnitudes, {note}",)
    return others if judge is original else original.convert(other, variants)


def _worst(judge: Original, made: list[Converted]) -> float:
    """Return the metric of the worst form."""
    return min(judge.quality(one) or 0.0 for one in made)


def _dynamic_layers(order: FileOptions, int8: onnx.ModelProto) -> str:
    """Return how many layers have dynamic activations; raises ConfigError if none has."""
    count_of_layers = with_dynamic_inputs(int8)[1]
    if not count_of_layers:
        raise ConfigError(
            f"{order.model}: no dense layer is in int8, so none has dynamic activations; leave out --activations dynamic"
        )
    return f"{count_of_layers} dense layers choose the scale of their input in each inference"


def _sensitivity(
    original: Original, source: onnx.ModelProto, layers: dict[str, str], scheme: Scheme
) -> dict[str, float]:
    """Return the error of the outputs with only one layer in int8, for each layer but tables of embeddings, the largest first."""
    names, few = [name for name, form in layers.items() if is_int8(form)], original.calibration.first(RANKED)
    tested = original.samples.first(RANKED)
    tables = {node.name for node in source.graph.node if node.op_type == "Gather"}
    ranked = [name for name in names if name not in tables]  # a table alone is no int8 model: it has no activations
    errors = {}
    with original.report.track("layers ranked", len(ranked)) as advance:
        for name in ranked:
            rest = tuple(other for other in names if other != name)
            alone, _ = quantize_onnx(source, few, rest, scheme=scheme)
            answers = answers_for(original.order.model, alone, tested)
            found = original.output_errors(list(answers.values())).values()
            errors[name] = max(max(one.error, one.channel_error) for one in found)
            advance(1, name)
    return dict(sorted(errors.items(), key=lambda item: -item[1]))


def export_file(order: FileOptions, precision: str, report: Reporter | None = None) -> FileResult:
    """Write a model for a kit: fp32 with fixed shapes and an opset that it takes, fp16, or an int8 model in its encoding.

    Raises:
        ConfigError: a kit lacks the precision, fp16 has no data, int8 is requested for a float model, or the output is a folder.
        ParityError: the file's outputs differ from the original model's.
        LintError: the linter finds an error in the file for a kit.
    """
    require_no_folder(order.output)
    original = Original(order, report)
    require_exportable(order, original.model, precision)
    if precision == "int8":
        source = canonical(original.model)
        original.order = order.for_activations(activations_of(source))
    else:
        source = original.model if precision == "fp32" else original.simplified(0)
    variants = variants_of(original.order, precision, opset_of(source), activations_of(source))
    files = [original.save(one) for one in original.convert(source, variants)]
    return original.result(files, {}, {})
