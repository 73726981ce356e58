"""The frozen records that stages pass to each other; all of them are JSON on disk.

Units are in the names. `None` means not measured; `Measurement.reasons` says why, by field.

History of `edgedistill.measurement`: 1, the first; fields that may be absent have been added since: engine_latency_ns,
throughput, soak, environment, and more of memory_bytes, energy_uj and processes.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Encoding = Literal["s8-f32", "u8-i32", "s8-i32", "s8-f16"]
"""Activation type and bias type of an int8 ONNX model: signed with zero point 0, or unsigned with zero point 128.

In s8-f16 all that is float elsewhere is float16: biases, scales, and what is computed between the int8 layers.
"""


class Record(BaseModel):
    """A frozen value; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileRef(Record):
    """A file of a run, by its path relative to the run folder."""

    path: str
    sha256: str
    bytes: int


class DataRecord(Record):
    """What the data is: `shape` is one sample's, channels last, as the user gave it.

    `classes` names the outputs of a model: the classes or, for regression and embedding, the values. Without labels, those
    of validation and test samples are the teacher's outputs.
    """

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


class TeacherRecord(TrainedModel):
    """The first teacher, which is exported and measured, and the others, whose logits are averaged with its."""

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


class SoftLabelsRecord(Record):
    """Cached teacher logits of `views` augmented views of `samples` training samples; 0 views is the online teacher.

    `engine` and `val_accuracy` (a fraction; None for one teacher, whose own it is) are of all teachers together. Of a view
    the `top_k` largest logits are kept, 0 for all. `targets` holds their outputs of samples that have no labels.
    """

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


class StudentRecord(Record):
    """The distilled student, of the seed that did best on validation, its control, and the trials of all seeds."""

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


class QuantizedRecord(Record):
    """The quantized student, as fake-quantized weights and scales; `val_accuracy` is of that model in torch.

    `skip` names the modules whose layers are float, those of the configuration included; `steps` are all tries in their
    order, and `holds` tells whether the one that was kept is within `max_drop`.
    """

    file: FileRef | None
    mode: Literal["none"] | QuantizeMethod
    val_accuracy: float | None
    float_val_accuracy: float | None
    calibration_samples: int
    layers: dict[str, str] = Field(default_factory=dict)
    skip: tuple[str, ...] = ()
    max_drop: float | None = None
    holds: bool | None = None
    steps: tuple[QuantizeStep, ...] = ()
    sensitivity: tuple[LayerSensitivity, ...] = ()
    parent: str


class Parity(Record):
    """Agreement of two forms of one model: `agreement` is the metric of one with the other's outputs for labels.

    For classification that is the fraction of equal top-1 answers, for regression R2, for embedding the mean cosine.
    """

    max_abs_diff: float
    agreement: float


class OnnxModel(Record):
    """One exported model; `name` is teacher or student; `io` holds its inputs and outputs, `expected` is its key there.

    `float32_nodes` are the parts of a float16 model that float16 would not hold.
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
    parent: str


class TrialScore(Record):
    """How one seed's float models do on the test set, by the task's metric, where 1 is perfect."""

    seed: int
    student: float
    control: float | None


class ExportRecord(Record):
    """The exported models and, where there are controls or several seeds, what all trials score on the test set."""

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


class CompileRecord(Record):
    """The artifacts of all targets."""

    artifacts: tuple[Artifact, ...]


class ModelIdentity(Record):
    """Which model was measured: `sha256` is the artifact's source ONNX model, `lineage` its ancestors by stage."""

    name: str
    sha256: str
    lineage: dict[str, str] = Field(default_factory=dict)


class DeviceFacts(Record):
    """The machine that ran the model, as it described itself."""

    address: str
    id: str
    arch: str
    os: str
    kernel: str
    python: str
    engine: Engine
    cpu: str
    cores: int
    memory_bytes: int | None
    governor: str | None
    power_mode: str | None
    load_average: float | None
    virtualised: bool | None


class Precision(Record):
    """What was asked for, and the number of weighted layers (convolution, dense, matmul) that ran in each precision."""

    requested: str
    executed: dict[str, int] | None


class ProcessSample(Record):
    """One fresh process: the unit of sampling.

    Percentiles and their order-statistic intervals are of its own clean samples, None where n is too small; `drift` is the
    median of their last third over the first's. It was ready and had no CPU for `wait_ns`; fractions of CPU time went to other
    processes on its CPUs (`others`), to the host (`stolen`), and to other work on the same cores (`siblings_busy`).
    """

    n: int
    n_clean: int
    wall_ns: int
    load_ns: int
    first_inference_ns: int
    warmup_n: int
    steady: bool
    p50_ns: float
    threads: int | None
    affinity: tuple[int, ...]
    peak_bytes: int | None
    baseline_bytes: int | None
    load_peak_bytes: int | None = None
    steady_bytes: int | None = None
    device_bytes: int | None = None
    percentiles_ns: dict[str, float | None] = Field(default_factory=dict)
    ci95_ns: dict[str, tuple[float, float] | None] = Field(default_factory=dict)
    drift: float | None = None
    wait_ns: int | None = None
    others: float | None = None
    stolen: float | None = None
    siblings_busy: float | None = None


