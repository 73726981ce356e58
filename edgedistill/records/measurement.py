"""A measurement of a model on a device: the file format edgedistill.measurement/2.

Names include units. `None` means not measured; `Measurement.reasons` gives the reason for each such field.

History: version 1 is the first; these optional fields were added later: engine_latency_ns, throughput, layers,
settings, soak, environment, browser, details, pictures, samples_sha256, and more of memory_bytes, energy_uj and processes. In version 2,
processes of several models take turns in bursts, which `duet` describes; files of version 1 are read too.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, model_validator

from edgedistill.records.base import Record
from edgedistill.records.details import Details
from edgedistill.records.parity import Parity
from edgedistill.records.stages import Engine

MOST_NS: Final = 10**15
"""Eleven days: no inference and no process takes longer."""

Ns = Annotated[float, Field(gt=0, le=MOST_NS, allow_inf_nan=False)]
"""A time that something took, in nanoseconds: a number above 0."""

Finite = Annotated[float, Field(allow_inf_nan=False)]


class ModelIdentity(Record):
    """The model that was measured: `sha256` of the ONNX model it was compiled from, and `lineage`, the hashes of its ancestors."""

    name: str
    sha256: str
    lineage: dict[str, str] = Field(default_factory=dict)


class DeviceFacts(Record):
    """The machine that ran the model, as it describes itself; `emulated` names the emulator, if one ran the processor."""

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
    """The requested precision, and the number of weighted layers (convolution, dense, matmul) that ran in each precision."""

    requested: str
    executed: dict[str, int] | None


class ProcessSample(Record):
    """The samples of one fresh process.

    Percentiles and their order-statistic intervals come from the process's own clean samples and are None where n is too
    small. `drift` is the median latency of the last third over that of the first third. `wait_ns` is the time in which the
    process was ready but had no CPU. `others`, `stolen` and `siblings_busy` are the fractions of CPU time used by other
    processes on the same CPUs, by the host of a virtual machine, and by other hardware threads of the same cores. The samples
    come from `bursts` turns; each turn began with inferences that refill the caches, `lead_n` in all, which are no samples.
    """

    n: Annotated[int, Field(ge=1)]
    n_clean: Annotated[int, Field(ge=0)]
    wall_ns: Annotated[int, Field(ge=0, le=MOST_NS)]
    load_ns: Annotated[int, Field(ge=0, le=MOST_NS)]
    first_inference_ns: Annotated[int, Field(ge=0, le=MOST_NS)]
    warmup_n: Annotated[int, Field(ge=0)]
    steady: bool
    p50_ns: Ns
    threads: int | None
    affinity: tuple[int, ...]
    peak_bytes: int | None
    baseline_bytes: int | None
    load_peak_bytes: int | None = None
    steady_bytes: int | None = None
    device_bytes: int | None = None
    percentiles_ns: dict[str, Ns | None] = Field(default_factory=dict)
    ci95_ns: dict[str, tuple[Ns, Ns] | None] = Field(default_factory=dict)
    drift: float | None = None
    wait_ns: int | None = None
    others: float | None = None
    stolen: float | None = None
    siblings_busy: float | None = None
    bursts: int | None = None
    lead_n: int | None = None


class Undisturbed(Record):
    """The p50 in the fastest mode of a device that has modes, and the fraction of the bursts that were in this mode."""

    p50: Ns
    share: Finite


class Latency(Record):
    """Single-stream latency of the samples that were not preempted; a percentile is None where n is too small for it.

    `undisturbed` is None where the bursts show no modes of the device.
    """

    p50: Ns
    p90: Ns | None
    p95: Ns | None
    p99: Ns | None
    mean: Ns
    min: Ns
    ci95: dict[str, tuple[Ns, Ns] | None]
    n: Annotated[int, Field(ge=1)]
    undisturbed: Undisturbed | None = None


class Memory(Record):
    """Peak resident memory of the process, and its increment over the process with only the engine imported, in bytes.

    `null_increment` is the increment of a model with one operator, and `net` the increment minus that: the memory of the
    model itself. `load_peak` is the peak after loading, `steady` the resident memory at the end, and `device` the memory on
    the accelerator, where the engine reports it.
    """

    peak: int
    increment: int
    net: int | None = None
    null_increment: int | None = None
    load_peak: int | None = None
    steady: int | None = None
    device: int | None = None


class Energy(Record):
    """Energy per inference in microjoules, for everything that the source covers (`scope`), and with idle power subtracted.

    Both are medians over `windows` of `window_s` seconds each; `idle_mw` is the power before and after. An estimate is the
    latency multiplied by the power that the user gave; it has no windows and no idle power.
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
    """Inferences per second with several sessions at once: the best level, its `concurrency`, and every level tried.

    `stopped` says why no higher level was tried.
    """

    per_s: float
    concurrency: int
    levels: dict[str, float]
    stopped: str | None = None


