"""The options and results of commands on an ONNX file, as frozen records."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from edgedistill.export.detector_file import DetectionScores, DetectorOptions
from edgedistill.export.parity import percent
from edgedistill.graphs.random_inputs import Shapes
from edgedistill.kits.kits import Kit
from edgedistill.quantize.placement import FLOAT_RESULT, is_int8
from edgedistill.records.base import Activations, Encoding, Record, Scheme, Weights
from edgedistill.records.parity import Parity
from edgedistill.statistics import ClassDrop
from edgedistill.tasks.segmentation import TASK as SEGMENTATION

SCHEMA: Final = "edgedistill.onnx/1"
ENCODED: Final[dict[str, Encoding]] = {"dynamic": "dyn-i32", "float": "w8-f32"}
"""The encodings of files without static scales of activations, by --activations."""
SHOWN: Final = 3
"""The number of sensitive layers that a person is shown."""


class FileOptions(Record):
    """The options of a command on an ONNX file: the model, real inputs, kits, the architecture, and the output path.

    `test` has samples that measure errors, instead of those in `data`. `force` writes an int8 file even if a channel of an output is lost.
    `activations` and `weights` are the integers of an int8 file; "auto" chooses them for the kits. With "dynamic" activations, dense
    layers choose the scale of their input in each inference, and the others have what "auto" chooses; with "float" ones, only weights are int8. No int8 file is written in which a class certainly loses more than `max_class_drop` points of accuracy. `detector` says how a detector's
    outputs are read.
    """

    model: Path
    data: Path | None = None
    test: Path | None = None
    kits: tuple[Kit, ...] = ()
    arch: str | None = None
    shapes: Shapes
    output: Path | None = None
    force: bool = False
    activations: Literal["auto", "dynamic", "float"] | Activations = "auto"
    weights: Literal["auto"] | Weights = "auto"
    max_class_drop: float | None = None
    detector: DetectorOptions | None = None

    def for_activations(self, activations: Activations) -> FileOptions:
        """Return the options with only those encodings of the kits that support these activations, or for dynamic or float ones if those are set."""
        kits = tuple(kit.for_activations(activations) for kit in self.kits)
        if self.activations in ENCODED:
            kits = tuple(kit.with_encoding(ENCODED[self.activations]) for kit in kits)
        return self.model_copy(update={"kits": kits})


class OutputError(Record):
    """The error of an output, and its channel with the largest error; errors are squared errors over the variance.

    `axis` is the axis of the channels; `constant` is true if the worst channel varies in the original model only; `lost`
    is the number of channels with an error of at least 0.5. `channel` is None for integers and empty outputs.
    """

    error: float
    axis: int
    channels: int
    channel: int | None = None
    channel_error: float = 0.0
    constant: bool = False
    lost: int = 0

    def where(self, output: str) -> str:
        """Return the words for the output, by its name, and the worst channel."""
        channel = (
            f", channel {self.channel} (of 0 to {self.channels - 1})"
            if self.channel is not None and self.channels > 1
            else ""
        )
        return f"output '{output}'{channel}"

    def loss(self) -> str:
        """Return the words for the error of the worst channel."""
        constant = ", it is constant in int8" if self.constant else ""
        return f"squared error {percent(self.channel_error)} of its variance{constant}"


class WrittenFile(Record):
    """A file that was written; `parity`, `error` and `outputs` compare it with the original model on all samples.

    `error` is the outputs' squared error over their variance, and `outputs` has the error of each output by name; `accuracy` is a fraction, and
    `worst_class` the class that lost most of it, both None without labels; `worst_slice` is that of the samples' slices.
    `warnings` are the linter's warnings about the file for the kits.
    """

    file: Path
    precision: str
    encoding: Encoding | None
    opset: int
    size_bytes: int
    accuracy: float | None
    parity: Parity
    error: float
    outputs: dict[str, OutputError]
    worst_class: ClassDrop | None = None
    worst_slice: ClassDrop | None = None
    detection: DetectionScores | None = None
    float32_nodes: tuple[str, ...]
    warnings: tuple[str, ...]


class FileResult(Record):
    """The files written for a model: `layers` maps a layer to "int8", "int8, result in float: reason" or "float: reason"; `choices` are automatic.

    `samples` is the number of samples in the comparison, and `random` is true if they are random; `test` is the
    file that they are from if it is not the one to calibrate with; `classifies` is true
    if the first output has a score for each class; `accuracy` is the original model's, by `metric`: "top1" or, for masks, "miou". `sensitivity` maps each layer to
    the error with only that layer in int8, the largest first. `scheme` has the integers of files that this command
    quantized, and `scheme_reason` says why. `detector` is the form of a detector's outputs in words, and `detection` has the
    metrics of its detections.
    """

    model: Path
    sha256: str
    samples: int
    random: bool
    test: Path | None = None
    classifies: bool
    metric: str | None = None
    accuracy: float | None
    choices: tuple[str, ...]
    layers: dict[str, str]
    sensitivity: dict[str, float]
    forced: bool = False
    scheme: Scheme | None = None
    scheme_reason: str | None = None
    detector: str | None = None
    detection: DetectionScores | None = None
    files: tuple[WrittenFile, ...]

    def to_json(self) -> str:
        """Return the result as JSON of schema edgedistill.onnx/1."""
        return json.dumps({"schema": SCHEMA, **self.model_dump(mode="json")}, indent=2)

    def lines(self) -> Iterator[str]:
        """Yield lines for a person: automatic decisions, layers in float, files, and losses."""
        yield from self.choices
        if self.scheme_reason is not None:
            yield f"int8: {self.scheme_reason}"
        reasons = Counter(form.removeprefix("float: ") for form in self.layers.values() if not is_int8(form))
        for reason, count in reasons.items():
            yield f"{count} of {len(self.layers)} layers stay in float: {reason}"
        for layer, form in self.layers.items():
            if form.startswith(FLOAT_RESULT):
                yield f"the result of {layer} stays in float: {form.removeprefix(FLOAT_RESULT)}"
        kind = "random inputs" if self.random else f"inputs of {self.test}" if self.test else "inputs"
        if self.accuracy is not None:
            yield f"{self.model}: {self._title} {self.accuracy:.2%} on {self.samples:,} {kind}"
        if self.detector is not None:
            yield f"outputs, {self.detector}"
        if self.detection is not None and self.detection.ap is not None:
            yield f"{self.model}: {_boxes(self.detection)} on {self.samples:,} {kind}"
        for one in self.files:
            yield from self._file_lines(one, kind)
        if self.sensitivity:
            yield f"largest errors with a single layer in int8: {largest(self.sensitivity)}; --skip NODE leaves a layer in float"

    @property
    def _title(self) -> str:
        """The name of the metric within a line."""
        return "mIoU" if self.metric == SEGMENTATION.metric else "accuracy"

    def _file_lines(self, one: WrittenFile, kind: str) -> Iterator[str]:
        """Yield the lines about a file; `kind` says what the inputs of the comparison are."""
        yield f"{one.file}: {one.precision}, opset {one.opset}, {one.size_bytes:,} bytes{_form(one)}"
        if one.accuracy is not None and self.accuracy is not None:
            yield f"  {self._title} {one.accuracy:.2%}, {100 * (one.accuracy - self.accuracy):+.2f} points"
            for part, worst in (("class", one.worst_class), ("slice", one.worst_slice)):
                yield from _part_lines(part, worst, 100 * (self.accuracy - one.accuracy))
        if one.detection is not None:
            yield from _detection_lines(one.detection, self.detection)
        same = f"same class as the original model {percent(one.parity.agreement)}, " if self.classifies else ""
        yield from _not_judged(one)
        error = (
            f", squared error {percent(one.error)} of the outputs' variance" if one.parity.agreement is not None else ""
        )
        yield f"  on {self.samples:,} {kind}: {same}maximum difference {one.parity.max_abs_diff:.3g}{error}"
        output = worst_output(one.outputs)
        found = one.outputs[output]
        if found.channel is not None and len(one.outputs) * found.channels > 1:
            yield f"  worst: {found.where(output)}: {found.loss()}"
        if found.lost and self.forced:
            yield f"  --force: written although {found.where(output)} is lost"
        yield from (f"  {warning}" for warning in one.warnings)


def _detection_lines(one: DetectionScores, original: DetectionScores | None) -> Iterator[str]:
    """Yield lines that compare a file's detections with those of the original model: AP and threshold, and how many agree."""
    if one.ap is not None and original is not None and original.ap is not None:
        moved = (one.threshold or 0) - (original.threshold or 0)
        yield f"  {_boxes(one)}: AP {100 * (one.ap - original.ap):+.2f} points, threshold {moved:+.3f}"
    if not one.confident:
        yield "  the original model has no confident detection, so their agreement says nothing; give inputs with objects"
        return
    yield f"  {one.agreement:.2%} of {one.confident:,} confident detections of the original model agree"


