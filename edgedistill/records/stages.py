"""The frozen records that stages pass to each other; all of them are JSON on disk.

Units are in the names. What a device measured of a model is in `measurement.py`.
"""

from __future__ import annotations

from typing import ClassVar, Final, Literal

from pydantic import Field

from edgedistill.records.base import Activations, Encoding, FileRef, Record


class StageRecord(Record):
    """What a stage made; `stage` is the stage's name in commands, messages and the manifest of a run."""

    stage: ClassVar[str]


class DataRecord(StageRecord):
    """What the data is: `shape` is one sample's, channels last, as the user gave it.

    `classes` names the outputs of a model: the classes or, for regression and embedding, the values. Without labels, those
    of validation and test samples are the teacher's outputs.
    """

    stage: ClassVar[str] = "data"
    kind: Literal["image", "signal", "tokens"]
    dtype: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    task: Literal["classification", "regression", "embedding"] = "classification"
    labelled: bool = True
    vocabulary: int | None
    train: int
    val: int
    test: int
    fingerprint: str


class Epoch(Record):
    """One line of a training history; `lr` is the last step's."""

    epoch: int
    loss: float
    lr: float
    val_accuracy: float
    seconds: float


class TrainedModel(Record):
    """A trained or loaded model: its file, and how it does on the validation split (fractions)."""

    spec: str
    form: Literal["torch", "onnx", "logits"]
    file: FileRef
    parameters: int | None
    val_accuracy: float | None
    history: tuple[Epoch, ...] = ()
    parent: str | None = None


class TeacherRecord(TrainedModel, StageRecord):
    """The first teacher, which is exported and measured, and the others, whose logits are averaged with its."""

    stage: ClassVar[str] = "teacher"
    others: tuple[TrainedModel, ...] = ()

    @property
    def teachers(self) -> tuple[TrainedModel, ...]:
        """All teachers, in the order of the configuration."""
        return self, *self.others

    @property
    def lineage(self) -> dict[str, str]:
        """The hash of each teacher's file: teacher, teacher2, and so on."""
        others = {f"teacher{number}": other.file.sha256 for number, other in enumerate(self.others, 2)}
        return {"teacher": self.file.sha256, **others}


class SoftLabelsRecord(StageRecord):
    """Cached teacher logits of `views` augmented views of `samples` training samples; 0 views is the online teacher.

    `engine` and `val_accuracy` (a fraction; None for one teacher, whose own it is) are of all teachers together. Of a view
    the `top_k` largest logits are kept, 0 for all. `targets` holds their outputs of samples that have no labels.
    """

    stage: ClassVar[str] = "soft_labels"
    fingerprint: str
    views: int
    samples: int
    classes: int
    top_k: int = 0
    logits: FileRef | None
    engine: str | None
    val_accuracy: float | None = None
    targets: FileRef | None = None
    parent: str


class Trial(Record):
    """One seed's student and, when asked for, the same student trained without the teacher."""

    seed: int
    student: TrainedModel
    control: TrainedModel | None


class StudentRecord(StageRecord):
    """The distilled student, of the seed that did best on validation, its control, and the trials of all seeds."""

    stage: ClassVar[str] = "student"
    student: TrainedModel
    control: TrainedModel | None
    trials: tuple[Trial, ...] = ()


class LayerSensitivity(Record):
    """What a layer costs and wins in int8, alone: `output_error` is the outputs' squared error over their variance.

    `drop` is in percentage points of the metric on validation data. The latencies are the layer's own, float and int8,
    on the kit that `measured_on` names; None, with `reason`, where it could not be measured alone.
    """

    layer: str
    output_error: float
    drop: float
    fp32_us: float | None = None
    int8_us: float | None = None
    measured_on: str | None = None
    reason: str | None = None

    @property
    def won_us(self) -> float | None:
        """The microseconds that int8 wins; None where one of the two latencies is missing."""
        return None if self.fp32_us is None or self.int8_us is None else self.fp32_us - self.int8_us


