"""The user's model, the samples to calibrate and to compare with, and its forms compared with it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from edgedistill.data.requests import Samples, require_test_samples
from edgedistill.data.sources import Array
from edgedistill.errors import ConfigError, ParityError
from edgedistill.export.detector_file import (
    PROBED,
    DetectionScores,
    DetectorOptions,
    FileDetector,
    FileSamples,
    find_detector,
    picture_size,
    read_data,
    require_detections,
)
from edgedistill.export.file_forms import fix_file_shapes, output_path, require_inputs
from edgedistill.export.file_records import FileOptions, FileResult, OutputError, WrittenFile, worst_output
from edgedistill.export.forms import Variant, comparable, in_form, is_half
from edgedistill.export.labelled import metric_of, require_scores, score, worst_parts
from edgedistill.export.lint.report import require_clean
from edgedistill.export.output_errors import (
    CLASSES,
    PROBABILITIES,
    has_row,
    layer_before,
    output_error,
    outputs_of,
    require_kept,
    require_part,
)
from edgedistill.export.parity import FLOAT, LIMITS, compare_file, percent, require_parity, samples_not_finite
from edgedistill.graphs.index import lift_constants, name_nodes
from edgedistill.graphs.metadata import annotate, metadata_of
from edgedistill.graphs.opset import opset_of, to_opset
from edgedistill.graphs.random_inputs import random_inputs
from edgedistill.graphs.read import is_quantized, read_sound_onnx
from edgedistill.graphs.reference import Reference, RefusedError
from edgedistill.graphs.run import Arrays, stacked
from edgedistill.graphs.slim import simplify
from edgedistill.graphs.write import save_onnx
from edgedistill.quantize.placement import is_int8
from edgedistill.records.parity import Parity
from edgedistill.runtime.files import sha256_of
from edgedistill.runtime.progress import Advance, Reporter
from edgedistill.statistics import ClassDrop
from edgedistill.tasks.detector_forms import requests_of

CALIBRATION = 512
"""The largest number of calibration samples."""
RANDOM = 8
"""The number of random requests for the comparison without data."""
MOST_LOST = 0.01
"""The lost accuracy (a fraction) from which labels say that an int8 file lost what the model is for."""
LEAST_ALIKE = 0.95
"""The least agreement (a fraction), where there are no labels."""
CHECKED = 32
"""The largest number of samples that compare the simplified float model with the original model."""


class Converted(NamedTuple):
    """A model in the form of a variant, its outputs and their errors, not yet written."""

    path: Path
    variant: Variant
    model: onnx.ModelProto
    float32_nodes: tuple[str, ...]
    warnings: tuple[str, ...]
    error: float
    parity: Parity
    outputs: dict[str, OutputError]
    accuracy: float | None
    worst_class: ClassDrop | None
    worst_slice: ClassDrop | None
    detection: DetectionScores | None


class Original:
    """The user's model with fixed shapes, the samples to calibrate and to compare with, and the model's outputs."""

    def __init__(self, order: FileOptions, report: Reporter | None) -> None:
        self.order, self.report = order, report or Reporter(quiet=True)
        self.model = read_sound_onnx(order.model)
        samples, about = (None, FileSamples()) if order.data is None else self._read(order.data)
        fixed, choices = fix_file_shapes(self.model, order.shapes, samples)
        self.choices = (*choices, *about.remarks)
        self.samples = self.calibration = samples or Samples(random_inputs(self.model, fixed, RANDOM), None)
        if order.test is not None and order.data is not None:
            self.samples, _ = self._read(order.test)
            require_test_samples((order.test, self.samples), (order.data, self.calibration))
        self.outputs = self.answers(self.model, "the original model")
        self.detector = self._find_detector(about)
        self.detections = None if self.detector is None else self.detector.detections(self._named(self.outputs))
        self.probabilities = outputs_of(self.model, PROBABILITIES)
        self.classes = about.classes
        require_scores(order.test or order.data or order.model, self.samples, self.outputs[0])

    def _read(self, path: Path) -> tuple[Samples, FileSamples]:
        return read_data(path, self.model, self.order.detector or DetectorOptions(), self.order.shapes, self.report)

    def _find_detector(self, about: FileSamples) -> FileDetector | None:
        """Return how to read the outputs if the model is used as a detector: boxes are labelled, or the user says so."""
        options = self.order.detector or DetectorOptions()
        if options.decode is None and self.samples.label_form != "boxes":
            return None
        probed = self._named([output[:PROBED] for output in self.outputs])
        return find_detector(requests_of(probed, PROBED), about, options, picture_size(self.samples))

    def _named(self, outputs: list[Array]) -> dict[str, Array]:
        return dict(zip([output.name for output in self.model.graph.output], outputs, strict=True))

    def detection_scores(self, outputs: list[Array] | None = None) -> DetectionScores | None:
        """Return the metrics of a form's outputs for all samples, by default of the original model's; None for no detector."""
        if self.detector is None or self.detections is None:
            return None
        found = self.detections if outputs is None else self.detector.detections(self._named(outputs))
        return self.detector.scores(found, self.detections, self.samples.labels)

    @property
    def has_classes(self) -> bool:
        """Whether the labels of the samples are classes."""
        return self.samples.label_form == "classes"

    @property
    def classifies(self) -> bool:
        """Whether the first output has one score for each of several classes: there are labels, or it is a softmax.

        A detector's offsets, an embedding and the values of a regression have no largest value that means anything.
        """
        is_softmax = self.model.graph.output[0].name in outputs_of(self.model, CLASSES)
        return self.has_classes or (is_softmax and has_row(self.outputs[0].shape))

    @property
    def everything(self) -> Array:
        """All outputs of the original model, flattened into one array."""
        return np.concatenate([output.ravel() for output in self.outputs])

    def simplified(self, opset: int) -> onnx.ModelProto:
        """Return the float model with constants and batch norms folded, in `opset` or, if higher, its own opset.

        Raises ConfigError if control flow remains.
        """
        with self.report.track("steps of simplifying the graph", 3) as advance:
            model, note = simplify(self.model)
            self.choices += (note,) if note else ()
            advance(1, "")
            _require_plain(self.order.model, model)
            lift_constants(model.graph)
            name_nodes(model.graph)
            model = to_opset(model, max(opset_of(model), opset), self.samples.first(1))
            advance(1, "")
            simplified = answers_for(self.order.model, model, self.samples.first(CHECKED))
            advance(1, "")
        _, parity = self.compare(list(simplified.values()))
        require_parity(parity, self.everything, "fp32", f"{self.order.model.name}, simplified")
        return model

    def answers(self, model: onnx.ModelProto, label: str) -> list[Array]:
        """Return the outputs of a model for all samples; `label` names the model in the progress."""
        with self.report.track(f"samples through {label}", count(self.samples.requests)) as advance:
            return list(answers_for(self.order.model, model, self.samples.requests, advance).values())

    def convert(self, source: onnx.ModelProto, variants: list[Variant]) -> list[Converted]:
        """Return a model in each form, compared with the original model."""
        require_inputs(self.order, variants)
        return [self._convert(source, variant, alone=len(variants) == 1) for variant in variants]

    def _convert(self, source: onnx.ModelProto, variant: Variant, *, alone: bool) -> Converted:
        path, few = output_path(self.order, variant, alone=alone), self.calibration.first(CALIBRATION)
        model, kept = in_form(to_opset(source, variant.opset, few), variant, few)
        annotate(model, metadata_of(self.model) | metadata_of(model))
        warnings = require_clean(model, self.order.kits, variant.encoding, path.name)
        answers_for(path, model, self.samples.first(1))  # runs the file itself; below, float16 is emulated
        outputs = self.answers(comparable(model) if is_half(variant) else model, path.name)
        self._require_comparable(outputs, variant, path)
        error, parity = self.compare(outputs)
        self._require(parity, variant, path)
        errors, accuracy = self.output_errors(outputs), score(self.samples, outputs[0])
        return Converted(
            path,
            variant,
            model,
            kept,
            warnings,
            error,
            parity,
            errors,
            accuracy,
            *worst_parts(self.samples, self.classes, outputs[0], self.outputs[0]),
            self.detection_scores(outputs),
        )

    def save(self, one: Converted) -> WrittenFile:
        """Write a converted model, and return its record."""
        save_onnx(one.model, one.path)
        return WrittenFile(
            file=one.path, precision=one.variant.precision, encoding=one.variant.encoding, opset=one.variant.opset,
            size_bytes=one.path.stat().st_size, accuracy=one.accuracy, parity=one.parity, error=one.error,
            outputs=one.outputs, worst_class=one.worst_class, worst_slice=one.worst_slice, detection=one.detection,
            float32_nodes=one.float32_nodes, warnings=one.warnings,
        )  # fmt: skip

    def on_calibration(self) -> Original:
        """Return the model with the calibration samples to compare with as well, so that test samples choose nothing."""
        if self.order.test is None:
            return self
        return Original(self.order.model_copy(update={"test": None}), self.report)

    def quality(self, one: Converted | None = None) -> float | None:
        """Return the metric of a form, by default of the original model, as a fraction; None if it is not known.

        For boxes without labels, the metric is the agreement with the original's confident boxes.
        """
        detection = self.detection_scores() if one is None else one.detection
        if detection is not None:
            return detection.agreement if detection.ap is None else detection.ap
        return score(self.samples, self.outputs[0]) if one is None else one.accuracy

    def lost_much(self, one: Converted) -> bool:
        """Return whether a file lost so much that the layers are worth ranking."""
        original = score(self.samples, self.outputs[0])
        if one.accuracy is not None and original is not None:
            return one.accuracy < original - MOST_LOST
        return not one.parity.holds(LEAST_ALIKE) or any(found.lost for found in one.outputs.values())

    def require_kept(
        self, one: Converted, source: onnx.ModelProto, layers: dict[str, str], sensitivity: dict[str, float]
    ) -> None:
        """Raise ParityError if a channel of an output lost what it is for, or a class or slice certainly lost more than the limit.

        Labels decide for the scores of classes.
        """
        for part, worst in (("class", one.worst_class), ("slice", one.worst_slice)):
            require_part(one.path.name, part, worst, self.order.max_class_drop)
        judged = dict(one.outputs)
        if one.detection is not None:
            require_detections(one.path.name, one.detection)
        if self.detector is not None and self.detector.decoder.suppressed:  # the rows of detections change their order
            judged = {name: found for name, found in judged.items() if name not in self.detector.decoder.outputs}
        if one.accuracy is not None and not self.lost_much(one):
            del judged[self.model.graph.output[0].name]
        layer = layer_before(
            source, worst_output(judged or one.outputs), [name for name, form in layers.items() if is_int8(form)]
        )
        require_kept(one.path.name, judged, layer, sensitivity)

    def output_errors(self, outputs: list[Array]) -> dict[str, OutputError]:
        """Return the errors of each output by name, for the first samples or for all of them."""
        names = [output.name for output in self.model.graph.output]
        return {
            name: output_error(mine, wanted[: len(mine)], probabilities=name in self.probabilities)
            for name, mine, wanted in zip(names, outputs, self.outputs, strict=True)
        }

    def _quantizes(self, variant: Variant) -> bool:
        """Return whether a variant is quantized here, and not by the maker of the original model."""
        return variant.precision == "int8" and not is_quantized(self.model)

    def _require_comparable(self, outputs: list[Array], variant: Variant, path: Path) -> None:
        """Raise ParityError if an output of a file has another shape, or NaN or infinities where the original model has none."""
        skip = "leave sensitive layers in float with --skip NODE"
        step = skip if self._quantizes(variant) else LIMITS.get(variant.precision, FLOAT).step
        for output, mine, wanted in zip(self.model.graph.output, outputs, self.outputs, strict=True):
            fault = None
            if mine.shape != wanted.shape:
                fault = f"the shape {mine.shape[1:]}, and that of the original model has {wanted.shape[1:]}"
            elif wrong := samples_not_finite(mine, wanted):
                fault = (
                    f"NaN or infinity for {wrong:,} of {len(mine):,} samples where that of the original model has none"
                )
            if fault is not None:
                raise ParityError(f"{path.name}: output '{output.name}' has {fault}; the file is not written: {step}")

    def _require(self, parity: Parity, variant: Variant, path: Path) -> None:
        """Raise ParityError if a file differs from the original model; one quantized here may, by any amount."""
        if variant.precision == "fp32":
            require_parity(parity, self.everything, "fp32", path.name)
        least = LIMITS.get(variant.precision, FLOAT).agreement
        if not self._quantizes(variant) and not parity.holds(least):
            raise ParityError(
                f"{path.name}: agreement with the original model {percent(parity.agreement)} "
                f"(at least {least:.0%} required), maximum difference {parity.max_abs_diff:.3g}; the file is not "
                f"written: {LIMITS.get(variant.precision, FLOAT).step}"
            )

    def compare(self, outputs: list[Array]) -> tuple[float, Parity]:
        """Compare outputs for the first samples, or for all of them, with the original model's.

        Returns the largest error of an output, and the parity: its agreement is the fraction of samples with the same
        class, or 1 - error without classes, or None for outputs that are the same for all samples.
        """
        names = [output.name for output in self.model.graph.output]
        wanted = {name: array[: len(outputs[0])] for name, array in zip(names, self.outputs, strict=True)}
        return compare_file(wanted, dict(zip(names, outputs, strict=True)), classifies=self.classifies)

    def result(self, files: list[WrittenFile], layers: dict[str, str], sensitivity: dict[str, float]) -> FileResult:
        """Return the result of the command."""
        return FileResult(
            model=self.order.model, sha256=sha256_of(self.order.model), samples=len(self.outputs[0]),
            random=self.order.data is None, test=self.order.test, classifies=self.classifies, metric=metric_of(self.samples), accuracy=score(self.samples, self.outputs[0]), choices=self.choices, layers=layers,
            sensitivity=sensitivity, forced=self.order.force, files=tuple(files), detection=self.detection_scores(),
            detector=None if self.detector is None else self.detector.text,
        )  # fmt: skip


def answers_for(path: Path, model: onnx.ModelProto, requests: Arrays, advance: Advance | None = None) -> Arrays:
    """Return the outputs of a model for requests; `path` is the file that an error names."""
    answers: list[Arrays] = []
    try:
        reference = Reference(model.SerializeToString())
        for i in range(count(requests)):
            answers.append(reference.run({name: values[i] for name, values in requests.items()}))
            if advance is not None:
                advance(1, "")
    except RefusedError as error:
        raise ConfigError(
            f"{path}: ONNX Runtime, which computes the outputs to compare, refuses the model: {error}"
        ) from None
    return stacked(answers)


def count(requests: Arrays) -> int:
    """Return the number of requests."""
    return len(next(iter(requests.values())))


def _require_plain(path: Path, model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if any(attribute.HasField("g") for attribute in node.attribute):
            raise ConfigError(
                f"{path}: {node.op_type} {node.name or node.output[0]!r} has a subgraph, whose layers cannot be "
                "converted to int8 or float16; export the model without control flow, or use it in fp32"
            )