class Latency(Record):
    """Single-stream latency over the samples that were not preempted; a percentile is None where n cannot bound it."""

    p50: float
    p90: float | None
    p95: float | None
    p99: float | None
    mean: float
    min: float
    ci95: dict[str, tuple[float, float] | None]
    n: int


class Memory(Record):
    """Peak resident memory of the process, and its increment over the process with the engine imported; all in bytes.

    `net` is the increment less `null_increment`, what a model of one operator adds: the model's own. `load_peak` is the peak
    when it was loaded, `steady` what was resident at the end, and `device` the accelerator's memory, where the engine tells.
    """

    peak: int
    increment: int
    net: int | None = None
    null_increment: int | None = None
    load_peak: int | None = None
    steady: int | None = None
    device: int | None = None


class Energy(Record):
    """Energy of one inference in microjoules: of all that the source sees (`scope`), and with idle power subtracted.

    Medians over `windows` of `window_s` seconds each; `idle_mw` is the power before and after. An estimate is the latency
    times the power that the user gave, and has none of that.
    """

    per_inference: float
    idle_subtracted: float | None
    source: str
    scope: str | None = None
    provenance: Literal["measured", "estimated"] = "measured"
    windows: tuple[float, ...] = ()
    window_s: float | None = None
    mean_mw: float | None = None
    idle_mw: tuple[float, float] | None = None
    readings: int | None = None


class Throughput(Record):
    """Inferences per second with several sessions at once: the best, at how many (`concurrency`), and all that were tried.

    `stopped` says what ended the trial of more.
    """

    per_s: float
    concurrency: int
    levels: dict[str, float]
    stopped: str | None = None


class SensorRange(Record):
    """A sensor's first, last and largest value in a series; None where it told nothing."""

    start: float | None
    end: float | None
    max: float | None


class Soak(Record):
    """A sustained run; its series are in the raw samples, their names beginning with "soak.".

    `slowed_after_s` is when latency rose for good by more than 5 % over its beginning, and `throttling` which clock fell or
    which throttle counter rose; without that, something else slowed it. Sensors bear their units in their names.
    """

    seconds: float
    n: int
    p50_start_ns: float
    p50_end_ns: float
    slowed_after_s: float | None
    throttling: str | None
    sensors: dict[str, SensorRange]
    power_source: str | None
    power_reason: str | None


class Clock(Record):
    """A clock in kHz, and the bounds that it moves within."""

    current: int | None
    min: int | None
    max: int | None


class Snapshot(Record):
    """A device's state at one moment; empty or None is what it does not tell.

    `clocks_locked`: no clock has room to move. `throttle_counts` are since the device started, `throttling` are alarms
    that are on, and `cpu_pressure_percent` is the share of ten seconds in which something waited for a CPU.
    """

    governors: dict[str, int]
    clocks_khz: dict[str, Clock]
    clocks_locked: bool | None
    power_mode: str | None
    power_source: Literal["battery", "mains"] | None
    temperatures_c: dict[str, float]
    throttle_counts: dict[str, int]
    throttling: tuple[str, ...]
    load_average: float | None
    cpu_pressure_percent: float | None


class Environment(Record):
    """The device before and after the timed processes, and the versions of its drivers."""

    before: Snapshot
    after: Snapshot
    drivers: dict[str, str]


class Accuracy(Record):
    """A metric on the test set with its 95 % interval, where 1 is perfect.

    top1 with Wilson's interval; r2 with that of resampled samples; cosine, a mean, with Student's.
    """

    metric: str
    value: float
    ci95: tuple[float, float]
    n: int


class Measurement(Record):
    """One model on one device through one engine: schema edgedistill.measurement/1.

    Latencies are of the call that runs an inference, `engine_latency_ns` by the engine's own clock where it has one.
    `throughput_per_s` is of that single stream, `throughput` of the best number of streams.
    """

    schema_: Literal["edgedistill.measurement/1"] = Field(alias="schema")
    created: str
    model: ModelIdentity
    target: str
    kit: str
    device: DeviceFacts
    precision: Precision
    threads: int
    processes: tuple[ProcessSample, ...]
    latency_ns: Latency
    throughput_per_s: float | None
    load_ns: float
    first_inference_ns: float
    memory_bytes: Memory | None
    energy_uj: Energy | None
    accuracy: Accuracy | None
    parity: Parity | None
    size_bytes: int
    contaminated: bool
    samples: str
    reasons: dict[str, str]
    engine_latency_ns: Latency | None = None
    throughput: Throughput | None = None
    soak: Soak | None = None
    environment: Environment | None = None

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)


class BenchRecord(Record):
    """The measurement files of a run."""

    measurements: tuple[FileRef, ...]


class ReportRecord(Record):
    """The HTML report."""

    report: FileRef
