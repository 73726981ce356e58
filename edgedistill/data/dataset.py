"""The data of a run: checked, split, and described."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from edgedistill.config.schema import Config, DataConfig
from edgedistill.data.sources import Array, Source, fingerprint_source, load_source, rate_of
from edgedistill.errors import ConfigError
from edgedistill.records.stages import DataRecord
from edgedistill.runtime.files import hash_of
from edgedistill.runtime.folder import Run
from edgedistill.tasks.tasks import TaskName

Kind = Literal["image", "signal", "tokens"]


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of a source: `rows` index `inputs`, and are the samples' identities; `labels` belong to `rows`.

    Labels are class numbers (N,), int64, or values (N, D), float32; without labels D is 0.
    """

    inputs: Array
    rows: Array
    labels: Array

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class Dataset:
    """The three splits and their description."""

    record: DataRecord
    train: Split
    val: Split
    test: Split


def fingerprint_data(config: Config, run: Run) -> str:
    """Hash everything that decides the data and its splits."""
    data = config.data
    sources = [source for source in (data.train, data.test, data.val) if source is not None]
    chosen = data.model_dump(include={"val_fraction", "size", "classes", "task"}) | {"kind": _said_kind(data)}
    chosen |= {} if data.dimensions is None else {"dimensions": data.dimensions}
    chosen |= {} if data.seconds is None else {"seconds": data.seconds}
    chosen |= {} if data.test is not None else {"test_fraction": data.test_fraction}
    return hash_of([chosen, config.seed, [fingerprint_source(text, config.folder, run) for text in sources]])


def load_dataset(config: Config, fingerprint: str) -> Dataset:
    """Load, check and split the data.

    Raises ConfigError for what cannot be learned from: shapes, labels or classes that do not fit together.
    """
    data, folder = config.data, config.folder
    form = (data.size, data.seconds)
    train = load_source(data.train, folder, *form)
    test = load_source(data.test, folder, *form) if data.test else None
    given_val = load_source(data.val, folder, *form) if data.val else None
    kind = _said_kind(data) or kind_of(train.inputs)
    every = {"train": train, "test": test, "val": given_val}
    named = [(name, source) for name, source in every.items() if source is not None]
    for name, source in named:
        _check_inputs(name, source, train, kind)
    labelled = _are_labelled(config, named)
    classes = _classes_of(data, named) if data.task == "classification" else _values_of(data, named)
    _check_channels(data, kind, train.inputs.shape[1:])
    _check_mel(config, kind, train.inputs.shape[1:])
    fit, held, val = _splits(config, train, test, given_val)
    record = DataRecord(
        kind=kind, dtype=train.inputs.dtype.name, shape=train.inputs.shape[1:], classes=classes, task=data.task,
        labelled=labelled,
        vocabulary=int(max(source.inputs.max() for _, source in named)) + 1 if kind == "tokens" else None,
        train=len(fit), val=len(val), test=len(held), fingerprint=fingerprint,
    )  # fmt: skip
    return Dataset(record, fit, val, held)


def with_targets(dataset: Dataset, path: Path) -> Dataset:
    """Return a dataset without labels with those of validation and test read from a file of the soft labels' stage."""
    with np.load(path, allow_pickle=False) as targets:
        val, test = replace(dataset.val, labels=targets["val"]), replace(dataset.test, labels=targets["test"])
    return replace(dataset, val=val, test=test)


def _said_kind(data: DataConfig) -> Kind | None:
    return "signal" if data.kind is None and data.mel is not None else data.kind


def kind_of(inputs: Array) -> Kind:
    """Return what inputs are taken for where the configuration does not say it."""
    if inputs.ndim == 4 or (inputs.ndim == 3 and inputs.dtype == np.uint8):
        return "image"
    if inputs.ndim == 2 and np.issubdtype(inputs.dtype, np.integer):
        return "tokens"
    return "signal"


RANKS: dict[Kind, tuple[tuple[int, ...], str]] = {
    "image": ((3, 4), "(N, H, W, C) or (N, H, W)"),
    "signal": ((2, 3), "(N, T, C) or (N, T)"),
    "tokens": ((2,), "(N, T)"),
}


