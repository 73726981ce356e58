"""The frozen records that stages pass to each other; all of them are JSON on disk.

Units are in the names. What a device measured of a model is in `measurement.py`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, Literal

from pydantic import Field, model_validator

from edgedistill.records import stage_names
from edgedistill.records.base import Activations, Encoding, FileRef, Record
from edgedistill.records.signature import Signature


class StageRecord(Record):
    """What a stage of the pipeline makes; `stage` is the stage's name, and stands here alone."""

    stage: ClassVar[str]


KindName = Literal["image", "signal", "tokens", "features"]
"""What an input is: pictures, series over time, token numbers, or plain numbers without neighbours."""


class InputRecord(Record):
    """One input: its name, and what a sample of it is; `shape` is a sample's, channels last, as the user gave it."""

    name: str = "input"
    kind: KindName
    dtype: str
    shape: tuple[int, ...]
    vocabulary: int | None = None


class DataRecord(StageRecord):
    """What the data is: its inputs, in the order in which models take them, and what its labels say.

    `classes` names the values of the output that labels are for: the classes or, for regression and embedding, the values.
    Without labels, those of validation and test samples are the teacher's outputs. `output` names that output of models
    that have several; None stands for the first.
    """

    stage: ClassVar[str] = stage_names.DATA

    inputs: tuple[InputRecord, ...]
    classes: tuple[str, ...]
    task: str = "classification"
    output: str | None = None
    labelled: bool = True
    train: int
    val: int
    test: int
    fingerprint: str

    @model_validator(mode="before")
    @classmethod
    def _read_single_input(cls, table: Any) -> Any:
        """Read the record of a run that was made when data had one input."""
        if not isinstance(table, dict) or "inputs" in table or "kind" not in table:
            return table
        keys = ("kind", "dtype", "shape", "vocabulary")
        rest = {key: value for key, value in table.items() if key not in keys}
        return rest | {"inputs": [{key: table.get(key) for key in keys}]}

    @property
    def summary(self) -> str:
        """The inputs in a few words, for people."""
        shapes = [" ".join((one.kind, "\u00d7".join(map(str, one.shape)), one.dtype)) for one in self.inputs]
        if len(shapes) == 1:
            return shapes[0]
        return ", ".join(f"{one.name}: {shape}" for one, shape in zip(self.inputs, shapes, strict=True))


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

    stage: ClassVar[str] = stage_names.TEACHER

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
    `logits` is of the output that labels are for; `outputs` has the other outputs of a model that has several.
    """

    stage: ClassVar[str] = stage_names.SOFT_LABELS

    fingerprint: str
    views: int
    samples: int
    classes: int
    top_k: int = 0
    logits: FileRef | None
    outputs: dict[str, FileRef] = Field(default_factory=dict)
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

    stage: ClassVar[str] = stage_names.DISTILL

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

    stage: ClassVar[str] = stage_names.QUANTIZE

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
    """Agreement of two forms of one model on one output; see Parity."""

    max_abs_diff: float
    agreement: float


class Parity(Record):
    """Agreement of two forms of one model: `agreement` is the metric of one with the other's outputs for labels.

    For classification that is the fraction of equal top-1 answers, for regression R2, for embedding the mean cosine, for
    multi-label the fraction of equal answers. Of a model with several outputs it is the smallest, where outputs without
    labels count by 1 - squared error / variance; `outputs` has each.
    """

    max_abs_diff: float
    agreement: float
    outputs: dict[str, OutputParity] = Field(default_factory=dict)


class OnnxModel(Record):
    """One exported model; `name` is teacher or student; `io` holds its inputs and outputs, `expected` is its key there.

    `output` names the output that labels are for, and `threshold` is the value above which a label counts as given.

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
    output: str | None = None
    threshold: float | None = None
    signature: Signature | None = None
    parent: str

    @property
    def judged_output(self) -> str | None:
        """The output that labels are for, where there are several; None where there is one."""
        several = self.signature is not None and len(self.signature.outputs) > 1
        return self.output if several else None


class TrialScore(Record):
    """How one seed's float models do on the test set, by the task's metric, where 1 is perfect."""

    seed: int
    student: float
    control: float | None


class ExportRecord(StageRecord):
    """The exported models and, where there are controls or several seeds, what all trials score on the test set."""

    stage: ClassVar[str] = stage_names.EXPORT

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

    stage: ClassVar[str] = stage_names.COMPILE

    artifacts: tuple[Artifact, ...]


class BenchRecord(StageRecord):
    """The measurement files of a run."""

    stage: ClassVar[str] = stage_names.BENCH

    measurements: tuple[FileRef, ...]


class ReportRecord(StageRecord):
    """The HTML report."""

    stage: ClassVar[str] = stage_names.REPORT

    report: FileRef


STAGE_RECORDS: Final[tuple[type[StageRecord], ...]] = (
    DataRecord, TeacherRecord, SoftLabelsRecord, StudentRecord, QuantizedRecord, ExportRecord, CompileRecord, BenchRecord,
    ReportRecord,
)  # fmt: skip
"""What each stage makes, in the order of the stages."""
