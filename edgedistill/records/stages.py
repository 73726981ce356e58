"""The frozen records that stages pass to each other, stored as JSON.

Names include units. Measurements are in `measurement.py`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, Literal

from pydantic import Field, field_validator, model_validator

from edgedistill.records import stage_names
from edgedistill.records.base import Activations, Encoding, FileRef, Record, Scheme, Weights, readable
from edgedistill.records.contract import Contract
from edgedistill.records.finding import Finding
from edgedistill.records.parity import Parity
from edgedistill.records.quantize_steps import Int8Speed, LayerSensitivity, LimitVerdict, QuantizeMethod, QuantizeStep
from edgedistill.records.signature import Signature
from edgedistill.records.training import TrainedModel
from edgedistill.records.trial_score import TrialScore


class StageRecord(Record):
    """The result of a stage of the pipeline; `stage` is the name of the stage, `findings` are what is wrong or odd about the result."""

    stage: ClassVar[str]

    findings: tuple[Finding, ...] = ()


SplitName = Literal["train", "test", "val", "unlabelled"]
"""The keys of [data] that name sources."""
KindName = Literal["image", "signal", "tokens", "features", "text"]
"""The kinds of input: images, time series, token numbers, unordered values, or the token numbers and masks of texts."""


class InputRecord(Record):
    """One input; `shape` is the shape of one sample as stored in the data, channels last."""

    name: str = "input"
    kind: KindName
    dtype: str
    shape: tuple[int, ...]
    vocabulary: int | None = None


class DataRecord(StageRecord):
    """The data: its inputs, in the order in which models take them, its task, and the sizes of its splits.

    `classes` names the values of the labelled output: the classes or, for regression and embedding, the values. If the data
    has no labels, validation and test samples are labelled with the teacher's outputs. `output` names the labelled output of
    models with several outputs; None means the first. `left_out` are the files of each split that could not be read, if the
    configuration asks to leave them out. `unlabelled` is the number of samples without labels beside the training samples.
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
    unlabelled: int = 0
    fingerprint: str
    left_out: dict[str, tuple[str, ...]] = Field(default_factory=dict)

    @field_validator("left_out")
    @classmethod
    def _readable(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        """Write names of files that are not UTF-8 as text."""
        return {split: tuple(map(readable, names)) for split, names in value.items()}

    @model_validator(mode="before")
    @classmethod
    def _read_single_input(cls, table: Any) -> Any:
        """Convert a record of an older run, whose data had exactly one input."""
        if not isinstance(table, dict) or "inputs" in table or "kind" not in table:
            return table
        keys = ("kind", "dtype", "shape", "vocabulary")
        rest = {key: value for key, value in table.items() if key not in keys}
        return rest | {"inputs": [{key: table.get(key) for key in keys}]}

    @property
    def distilled(self) -> int:
        """The number of samples that a student is distilled on."""
        return self.train + self.unlabelled

    @property
    def summary(self) -> str:
        """The inputs as short text."""
        shapes = [" ".join((one.kind, "\u00d7".join(map(str, one.shape)), one.dtype)) for one in self.inputs]
        if len(shapes) == 1:
            return shapes[0]
        return ", ".join(f"{one.name}: {shape}" for one, shape in zip(self.inputs, shapes, strict=True))


class TeacherRecord(TrainedModel, StageRecord):
    """The first teacher, which is exported and measured, and `others`, whose logits are averaged with those of the first."""

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


SOFT_LABELS_SCHEMA: Final = "edgedistill.soft_labels/2"
"""The content of cached soft labels; it is part of their key. Version 1 could hold probabilities instead of logits."""


class SoftLabelsRecord(StageRecord):
    """Cached teacher logits of `views` augmented views of `samples` training samples; with 0 views the teacher runs online.

    `engine` and `val_accuracy` (a fraction, None for a single teacher) describe all teachers together. The `top_k` largest
    logits of each view are kept; 0 keeps all. `shape` is that of a sample's logits, None for (classes,). `targets` holds the teachers' outputs for samples without labels. `logits` is
    the labelled output; `outputs` holds the other outputs of a model with several outputs.
    """

    stage: ClassVar[str] = stage_names.SOFT_LABELS

    fingerprint: str
    views: int
    samples: int
    classes: int
    shape: tuple[int, ...] | None = None
    top_k: int = 0
    logits: FileRef | None
    outputs: dict[str, FileRef] = Field(default_factory=dict)
    engine: str | None
    val_accuracy: float | None = None
    targets: FileRef | None = None
    parent: str


class Trial(Record):
    """The student of a seed and its controls: trained without the teacher, and without the weights that the student starts with."""

    seed: int
    student: TrainedModel
    control: TrainedModel | None
    scratch: TrainedModel | None = None


class StudentRecord(StageRecord):
    """The student of the seed with the best validation metric, its controls, the name of its start, and the trials of all seeds."""

    stage: ClassVar[str] = stage_names.DISTILL

    student: TrainedModel
    control: TrainedModel | None
    scratch: TrainedModel | None = None
    start: str | None = None
    trials: tuple[Trial, ...] = ()


class QuantizedRecord(StageRecord):
    """The quantized student, as fake-quantized weights and scales or, for a transformer, as a canonical int8 ONNX model.

    `forms` has the form of a transformer for each kit. `val_accuracy` is measured on the host.
    `activations` and `weights` are the integers that the scales are for. `skip` names the modules that stay in float, `steps` are all
    attempts in order, and `holds` is that of the chosen one. `outcome` is its verdict, or "does not pay" if "auto" stopped because
    int8 is slower on every target in `speeds`, which is empty if "auto" did not ask. `seconds`: "speed" and "ranking".
    """

    stage: ClassVar[str] = stage_names.QUANTIZE

    file: FileRef | None
    mode: Literal["none"] | QuantizeMethod
    val_accuracy: float | None
    float_val_accuracy: float | None
    calibration_samples: int
    layers: dict[str, str] = Field(default_factory=dict)
    activations: Activations = "signed"
    weights: Weights = "full"
    forms: dict[str, QuantizeMethod] = Field(default_factory=dict)
    skip: tuple[str, ...] = ()
    max_drop: float | None = None
    holds: bool | None = None
    outcome: LimitVerdict | Literal["does not pay"] | None = None
    speeds: tuple[Int8Speed, ...] = ()
    seconds: dict[str, float] = Field(default_factory=dict)
    steps: tuple[QuantizeStep, ...] = ()
    sensitivity: tuple[LayerSensitivity, ...] = ()
    parent: str

    @property
    def scheme(self) -> Scheme:
        """The integers of the model."""
        return Scheme(activations=self.activations, weights=self.weights)

    @property
    def is_graph(self) -> bool:
        """Whether the file is an ONNX model, and not the weights of a module."""
        return self.file is not None and self.file.path.endswith(".onnx")


class OnnxModel(Record):
    """One exported model; `name` is teacher or student; `io` holds recorded inputs and outputs, the outputs under `expected`.

    `output` names the labelled output, "a+b" for two side by side, and `threshold` is the value above which a label is
    predicted. `float32_nodes` are the nodes of a float16 model that stay in float32 because float16 would overflow; `warnings`
    are those of the linter for the kits of its targets. `contract` is None for a teacher's file.
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
    contract: Contract | None = None
    parent: str

    @property
    def judged_output(self) -> str | None:
        """The name of the labelled output if the model has several outputs, otherwise None."""
        several = self.signature is not None and len(self.signature.outputs) > 1
        return self.output if several else None


class ExportRecord(StageRecord):
    """The exported models and, with controls or several seeds, the test score of each trial.

    `pictures` holds a few decoded pictures of the test set in their original size, None if the models take no pictures.
    """

    stage: ClassVar[str] = stage_names.EXPORT

    models: tuple[OnnxModel, ...]
    scores: tuple[TrialScore, ...] = ()
    pictures: FileRef | None = None


class Engine(Record):
    """An inference engine on a device."""

    name: str
    version: str


class Artifact(Record):
    """A compiled model; `entry` is the file to load, `files` are all files that it needs, and `size_bytes` is their total size."""

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
"""The record type of each stage, in the order of the stages."""