def _check_inputs(name: str, source: Source, train: Source, kind: Kind) -> None:
    inputs, labels = source.inputs, source.labels
    if inputs.ndim not in RANKS[kind][0]:
        raise ConfigError(f"data.{name}: inputs have shape {inputs.shape}; {kind} data is {RANKS[kind][1]}")
    if labels.shape[:1] != (len(inputs),):
        raise ConfigError(
            f"data.{name}: {len(inputs)} inputs but labels of shape {labels.shape}; expected ({len(inputs)},)"
        )
    if len(inputs) == 0:
        raise ConfigError(f"data.{name}: holds no samples")
    if inputs.shape[1:] != train.inputs.shape[1:] or inputs.dtype != train.inputs.dtype:
        raise ConfigError(
            f"data.{name}: samples are {inputs.dtype}{inputs.shape[1:]}, "
            f"but those of train are {train.inputs.dtype}{train.inputs.shape[1:]}"
        )
    if not (np.issubdtype(inputs.dtype, np.integer) or np.issubdtype(inputs.dtype, np.floating)):
        raise ConfigError(f"data.{name}: inputs are {inputs.dtype}; expected uint8, another integer, or float")
    if kind == "tokens" and (not np.issubdtype(inputs.dtype, np.integer) or inputs.min() < 0):
        raise ConfigError(f"data.{name}: tokens must be integers from 0 on")
    if np.issubdtype(inputs.dtype, np.floating) and not np.isfinite(np.sum(inputs, dtype=np.float64)):
        raise ConfigError(f"data.{name}: inputs hold NaN or infinity")


def _are_labelled(config: Config, named: list[tuple[str, Source]]) -> bool:
    """Tell data with labels from data without; raises ConfigError for a mixture, and for what needs labels."""
    first, labelled = named[0][0], named[0][1].is_labelled
    for name, source in named:
        if source.is_labelled != labelled:
            without, having = (name, first) if labelled else (first, name)
            raise ConfigError(f"data.{without}: has no labels, but data.{having} has; give them to all, or to none")
    if not labelled:
        _check_unlabelled(config)
    elif config.data.dimensions is not None:
        raise ConfigError("data.dimensions: is for data without labels, and this data has some; remove the key")
    return labelled


def _check_unlabelled(config: Config) -> None:
    if config.data.task != "embedding":
        raise ConfigError(
            f"data.train: has no labels (an array 'labels'), and data.task is '{config.data.task}'; only 'embedding' can do "
            "without, where the student learns the teacher's outputs alone"
        )
    if config.data.dimensions is None:
        raise ConfigError(
            "data.dimensions: without labels it must be said how many values the teacher gives; for example dimensions = 128"
        )
    if config.distill.hard_weight:
        raise ConfigError(
            f"distill.hard_weight: is {config.distill.hard_weight:g}, but the data has no labels; set it to 0"
        )
    if config.distill.control:
        raise ConfigError(
            "distill.control: without labels there is nothing but the teacher to learn from, so no student without it can "
            "be trained; set control = false"
        )
    for teacher in config.teachers:
        form = Path(teacher.model).suffix
        if form == ".npy":
            raise ConfigError(
                f"teacher.model: {teacher.model} holds the outputs of training samples; without labels the test set is "
                "held against the teacher, so name the model itself"
            )
        if form != ".onnx" and teacher.weights is None:
            raise ConfigError(
                f"teacher.weights: the data has no labels to train {teacher.model} on; name a file of weights"
            )


def _classes_of(data: DataConfig, named: list[tuple[str, Source]]) -> tuple[str, ...]:
    for name, source in named:
        if source.labels.ndim != 1:
            raise ConfigError(
                f"data.{name}: labels have shape {source.labels.shape}; expected ({len(source.labels)},), "
                "or data.task = 'regression' if they are values"
            )
        if not np.issubdtype(source.labels.dtype, np.integer):
            raise ConfigError(
                f"data.{name}: labels are {source.labels.dtype}; expected class numbers from 0 on, "
                "or data.task = 'regression' if they are values"
            )
        if source.labels.min() < 0:
            raise ConfigError(f"data.{name}: label {source.labels.min()} is below 0")
        if source.classes is not None and source.classes != named[0][1].classes:
            raise ConfigError(
                f"data.{name}: classes {', '.join(source.classes)} are not those of train, "
                f"{', '.join(named[0][1].classes or ('none',))}"
            )
    train = named[0][1]
    classes = data.classes or train.classes or tuple(str(i) for i in range(int(train.labels.max()) + 1))
    for name, source in named:
        if source.labels.max() >= len(classes):
            row = int(np.argmax(source.labels))
            raise ConfigError(
                f"data.{name}: label {source.labels[row]} (sample {row}) is out of range; there are {len(classes)} classes"
            )
    if len(classes) < 2:
        raise ConfigError("data.train: a single class cannot be learned; check the labels")
    return classes