def _boxes(one: DetectionScores) -> str:
    assert one.ap is not None
    assert one.ap50 is not None
    assert one.best_f1 is not None
    return f"AP {one.ap:.2%}, AP50 {one.ap50:.2%}, best F1 {one.best_f1:.2%} from a score of {one.threshold:.3f}"


def _not_judged(one: WrittenFile) -> Iterator[str]:
    if one.parity.reason is not None:
        yield (
            f"  warning: agreement says nothing, because of the original model's output: {one.parity.reason}; give inputs with "
            "content to --data or --test"
        )


def _part_lines(part: str, worst: ClassDrop | None, lost: float) -> Iterator[str]:
    """Yield the line about the class or slice that lost most, if any lost some; a warning if it certainly lost more than all."""
    if worst is not None and worst.points > 0:
        certain = "warning: " if worst.ci95_points[0] > max(lost, 0.0) else ""
        yield f"  {certain}worst {part} {worst.name}: {part_loss(worst)}"


def part_loss(drop: ClassDrop) -> str:
    """Return the words for the accuracy that a class or slice lost."""
    low, high = drop.ci95_points
    return (
        f"{drop.baseline:.2%} to {drop.candidate:.2%} of {drop.n:,} samples, {drop.points:.2f} points lower (joint 95 % interval: "
        f"{low:+.2f} to {high:+.2f})"
    )


def worst_output(outputs: dict[str, OutputError]) -> str:
    """Return the name of the output with the largest error of a channel."""
    return max(outputs, key=lambda name: outputs[name].channel_error)


def largest(sensitivity: dict[str, float]) -> str:
    """Return the first layers of a ranking, each with its error."""
    return ", ".join(f"{name} ({percent(error)})" for name, error in list(sensitivity.items())[:SHOWN])


def _form(one: WrittenFile) -> str:
    encoding = "" if one.encoding is None else f", encoding {one.encoding}"
    return encoding + (f", {len(one.float32_nodes)} nodes in float32" if one.float32_nodes else "")
