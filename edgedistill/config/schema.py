"""`edgedistill.toml` as frozen records; an unknown key is an error that names the nearest match.

Paths in a configuration are relative to its own folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator, model_validator

from edgedistill.config.data import DataConfig
from edgedistill.config.gates import GateConfig
from edgedistill.config.model_spec import ModelSpec
from edgedistill.config.training import (
    Count,
    DistillConfig,
    Fraction,
    Positive,
    StudentConfig,
    TeacherConfig,
)
from edgedistill.records.base import Activations, GrownRecord, Ranges, Record, Scheme, Weights


class QuantizeConfig(Record):
    """int8 quantization: post-training (ptq), with fine-tuning (qat), or the cheapest way within `max_drop` points (auto).

    Fine-tuning learns from the float student, on batches of [distill] batch_size, with AdamW. With "unsigned" `activations`, the output
    of a ReLU has 255 steps instead of 127; TensorRT does not support such files. With "narrow" `weights`, sums of products cannot
    overflow on x86 without VNNI.
    """

    mode: Literal["none", "ptq", "qat", "auto"] = "auto"
    """ptq quantizes after training, qat also fine-tunes, auto takes the cheapest way within `max_drop`, none leaves out int8."""
    max_drop: Positive = 0.5
    """Largest drop of the metric on validation data that auto accepts, in percentage points."""
    samples: Count = 512
    """Number of training inputs on which ranges are measured."""
    ranges: Literal["auto"] | Ranges = "auto"
    """How a range is chosen: by the least squared error (mse), or as the largest magnitude (minmax). auto takes mse, and the better of both if mse loses more than `max_drop`."""
    activations: Literal["auto"] | Activations = "auto"
    """Integer type of activations; auto takes unsigned if every target supports it."""
    weights: Literal["auto"] | Weights = "auto"
    """Range of int8 weights; auto takes narrow if this machine is a target and has no VNNI."""
    skip: tuple[str, ...] = ()
    """Layers or modules that stay in float, by name."""
    epochs: Count = 5
    """Epochs of the fine-tuning."""
    lr: Positive = 5e-4
    """Peak learning rate of the fine-tuning."""

    @property
    def scheme(self) -> Scheme:
        """The integers to use; "auto" must be replaced before by the choice for the targets."""
        return Scheme.model_validate({"activations": self.activations, "weights": self.weights})

    @property
    def first_ranges(self) -> Ranges:
        """The ranges to calibrate with first."""
        return "mse" if self.ranges == "auto" else self.ranges


class ExportConfig(Record):
    """What the ONNX files contain."""

    bake: tuple[Literal["normalize", "scores"], ...] = ()
    """Include preprocessing (normalize) and softmax or sigmoid (scores) in the file: it takes raw inputs and returns scores."""
    opset: Count | None = None
    """ONNX opset of the files; the default is the highest that every target supports."""


class Budget(GrownRecord):
    """Limits for a model on a target."""

    later: ClassVar[frozenset[str]] = frozenset({"accuracy_drop"})

    p95_ms: Positive | None = None
    """Limit of the 95th percentile of the latency, in milliseconds."""
    size_bytes: Count | None = None
    """Limit of the size of the artifact, in bytes."""
    memory_bytes: Count | None = None
    """Limit of the peak memory, in bytes."""
    energy_mj: Positive | None = None
    """Limit of the energy per inference, in millijoules."""
    accuracy: Fraction | None = None
    """Smallest value of the metric that is allowed, as a fraction."""
    accuracy_drop: Positive | None = None
    """Drop of the metric against the teacher, in percentage points, from which a student is no longer recommended; 3 if it is not set."""


class TargetConfig(Record):
    """A kit on a device, and the precisions to measure there."""

    name: str
    """Name of the target in tables, reports and messages."""
    kit: str
    """The kit that compiles and runs the models; `edgedistill targets` lists the kits."""
    device: str = "local"
    """Where the models run: local, ssh://USER@HOST or adb://SERIAL."""
    precisions: tuple[str, ...] = ("fp32", "int8")
    """Precisions to measure, of those that the kit offers."""
    threads: Count = 1
    """Threads of the engine."""
    watts: Positive | None = None
    """Power of this device in watts, for an energy estimate; the default is that of `[bench]`."""
    budget: Budget = Budget()
    """Limits on this target; see `[target.budget]`."""


