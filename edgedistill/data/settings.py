"""The settings of the data and of its views, which stages declare."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from edgedistill.config.data import DataConfig, MelConfig, ResizeRule
from edgedistill.config.encoder import read_encoder_config
from edgedistill.config.schema import Config
from edgedistill.data.geometry import Resizing
from edgedistill.data.reading import Reading
from edgedistill.data.sources import SINGLE, fingerprint_source
from edgedistill.data.text import PAIRED, TextSettings, tokenizer_file
from edgedistill.errors import ConfigError
from edgedistill.records.base import GrownRecord, Record
from edgedistill.records.stages import DataRecord, InputRecord, KindName, SplitName
from edgedistill.runtime.files import hash_of
from edgedistill.stages.stage import Sources


class SourceRef(Record):
    """The source of a split, and the hash of its content."""

    split: SplitName
    sha256: str
    text: str = Field(exclude=True)
    folder: Path = Field(exclude=True)


class DataSettings(GrownRecord):
    """The settings that determine samples, labels and splits; `kinds` are the kinds in the configuration.

    `size` is the side of a square, or (width, height). Settings that do not apply to the data are None.
    """

    later: ClassVar[frozenset[str]] = frozenset({"resize", "padding", "void", "images", "text"})

    seed: int
    sources: tuple[SourceRef, ...]
    kinds: dict[str, KindName]
    size: int | tuple[int, int] | None
    resize: ResizeRule = "crop"
    padding: int | None = None
    void: int | None = None
    images: str | None = None
    seconds: float | None
    classes: tuple[str, ...] | None
    task: str
    output: str | None
    dimensions: int | None
    val_fraction: float
    test_fraction: float | None
    skip_bad: bool = False
    text: TextSettings | None = None

    @property
    def fingerprint(self) -> str:
        """The hash of these settings."""
        return hash_of(self.model_dump(mode="json"))

    def reading(self, split: SplitName) -> Reading:
        """Return how the source of a split is read."""
        text = self.text
        if split == "unlabelled" and text is not None:
            text = text.model_copy(update={"label": None, "score": None})
        return Reading(
            task=self.task, split=split, resizing=self.resizing, seconds=self.seconds, classes=self.classes,
            void=255 if self.void is None else self.void, images=self.images, skip_bad=self.skip_bad,
            content=next(source.sha256 for source in self.sources if source.split == split), text=text,
        )  # fmt: skip

    @property
    def resizing(self) -> Resizing | None:
        """How images are resized; None for data that stays as it is."""
        if self.size is None:
            return None
        width, height = self.size if isinstance(self.size, tuple) else (self.size, self.size)
        return Resizing(width, height, self.resize, 0 if self.padding is None else self.padding)


class Normalization(Record):
    """The mean and deviation of each channel of an input; None means no normalization."""

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class ViewSettings(Record):
    """The settings that turn samples into model inputs: augmentation, the log-mel front end, and normalization by input.

    `padding` is the grey level outside of moved pictures, which is that of letterboxes; the fingerprint of the data includes it.
    """

    seed: int
    augment: tuple[str, ...]
    mel: MelConfig | None
    inputs: dict[str, Normalization]
    padding: int = Field(default=114, exclude=True)


def data_settings(sources: Sources) -> DataSettings:
    """Declare the settings of the data; raises ConfigError for a missing source."""
    data, folder = sources.config.data, sources.config.folder
    refs = [
        SourceRef(split=split, sha256=fingerprint_of(sources, split, text), text=text, folder=folder)
        for split, text in data.sources.items()
    ]
    kinds: dict[str, KindName] = {name: one.kind for name, one in data.inputs.items() if one.kind is not None}
    single = None if data.is_text else "signal" if data.kind is None and data.mel is not None else data.kind
    return DataSettings(
        seed=sources.config.seed, sources=tuple(refs), kinds=kinds | ({SINGLE: single} if single else {}),
        seconds=data.seconds, classes=data.classes, task=data.task, output=data.output, dimensions=_dimensions(sources.config),
        val_fraction=data.val_fraction, test_fraction=None if data.test else data.test_fraction,
        skip_bad=data.skip_bad, images=data.images, void=data.void if data.task == "segmentation" else None,
        text=_text(sources) if data.is_text else None, **_resizing(data),
    )  # fmt: skip


def _text(sources: Sources) -> TextSettings:
    data, file = sources.config.data, tokenizer_file(sources.config)
    return TextSettings(
        columns=data.texts, label=data.label, score=data.score, tokenizer=sources.hash_file(file),
        max_length=data.max_length, file=file,
    )  # fmt: skip


def _dimensions(config: Config) -> int | None:
    """Return the number of values in the teacher's output: as configured or, of sentence embeddings, the size of an hf: teacher."""
    data, model = config.data, config.teacher.model
    embeds = data.is_text and data.label is None and data.task in ("embedding", PAIRED)
    if data.dimensions is not None or not embeds or model.source != "hf":
        return data.dimensions
    return read_encoder_config(config.model_folder(model)).hidden


