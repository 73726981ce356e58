"""What was measured of a model on a device: the file format edgedistill.measurement/1.

Units are in the names. `None` means not measured; `Measurement.reasons` says why, by field.

History: 1, the first; fields that may be absent have been added since: engine_latency_ns, throughput, layers,
settings, soak, environment, browser, and more of memory_bytes, energy_uj and processes.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from edgedistill.records.base import Record
from edgedistill.records.stages import Engine, Parity


class ModelIdentity(Record):
    """Which model was measured: `sha256` is the artifact's source ONNX model, `lineage` its ancestors by stage."""

    name: str
    sha256: str
    lineage: dict[str, str] = Field(default_factory=dict)


class DeviceFacts(Record):
    """The machine that ran the model, as it described itself; `emulated` names what only pretended to be its processor."""

    address: str
    id: str
    arch: str
    os: str
    kernel: str | None
    python: str | None
    engine: Engine
    cpu: str
    cores: int
    memory_bytes: int | None
    governor: str | None
    power_mode: str | None
    load_average: float | None
    virtualised: bool | None
    emulated: str | None = None


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


class Layer(Record):
    """A layer as the engine runs it: its operator there, the precision it computes in, and what it takes by its profiler."""

    name: str
    type: str
    precision: str
    ns: float


class LayerProfile(Record):
    """The layers in the order they run, and the median of a whole inference with the engine's profiler on and off."""

    layers: tuple[Layer, ...]
    profiled_ns: float
    plain_ns: float


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


class Browser(Record):
    """What ran a model on a page: all that decides how fast it can be, as the page found it and not as it was asked for.

    `isolated` and `shared_memory` are what threads need. `loops` inferences make one sample, where the timer's step,
    `timer_ns`, is too coarse for one. `heap_bytes` is the largest size of WebAssembly's memory, which never shrinks.
    """

    provider: Literal["wasm", "webgpu"]
    user_agent: str = Field(min_length=1, max_length=512)
    secure: bool
    isolated: bool
    shared_memory: bool
    timer_ns: float = Field(gt=0, le=1e9, allow_inf_nan=False)
    loops: int = Field(ge=1, le=100_000)
    heap_bytes: int | None = Field(ge=0)
    gpu: str | None = Field(max_length=200)
    hidden: bool


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
    layers: LayerProfile | None = None
    settings: dict[str, str | bool | int | float | None] | None = None
    soak: Soak | None = None
    environment: Environment | None = None
    browser: Browser | None = None

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)
