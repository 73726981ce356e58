"""`edgedistill.toml` as frozen records; an unknown key is an error that names the nearest match.

Paths in a configuration are relative to its own folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from edgedistill.config.gates import GateConfig
from edgedistill.config.training import (
    Count,
    DistillConfig,
    Fraction,
    Positive,
    StudentConfig,
    TeacherConfig,
)
from edgedistill.records.base import Activations, Record, Scheme, Weights
from edgedistill.records.stages import KindName, SplitName

Level = Annotated[int, Field(ge=0, le=255)]
Column = str | Annotated[int, Field(ge=0)]
"""A column of a table of texts: its name in the header, or its number from 0 on in a table without a header."""
TABLES = (".tsv", ".csv", ".jsonl", ".tsv.gz", ".csv.gz", ".jsonl.gz")
"""The ends of the names of tables of texts."""
ResizeRule = Literal["crop", "letterbox", "letterbox-corner", "stretch"]


class MelConfig(Record):
    """A log-mel front end for waveforms of `rate` samples per second; the default `high_hz` is half the rate.

    Waveforms are int16, which is divided by 32768, or float in [-1, 1); use float for TensorRT, which does not support int16.
    """

    rate: Count
    window_ms: Positive = 32.0
    hop_ms: Positive = 16.0
    bins: Count = 40
    low_hz: Annotated[float, Field(ge=0)] = 20.0
    high_hz: Positive | None = None

    @property
    def window(self) -> int:
        """The window in samples, which is also the length of the Fourier transform."""
        return round(self.rate * self.window_ms / 1000)

    @property
    def hop(self) -> int:
        """The step from window to window in samples."""
        return round(self.rate * self.hop_ms / 1000)

    @property
    def top_hz(self) -> float:
        """The upper edge of the highest filter."""
        return self.rate / 2 if self.high_hz is None else self.high_hz

    @model_validator(mode="after")
    def _is_possible(self) -> MelConfig:
        if self.hop < 1 or self.window < 2:
            raise ValueError(f"window_ms and hop_ms are {self.window} and {self.hop} samples; lengthen them")
        if not self.low_hz < self.top_hz <= self.rate / 2:
            raise ValueError(
                f"filters from {self.low_hz} to {self.top_hz} Hz; they must rise, up to {self.rate / 2} Hz"
            )
        return self


class InputConfig(Record):
    """One of several inputs: its kind, and the mean and deviation of each channel."""

    kind: KindName | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[Positive, ...] | None = None


class DataConfig(Record):
    """The data; without `test` and `val`, `test_fraction` and then `val_fraction` of the training samples are split off.

    `unlabelled` are samples without labels, beside those of `train`: the student also learns the teacher's outputs for them.

    `size`, [width, height] or the side of a square, resizes the images of a folder by the rule `resize`; the border of a letterbox
    has the grey level `padding`. `void` is the value of masks for pixels that count for nothing, and `images` is the folder of
    the pictures of a COCO file. The clips of a folder of WAV files are cut or padded to `seconds`. With `skip_bad`, files of a
    folder that cannot be read are left out.

    With `mel`, waveforms become log-mel spectrograms, and `mean` and `std` are those of the spectrograms. The labels of a
    `task` other than classification are values (N,) or vectors (N, D), and `classes` are the names of the D values. Data
    without labels needs task embedding, and `dimensions` is the number of values in the teacher's output.

    For data with several inputs, `inputs` has a table per input, with `kind`, `mean` and `std`. For models with several
    outputs, `output` names the labelled output, by default the first.

    Tables of texts (.tsv, .csv, .jsonl) name their columns: `text`, one or two, `label`, and `score` of pairs of sentences.
    `tokenizer` is a tokenizer.json or its folder, by default that of the hf: model; longer texts are cut to `max_length` tokens.
    """

    train: str
    test: str | None = None
    val: str | None = None
    unlabelled: str | None = None
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    kind: KindName | None = None
    inputs: dict[str, InputConfig] = Field(default_factory=dict)
    size: Count | tuple[Count, Count] | None = None
    resize: ResizeRule | None = None
    padding: Level = 114
    void: Level = 255
    images: str | None = None
    seconds: Positive | None = None
    skip_bad: bool = False
    task: str = "classification"
    output: str | None = None
    mel: MelConfig | None = None
    classes: tuple[str, ...] | None = None
    dimensions: Annotated[int, Field(ge=2)] | None = None
    text: Column | Annotated[tuple[Column, ...], Field(min_length=1, max_length=2)] | None = None
    label: Column | None = None
    score: Column | None = None
    tokenizer: str | None = None
    max_length: Annotated[int, Field(ge=3)] = 128
    augment: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[Positive, ...] | None = None

    @field_validator("size", mode="before")
    @classmethod
    def _is_one_or_two_sides(cls, value: Any) -> Any:
        sides = value if isinstance(value, (list, tuple)) else [value, value]
        if value is not None and (len(sides) != 2 or any(type(one) is not int or one < 1 for one in sides)):
            raise ValueError(f"size is {value!r}; it is the side of a square in pixels, or [width, height]")
        return value

    @model_validator(mode="after")
    def _keys_apply(self) -> DataConfig:
        if self.resize is not None and self.size is None:
            raise ValueError(f"resize = '{self.resize}' needs size, in pixels, for example size = [480, 360]")
        if "void" in self.model_fields_set and self.task != "segmentation":
            raise ValueError(f"void only applies to task 'segmentation'; the task is '{self.task}', so remove the key")
        if self.images is not None and self.task != "detection":
            raise ValueError(f"images only applies to task 'detection'; the task is '{self.task}', so remove the key")
        if "padding" in self.model_fields_set and not (self.resizing or "").startswith("letterbox"):
            raise ValueError("padding only applies to resize 'letterbox' and 'letterbox-corner'; remove the key")
        return self

    @model_validator(mode="after")
    def _text_keys_apply(self) -> DataConfig:
        if not self.is_text:
            for key in ("label", "score", "tokenizer", "max_length"):
                if key in self.model_fields_set:
                    raise ValueError(f"{key} only applies to texts; remove the key, or set kind = 'text'")
            return self
        if self.kind not in (None, "text"):
            raise ValueError(f"kind is '{self.kind}', but this is a table of texts; remove the key")
        if self.train.endswith(TABLES) and self.text is None:
            raise ValueError(f"text names the column of the texts in {self.train}, for example text = 'sentence'")
        if self.score is not None and self.task != "sentence-embedding":
            raise ValueError(f"score only applies to task 'sentence-embedding'; the task is '{self.task}'")
        if self.task == "sentence-embedding" and self.label is not None:
            raise ValueError(
                "label does not apply to task 'sentence-embedding'; name the column of the scores as score"
            )
        return self

    @property
    def is_text(self) -> bool:
        """Whether the samples are texts: tables of texts, or folders of .txt files with kind = "text"."""
        return self.kind == "text" or self.text is not None or self.train.endswith(TABLES)

    @property
    def texts(self) -> tuple[Column, ...]:
        """The columns of the texts; empty for folders of .txt files."""
        return () if self.text is None else self.text if isinstance(self.text, tuple) else (self.text,)

    @property
    def sources(self) -> dict[SplitName, str]:
        """The sources by their keys; without those that are not given."""
        given: dict[SplitName, str | None]
        given = {"train": self.train, "test": self.test, "val": self.val, "unlabelled": self.unlabelled}
        return {key: text for key, text in given.items() if text is not None}

    @property
    def resizing(self) -> ResizeRule | None:
        """The rule by which images are resized, None without `size`: a letterbox for boxes and masks, otherwise a crop."""
        if self.size is None:
            return None
        return self.resize or ("letterbox" if self.task in ("detection", "segmentation") else "crop")


class QuantizeConfig(Record):
    """int8 quantization: post-training (ptq), with fine-tuning (qat), or the cheapest way within `max_drop` points (auto).

    Ranges are measured on `samples` training inputs. Fine-tuning learns from the float student for `epochs`, on batches of
    [distill] batch_size, with AdamW and a peak learning rate of `lr`. With "unsigned" `activations`, the output of a ReLU has
    255 steps instead of 127; TensorRT does not support such files. With "narrow" `weights`, sums of products cannot overflow on
    x86 without VNNI. "auto" chooses both for the targets.
    """

    mode: Literal["none", "ptq", "qat", "auto"] = "auto"
    max_drop: Positive = 0.5
    samples: Count = 512
    ranges: Literal["mse", "minmax"] = "mse"
    activations: Literal["auto"] | Activations = "auto"
    weights: Literal["auto"] | Weights = "auto"
    skip: tuple[str, ...] = ()
    epochs: Count = 5
    lr: Positive = 5e-4

    @property
    def scheme(self) -> Scheme:
        """The integers to use; "auto" must be replaced before by the choice for the targets."""
        return Scheme.model_validate({"activations": self.activations, "weights": self.weights})


class ExportConfig(Record):
    """`bake` includes preprocessing ("normalize") and softmax ("scores") in the file: it takes raw inputs and returns scores.

    `opset` is the opset of the file; the default is the highest that every target supports.
    """

    bake: tuple[Literal["normalize", "scores"], ...] = ()
    opset: Count | None = None


class Budget(Record):
    """Limits for a model on a target; energy is in millijoules per inference."""

    p95_ms: Positive | None = None
    size_bytes: Count | None = None
    memory_bytes: Count | None = None
    energy_mj: Positive | None = None
    accuracy: Fraction | None = None


class TargetConfig(Record):
    """A kit on a device, and the precisions to measure there."""

    name: str
    kit: str
    device: str = "local"
    precisions: tuple[str, ...] = ("fp32", "int8")
    threads: Count = 1
    watts: Positive | None = None
    budget: Budget = Budget()


class BenchConfig(Record):
    """Fresh processes per model, and seconds of steady inference in each; then `soak_minutes` of sustained inference.

    Processes of several models take turns in bursts. With `caches = "cold"`, the caches are emptied before each inference.
    `meter` is a CSV file that an external power meter writes during the measurement. `watts` is the power of the device
    according to the user, which a target can override; it gives an energy estimate, labelled as one, for devices without a
    power sensor.
    """

    processes: Annotated[int, Field(ge=1)] = 5
    seconds: Positive = 1.0
    caches: Literal["warm", "cold"] = "warm"
    soak_minutes: Annotated[float, Field(ge=0)] = 0.0
    meter: str | None = None
    watts: Positive | None = None


class TrackingConfig(Record):
    """The trackers that each training logs its epochs to; each is an optional dependency of the same name."""

    trackers: tuple[Literal["tensorboard", "mlflow"], ...] = ()


def _one_or_several(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Accept [teacher] or [[teacher]]; errors in a single table have no index in their key."""
    return (TeacherConfig.model_validate(value),) if isinstance(value, dict) else validate(value)


class Config(Record):
    """A complete edgedistill.toml; `target` has one table per target, and `teacher` can have one table per teacher."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
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
        seen: set[tuple[str, str]] = set()
        for target in self.target:
            if (target.device, target.kit) in seen:
                raise ValueError(
                    f"two targets run kit '{target.kit}' on device '{target.device}'; merge their precisions"
                )
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
