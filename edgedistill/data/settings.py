"""The settings of the data and of its views, which stages declare."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from edgedistill.config.schema import Config, MelConfig
from edgedistill.data.sources import SINGLE, fingerprint_source
from edgedistill.errors import ConfigError
from edgedistill.records.base import Record
from edgedistill.records.stages import DataRecord, InputRecord, KindName
from edgedistill.runtime.files import hash_of
from edgedistill.stages.stage import Sources


class SourceRef(Record):
    """The source of a split, and the hash of its content."""

    split: Literal["train", "test", "val"]
    sha256: str
    text: str = Field(exclude=True)
    folder: Path = Field(exclude=True)


class DataSettings(Record):
    """The settings that determine samples, labels and splits; `kinds` are the kinds in the configuration."""

    seed: int
    sources: tuple[SourceRef, ...]
    kinds: dict[str, KindName]
    size: int | None
    seconds: float | None
    classes: tuple[str, ...] | None
    task: str
    output: str | None
    dimensions: int | None
    val_fraction: float
    test_fraction: float | None
    skip_bad: bool = False

    @property
    def fingerprint(self) -> str:
        """The hash of these settings."""
        return hash_of(self.model_dump(mode="json"))


class Normalization(Record):
    """The mean and deviation of each channel of an input; None means no normalization."""

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class ViewSettings(Record):
    """The settings that turn samples into model inputs: augmentation, the log-mel front end, and normalization by input."""

    seed: int
    augment: tuple[str, ...]
    mel: MelConfig | None
    inputs: dict[str, Normalization]


def data_settings(sources: Sources) -> DataSettings:
    """Declare the settings of the data; raises ConfigError for a missing source."""
    data, folder = sources.config.data, sources.config.folder
    texts: dict[Literal["train", "test", "val"], str | None] = {"train": data.train, "test": data.test, "val": data.val}
    refs = [
        SourceRef(split=split, sha256=fingerprint_source(text, folder, sources.hash_file), text=text, folder=folder)
        for split, text in texts.items()
        if text is not None
    ]
    kinds: dict[str, KindName] = {name: one.kind for name, one in data.inputs.items() if one.kind is not None}
    single = "signal" if data.kind is None and data.mel is not None else data.kind
    return DataSettings(
        seed=sources.config.seed, sources=tuple(refs), kinds=kinds | ({SINGLE: single} if single else {}), size=data.size,
        seconds=data.seconds, classes=data.classes, task=data.task, output=data.output, dimensions=data.dimensions,
        val_fraction=data.val_fraction, test_fraction=None if data.test else data.test_fraction,
        skip_bad=data.skip_bad,
    )  # fmt: skip


def view_settings(config: Config) -> ViewSettings:
    """Declare the settings of the views."""
    data = config.data
    inputs = {name: Normalization(mean=one.mean, std=one.std) for name, one in data.inputs.items()}
    if data.mean is not None or data.std is not None or not inputs:
        inputs = {SINGLE: Normalization(mean=data.mean, std=data.std)} | inputs
    return ViewSettings(seed=config.seed, augment=data.augment, mel=data.mel, inputs=inputs)


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
    if len(names) > 1 and (data.mean is not None or data.std is not None or data.kind is not None):
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