def _resizing(data: DataConfig) -> dict[str, Any]:
    rule = data.resizing
    square = isinstance(data.size, tuple) and data.size[0] == data.size[1]
    size = data.size[0] if isinstance(data.size, tuple) and square else data.size
    if rule is None:
        return {"size": None}
    return {"size": size, "resize": rule, "padding": data.padding if rule.startswith("letterbox") else None}


def fingerprint_of(sources: Sources, split: SplitName, text: str) -> str:
    """Return the hash of a source, which is computed once; raises ConfigError for a missing source."""
    config, reading = sources.config, reading_of(sources.config.data, split)
    if (text, reading) not in sources.fingerprints:
        found = fingerprint_source(text, config.folder, sources.hash_file, reading)
        sources.fingerprints[text, reading] = found
    return sources.fingerprints[text, reading]


def reading_of(data: DataConfig, split: SplitName) -> Reading:
    """Return how the files of a split's source are found."""
    return Reading(task=data.task, split=split, images=data.images)


def view_settings(config: Config) -> ViewSettings:
    """Declare the settings of the views."""
    data = config.data
    inputs = {name: Normalization(mean=one.mean, std=one.std) for name, one in data.inputs.items()}
    if data.mean is not None or data.std is not None or not inputs:
        inputs = {SINGLE: Normalization(mean=data.mean, std=data.std)} | inputs
    return ViewSettings(seed=config.seed, augment=data.augment, mel=data.mel, inputs=inputs, padding=data.padding)


def data_normalization(config: Config) -> Normalization:
    """Return the normalization of the first input."""
    return next(iter(view_settings(config).inputs.values()))


def check_input_names(config: Config, record: DataRecord) -> None:
    """Raise ConfigError for keys of unknown inputs."""
    names = {one.name for one in record.inputs}
    for name in config.data.inputs:
        if name not in names:
            raise ConfigError(f"data.inputs.{name}: the data has no such input; it has: {', '.join(sorted(names))}")
    data = config.data
    if data.is_text and (data.mean is not None or data.std is not None):
        raise ConfigError("data: mean and std do not apply to texts; remove the keys")
    if len(names) > 1 and not data.is_text and (data.mean is not None or data.std is not None or data.kind is not None):
        raise ConfigError(
            f"data: with several inputs ({', '.join(sorted(names))}) kind, mean and std belong in [data.inputs.NAME]"
        )


def model_inputs(record: DataRecord, views: ViewSettings) -> tuple[InputRecord, ...]:
    """Describe the inputs of models, channels last: the inputs of the data, or log-mel spectrograms of its waveforms."""
    from edgedistill.data.mel import frames_of

    if views.mel is None:
        return record.inputs
    (waveform,) = record.inputs
    shape = (frames_of(waveform.shape[0], views.mel), views.mel.bins, 1)
    return (waveform.model_copy(update={"kind": "image", "dtype": "float32", "shape": shape}),)
