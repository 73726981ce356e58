"""The table [data]: where the samples come from, how they become inputs, and what their labels are."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from edgedistill.config.training import Count, Positive
from edgedistill.records.base import Record
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
    """Samples per second of the waveforms."""
    window_ms: Positive = 32.0
    """Length of the window of the Fourier transform, in milliseconds."""
    hop_ms: Positive = 16.0
    """Step from one window to the next, in milliseconds."""
    bins: Count = 40
    """Number of mel bands."""
    low_hz: Annotated[float, Field(ge=0)] = 20.0
    """Lower edge of the lowest band, in hertz."""
    high_hz: Positive | None = None
    """Upper edge of the highest band, in hertz; the default is half of `rate`."""

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
    """The kind of this input; by default its type and shape decide."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel, subtracted from the scaled values."""
    std: tuple[Positive, ...] | None = None
    """Standard deviation of each channel, by which the values are divided."""


class DataConfig(Record):
    """Where the samples come from, how they become inputs, and what their labels are.

    With `mel`, `mean` and `std` are those of the spectrograms. The labels of a `task` other than classification are values (N,)
    or vectors (N, D), and `classes` are the names of the D values. Data without labels needs task embedding.
    """

    train: str
    """The training samples: a folder, a file, shards, or "package.module:function"."""
    test: str | None = None
    """The test samples, which are used once, at the end; without it, a part of `train` is split off."""
    val: str | None = None
    """The validation samples; without it, a part of `train` is split off."""
    unlabelled: str | None = None
    """Samples without labels: the student also learns the teacher's outputs for them."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Fraction of `train` that becomes the test set, if `test` is not given."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Fraction of the remaining training samples that becomes the validation set, if `val` is not given."""
    kind: KindName | None = None
    """What the inputs are: image, signal, tokens, features or text; by default the type and shape decide."""
    inputs: dict[str, InputConfig] = Field(default_factory=dict)
    """With several inputs, one table `[data.inputs.NAME]` for each."""
    size: Count | tuple[Count, Count] | None = None
    """Size of the images after resizing: the side of a square in pixels, or [width, height]."""
    resize: ResizeRule | None = None
    """How images are resized to `size`; the default is letterbox for boxes and masks, otherwise crop."""
    padding: Level = 114
    """Grey level of the border of a letterbox."""
    void: Level = 255
    """Value of mask pixels that training and the metric leave out; 255 is always left out."""
    images: str | None = None
    """Folder of the images of a COCO file; by default they are looked for near the file."""
    seconds: Positive | None = None
    """Length of the clips of a folder of WAV files, which are cut or padded."""
    skip_bad: bool = False
    """Leave out files that cannot be read; otherwise they are an error."""
    task: str = "classification"
    """What the model is for: classification, multi-label, regression, embedding, sentence-embedding, detection or segmentation."""
    output: str | None = None
    """The output that the labels are for, if the model has several; the default is the first."""
    mel: MelConfig | None = None
    """Turn waveforms into log-mel spectrograms inside the model; see `[data.mel]`."""
    classes: tuple[str, ...] | None = None
    """Names of the classes, or of the columns of labels that are numbers."""
    dimensions: Annotated[int, Field(ge=2)] | None = None
    """Number of values in the teacher's output, for task embedding without labels."""
    text: Column | Annotated[tuple[Column, ...], Field(min_length=1, max_length=2)] | None = None
    """Column of the texts in a table, by name, or by number from 0 on; two columns for pairs."""
    label: Column | None = None
    """Column of the labels in a table of texts."""
    score: Column | None = None
    """Column of the scores of pairs, for task sentence-embedding."""
    tokenizer: str | None = None
    """A tokenizer.json, or the folder that has it; the default is that of the hf: model."""
    max_length: Annotated[int, Field(ge=3)] = 128
    """Longer texts are cut to this number of tokens."""
    augment: tuple[str, ...] = ()
    """The list of augmentations, for example ["flip", "crop:4"]."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel; uint8 is divided by 255 and int16 by 32768 first."""
    std: tuple[Positive, ...] | None = None
    """Standard deviation of each channel."""

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