QuantizeMethod = Literal["ptq", "mixed", "qat", "mixed-qat"]
"""Post-training; the same with sensitive layers in float; fine-tuned; fine-tuned with sensitive layers in float."""


class QuantizeStep(Record):
    """One try: `drop` is in percentage points of validation data, `speed_kept` the share of int8's microseconds left."""

    method: QuantizeMethod
    float_layers: tuple[str, ...]
    val_accuracy: float
    drop: float
    holds: bool
    seconds: float
    speed_kept: float | None = None
    history: tuple[Epoch, ...] = ()


class QuantizedRecord(StageRecord):
    """The quantized student, as fake-quantized weights and scales; `val_accuracy` is of that model in torch.

    `activations` is what the scales are for. `skip` names the modules whose layers are float, those of the configuration
    included; `steps` are all tries in their order, and `holds` tells whether the one that was kept is within `max_drop`.
    """

    stage: ClassVar[str] = "quantize"
    file: FileRef | None
    mode: Literal["none"] | QuantizeMethod
    val_accuracy: float | None
    float_val_accuracy: float | None
    calibration_samples: int
    layers: dict[str, str] = Field(default_factory=dict)
    activations: Activations = "signed"
    skip: tuple[str, ...] = ()
    max_drop: float | None = None
    holds: bool | None = None
    steps: tuple[QuantizeStep, ...] = ()
    sensitivity: tuple[LayerSensitivity, ...] = ()
    parent: str


class OutputParity(Record):
    """Agreement of two forms of one model on one of its outputs."""

    max_abs_diff: float
    agreement: float


class Parity(Record):
    """Agreement of two forms of one model: `agreement` is the metric of one with the other's outputs for labels.

    For classification that is the fraction of equal top-1 answers, for regression R2, for embedding the mean cosine. With several
    outputs it is the smallest of theirs, where an output that the metric does not read has 1 - squared error / variance.
    """

    max_abs_diff: float
    agreement: float
    outputs: dict[str, OutputParity] = Field(default_factory=dict)


class OnnxModel(Record):
    """One exported model; `name` is teacher or student; `io` holds its inputs and outputs, `expected` is its key there.

    `float32_nodes` are the parts of a float16 model that float16 would not hold; `warnings` are what the linter says
    about it for the kits of its targets.
    """

    name: str
    precision: str
    encoding: Encoding | None
    opset: int
    file: FileRef
    io: FileRef
    expected: str | None
    parity: Parity | None
    float32_nodes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    parent: str


class TrialScore(Record):
    """How one seed's float models do on the test set, by the task's metric, where 1 is perfect."""

    seed: int
    student: float
    control: float | None


class ExportRecord(StageRecord):
    """The exported models and, where there are controls or several seeds, what all trials score on the test set."""

    stage: ClassVar[str] = "export"
    models: tuple[OnnxModel, ...]
    scores: tuple[TrialScore, ...] = ()


class Engine(Record):
    """An inference engine as found on the device."""

    name: str
    version: str


class Artifact(Record):
    """A compiled, device-ready model; `entry` is the file to load, `files` all of them; `files_bytes` sums `entry`'s form."""

    name: str
    target: str
    kit: str
    device: str
    precision: str
    entry: str
    files: tuple[FileRef, ...]
    extras: tuple[FileRef, ...] = ()
    size_bytes: int
    engine: Engine
    parent: str


class CompileRecord(StageRecord):
    """The artifacts of all targets."""

    stage: ClassVar[str] = "compile"
    artifacts: tuple[Artifact, ...]


class BenchRecord(StageRecord):
    """The measurement files of a run."""

    stage: ClassVar[str] = "bench"
    measurements: tuple[FileRef, ...]


class ReportRecord(StageRecord):
    """The HTML report."""

    stage: ClassVar[str] = "report"
    report: FileRef


STAGE_RECORDS: Final[tuple[type[StageRecord], ...]] = (
    DataRecord, TeacherRecord, SoftLabelsRecord, StudentRecord, QuantizedRecord, ExportRecord, CompileRecord, BenchRecord,
    ReportRecord,
)  # fmt: skip
"""What each stage makes, in the order of the stages."""