class Layer(Record):
    """A layer as the engine runs it: operator, precision, and time in nanoseconds according to the engine's profiler."""

    name: str
    type: str
    precision: str
    ns: float


class LayerProfile(Record):
    """The layers in execution order, and the median latency of an inference with the engine's profiler on and off."""

    layers: tuple[Layer, ...]
    profiled_ns: float
    plain_ns: float


class PictureTiming(Record):
    """The median nanoseconds of a decoded picture: preprocessing, network and postprocessing as the contract says, and all three.

    `n` pictures were timed, of these `sizes` in pixels, (width, height); the median of all three is not the sum of the medians.
    """

    preprocess_ns: float
    network_ns: float
    postprocess_ns: float
    total_ns: float
    n: int
    sizes: tuple[tuple[int, int], ...]


class SensorRange(Record):
    """The first, last and largest value of a sensor in a series; None where the sensor gave no value."""

    start: float | None
    end: float | None
    max: float | None


class Soak(Record):
    """A sustained run; its series are in the raw samples under names that begin with "soak.".

    `slowed_after_s` is the time after which latency stayed more than 5 % above its initial value. `throttling` names the
    clock that fell or the throttle counter that rose, and is None where neither happened. Sensor names include units.
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
    """The frequency of a clock in kHz, and its limits."""

    current: int | None
    min: int | None
    max: int | None


class Snapshot(Record):
    """The state of a device at one moment; empty or None where the device does not report it.

    `clocks_locked` means that no clock can change. `throttle_counts` count from the start of the device, `throttling` lists
    the active alarms, and `cpu_pressure_percent` is the share of the last ten seconds in which a task waited for a CPU.
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


class Duet(Record):
    """Models that were measured together: in each set, one fresh process of each took turns in bursts of milliseconds.

    `id` is the same for all of them, and `arm` is this model's name among them. `ratios` has, by the name of each other model,
    the latency of this model divided by that of the other in each set: the median over rounds, in which the two bursts are
    neighbours in time, so that what slows the device slows both (after Bulej et al., ICPE 2020). A ratio is None if one of the
    two has no measurement in that set. `caches` is "warm" if the first inferences of a burst are no samples, "cold" if each
    inference ran after other work had emptied the caches.
    """

    id: str = Field(min_length=1, max_length=64)
    arm: str
    caches: Literal["warm", "cold"] = "warm"
    ratios: dict[str, tuple[float | None, ...]] = Field(default_factory=dict)


class Accuracy(Record):
    """A metric on the test set with its 95 % interval; 1 is perfect.

    The interval is Wilson's for top1, a bootstrap interval for r2 and mean_ap, and Student's for cosine, which is a mean.
    """

    metric: str
    value: Finite
    ci95: tuple[Finite, Finite]
    n: Annotated[int, Field(ge=1)]


class Browser(Record):
    """The browser that ran a model on a page, and everything that limits its speed.

    Threads need `isolated` and `shared_memory`. One sample is the mean of `loops` inferences, because the resolution of the
    timer, `timer_ns`, can be too coarse for one. `heap_bytes` is the largest size of WebAssembly's memory, which never shrinks.
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


class Longest(Record):
    """The latency at the longest of requests of several lengths: `p50_ns` is the median of `n` inferences of one process."""

    length: int
    p50_ns: float
    n: int


class Measurement(Record):
    """One model on one device with one engine: schema edgedistill.measurement/2.

    `latency_ns` times the call that runs an inference; `engine_latency_ns` is the time according to the engine's own clock,
    where it has one. `throughput_per_s` is that of a single stream, `throughput` that of the best number of streams. `details`
    are those of the accuracy of boxes, masks and pairs, `pictures` the time of whole pictures. Requests of several lengths,
    as of texts, are timed at their own length, and `longest` is the longest of them. `samples_sha256` is the hash of the file
    `samples`. A file of a measurement also has `sha256`, the hash of its other fields.
    """

    schema_: Literal["edgedistill.measurement/1", "edgedistill.measurement/2"] = Field(alias="schema")
    created: str
    model: ModelIdentity
    target: str
    kit: str
    device: DeviceFacts
    precision: Precision
    threads: int
    processes: Annotated[tuple[ProcessSample, ...], Field(min_length=1)]
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
    duet: Duet | None = None
    pictures: PictureTiming | None = None
    details: Details | None = Field(default=None, discriminator="kind")
    longest: Longest | None = None
    samples_sha256: str | None = None

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    @model_validator(mode="before")
    @classmethod
    def _without_own_hash(cls, table: Any) -> Any:
        """Leave out the hash of the file, which is no part of the measurement: `edgedistill.compare.load` checks it."""
        return {key: value for key, value in table.items() if key != "sha256"} if isinstance(table, dict) else table

    def reason_for(self, field: str) -> str:
        """Return why a field, such as "latency_ns.p95", is None, in the words of the device."""
        *parents, name = field.split(".")
        for key in (field, name, *parents):
            if key in self.reasons:
                return self.reasons[key]
        return "not measured, and no reason was recorded"