class BenchConfig(Record):
    """How models are measured: in fresh processes, which take turns in bursts if there are several models."""

    processes: Annotated[int, Field(ge=1)] = 5
    """Fresh processes for each model."""
    seconds: Positive = 1.0
    """Seconds of steady inference in each process."""
    caches: Literal["warm", "cold"] = "warm"
    """With cold, the caches of the processor are emptied before each inference."""
    soak_minutes: Annotated[float, Field(ge=0)] = 0.0
    """Minutes of inference without a pause afterwards, to find throttling."""
    meter: str | None = None
    """A CSV file that an external power meter writes during the measurement."""
    watts: Positive | None = None
    """Power of the device in watts, if you know it; energy is then estimated from it, and labelled as an estimate."""


class TrackingConfig(Record):
    """Where the epochs of each training are logged."""

    trackers: tuple[Literal["tensorboard", "mlflow"], ...] = ()
    """Where each training logs its epochs; each tracker is an extra of the same name."""


def _one_or_several(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Accept [teacher] or [[teacher]]; errors in a single table have no index in their key."""
    return (TeacherConfig.model_validate(value),) if isinstance(value, dict) else validate(value)


class Config(Record):
    """A complete edgedistill.toml; `target` has one table per target, and `teacher` can have one table per teacher."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the run; its folder is runs/NAME."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the splits, views, weights and batches."""
    data: DataConfig
    teachers: Annotated[tuple[TeacherConfig, ...], WrapValidator(_one_or_several)] = Field(
        alias="teacher", min_length=1
    )
    student: StudentConfig
    distill: DistillConfig = DistillConfig()
    quantize: QuantizeConfig = QuantizeConfig()
    export: ExportConfig = ExportConfig()
    target: tuple[TargetConfig, ...] = ()
    bench: BenchConfig = BenchConfig()
    gate: GateConfig = GateConfig()
    tracking: TrackingConfig = TrackingConfig()
    folder: Path = Field(default=Path(), exclude=True)

    @model_validator(mode="after")
    def _targets_are_distinct(self) -> Config:
        if not self.target:
            raise ValueError("no [[target]]; add one, for example name = 'pc', kit = 'openvino'")
        names: set[str] = set()
        seen: set[tuple[str, str]] = set()
        for target in self.target:
            if target.name in names:
                raise ValueError(f"two targets have the name '{target.name}'; give each its own name")
            if (target.device, target.kit) in seen:
                raise ValueError(
                    f"two targets run kit '{target.kit}' on device '{target.device}'; merge their precisions"
                )
            names.add(target.name)
            seen.add((target.device, target.kit))
        return self

    @model_validator(mode="after")
    def _features_have_layers(self) -> Config:
        if self.distill.uses_features and not self.teacher.model.is_module:
            raise ValueError(
                f"distill: loss '{self.distill.loss}' needs the layers of a torch teacher, but {self.teacher.model} has "
                "none; use kd, dkd, dist, ls or mse"
            )
        return self

    @model_validator(mode="after")
    def _teachers_fit_their_use(self) -> Config:
        if self.distill.uses_features and len(self.teachers) > 1:
            raise ValueError(f"distill: loss '{self.distill.loss}' compares the layers of one teacher; name only one")
        if self.student.prune is not None and not self.teacher.model.is_module:
            raise ValueError(
                f"student.prune: needs a torch teacher, but {self.teacher.model} is not a torch model; set student.model"
            )
        if self.student.layers is not None and self.teacher.model.source != "hf":
            raise ValueError(
                f"student.layers: keeps layers of a teacher hf:FOLDER, but the teacher is {self.teacher.model}; set student.model"
            )
        if self.student.prune is not None and self.teacher.view_keys:
            key = next(iter(self.teacher.view_keys))
            raise ValueError(
                f"student.prune: the student sees the data as [data] says, so its teacher cannot have teacher.{key}; move the "
                "key to [data], or set student.model"
            )
        return self

    @property
    def teacher(self) -> TeacherConfig:
        """The first teacher, which is exported, measured as the baseline, pruned, and used for features."""
        return self.teachers[0]

    @property
    def budgets(self) -> dict[str, Budget]:
        """The budget of each target, by target name."""
        return {target.name: target.budget for target in self.target}

    @property
    def gate_baseline(self) -> Path | None:
        """The run or measurement file that the gates compare with, or None."""
        return None if self.gate.baseline is None else self.path(self.gate.baseline)

    def path(self, text: str) -> Path:
        """Resolve a path relative to the folder of the configuration."""
        return (self.folder / text).resolve()

    def model_folder(self, spec: ModelSpec) -> Path:
        """Return the folder of a model hf:FOLDER or hf:ORG/NAME@REVISION, which is downloaded if it is not here yet."""
        if spec.hub is None:
            return self.path(spec.name)
        from edgedistill.runtime.hub import hub_folder

        return hub_folder(*spec.hub)