def _values_of(data: DataConfig, named: list[tuple[str, Source]]) -> tuple[str, ...]:
    """Return the names of the values that labels hold, of which each split has as many."""
    train = named[0][1]
    count = _as_values(train.labels).shape[1] if train.is_labelled else data.dimensions or 0
    for name, source in named:
        labels = source.labels
        if labels.ndim > 2 or not (np.issubdtype(labels.dtype, np.number) and np.isfinite(labels).all()):
            raise ConfigError(
                f"data.{name}: labels are {labels.dtype}{labels.shape}; expected finite numbers (N,) or (N, D)"
            )
        if source.is_labelled and _as_values(labels).shape[1] != count:
            raise ConfigError(
                f"data.{name}: {_as_values(labels).shape[1]} values a label, but those of train have {count}"
            )
    names = data.classes or train.classes or tuple(str(i) for i in range(count))
    if len(names) != count:
        raise ConfigError(f"data.classes: {len(names)} names, but {_holder(train)} {count} value(s)")
    if data.task == "embedding" and count < 2:
        raise ConfigError("data.task: an embedding needs vectors (N, D) for labels; for one value it is 'regression'")
    return names


def _holder(train: Source) -> str:
    return "labels have" if train.is_labelled else "data.dimensions is"


def _as_values(labels: Array) -> Array:
    return labels.reshape(len(labels), -1)


def _check_channels(data: DataConfig, kind: Kind, shape: tuple[int, ...]) -> None:
    channels = channels_of(kind, shape)
    for key, values in (("mean", data.mean), ("std", data.std)):
        if values is not None and kind == "tokens":
            raise ConfigError(f"data.{key}: tokens are not normalised; remove the key")
        if values is not None and len(values) != channels:
            raise ConfigError(f"data.{key}: {len(values)} values, but samples have {channels} channel(s)")


def _check_mel(config: Config, kind: Kind, shape: tuple[int, ...]) -> None:
    data = config.data
    if data.mel is None:
        return
    if kind != "signal" or channels_of(kind, shape) != 1:
        raise ConfigError(f"data.mel: is for waveforms (N, T) of one channel; this is {kind} data of shape {shape}")
    rate = rate_of(data.train, config.folder)
    if rate is not None and rate != data.mel.rate:
        raise ConfigError(f"data.mel.rate: is {data.mel.rate}, but the WAV files have {rate} samples per second")
    if shape[0] < data.mel.window:
        raise ConfigError(f"data.mel: a window is {data.mel.window} samples, but waveforms have only {shape[0]}")


def channels_of(kind: Kind, shape: tuple[int, ...]) -> int:
    """Return the number of channels of a sample of this shape; 1 where the axis is left out."""
    full = {"image": 3, "signal": 2, "tokens": 2}[kind]
    return shape[-1] if len(shape) == full else 1


def _whole(source: Source, task: TaskName) -> Split:
    labels = (
        source.labels.astype(np.int64) if task == "classification" else _as_values(source.labels).astype(np.float32)
    )
    return Split(source.inputs, np.arange(len(labels)), labels)


def _splits(config: Config, train: Source, test: Source | None, val: Source | None) -> tuple[Split, Split, Split]:
    """Return what is trained on, the test set and the validation set; those that are not given are split from train."""
    data = config.data
    whole = _whole(train, data.task)
    fit, held = (whole, _whole(test, data.task)) if test else _split(config, whole, "test")
    if val is not None:
        return fit, held, _whole(val, data.task)
    fit, valid = _split(config, fit, "val")
    return fit, held, valid


def _split(config: Config, whole: Split, name: Literal["test", "val"]) -> tuple[Split, Split]:
    from sklearn.model_selection import train_test_split

    data = config.data
    key = f"{name}_fraction"
    try:
        fit, held = train_test_split(
            np.arange(len(whole)), test_size=getattr(data, key), random_state=config.seed % 2**32,
            stratify=whole.labels if data.task == "classification" else None,
        )  # fmt: skip
    except ValueError as error:
        raise ConfigError(f"data.{key}: train cannot be split by class: {error}; give data.{name}") from None
    parts = (np.sort(part) for part in (fit, held))
    fitted, kept = (Split(whole.inputs, whole.rows[part], whole.labels[part]) for part in parts)
    return fitted, kept
