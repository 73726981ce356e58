"""Load, check, split and describe the data of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

import numpy as np

from edgedistill.data.checks import check_count, check_input, check_varied
from edgedistill.data.dense import TASKS
from edgedistill.data.kinds import KINDS, guess_kind, kind_of
from edgedistill.data.rows import join, pick
from edgedistill.data.settings import DataSettings, ViewSettings
from edgedistill.data.sources import SINGLE, Array, Arrays, Source, load_source, rate_of
from edgedistill.data.text import IDS, same_length
from edgedistill.errors import ConfigError
from edgedistill.records.base import readable
from edgedistill.records.stages import DataRecord, InputRecord, SplitName
from edgedistill.runtime.progress import QUIET, Reporter
from edgedistill.tasks.class_labels import describe_numbers
from edgedistill.tasks.table import find_task
from edgedistill.tasks.task import Labels

MOST_CLASSES: Final = 100_000
"""The most classes or values that a model is built for: a list of millions is a mistake, and its layers would fill the memory."""


@dataclass(frozen=True, slots=True)
class Split:
    """Some rows of a source: `rows` are indices into the arrays of `inputs` and identify samples; `labels` are the labels of `rows`.

    Labels have the type that the task needs: class numbers (N,), int64, or values (N, D), float32; without labels D is 0.
    `files` are the files of all rows of `inputs`, if the source is a folder. The last `unlabelled` samples have no label.
    """

    inputs: Arrays
    rows: Array
    labels: Array
    files: tuple[str, ...] | None = None
    unlabelled: int = 0

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.rows)

    def first(self, count: int) -> Split:
        """Return the first `count` samples."""
        return self.take(np.arange(min(count, len(self))))

    def take(self, positions: Array) -> Split:
        """Return the samples at these positions."""
        is_large = self.labels.ndim == 3 and self.labels.dtype == np.uint8  # masks, which can be larger than memory
        labels = pick(self.labels, positions) if is_large else self.labels[positions]
        return replace(self, rows=self.rows[positions], labels=labels)

    @property
    def labelled(self) -> int:
        """The number of samples with labels, which come first."""
        return len(self) - self.unlabelled

    def pools(self, positions: Array) -> tuple[Array, Array]:
        """Return the start and the size, each (B,), of the samples that those at `positions` (B,) may be mixed with.

        Samples with labels are only mixed with such samples, because a part without a label would spoil the label of the whole.
        """
        has_label = positions < self.labelled
        return np.where(has_label, 0, self.labelled), np.where(has_label, self.labelled, self.unlabelled)

    def name_of(self, position: int) -> str:
        """Return the name of a sample for messages: its file, or its number in the source."""
        row = int(self.rows[position])
        return f"sample {row}" if self.files is None else self.files[row]


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """The three splits and their description; `note` is a line for the user about labels that were numbered anew.

    `unlabelled` are the samples without labels for distillation, None without such samples. `sources` are the sources by split.
    A data set is only equal to itself, so that what is computed from it can be cached.
    """

    record: DataRecord
    train: Split
    val: Split
    test: Split
    sources: Mapping[SplitName, Source]
    note: str | None = None
    unlabelled: Split | None = None

    @property
    def distilled(self) -> Split:
        """The samples that a student is distilled on: the training samples, and after them those without labels."""
        train, others = self.train, self.unlabelled
        if others is None:
            return train
        inputs = {name: join([values, others.inputs[name]]) for name, values in train.inputs.items()}
        known = len(next(iter(train.inputs.values())))
        files = None if train.files is None or others.files is None else (*train.files, *others.files)
        rows = np.concatenate([train.rows, known + others.rows])
        return Split(inputs, rows, join([train.labels, others.labels]), files, len(others))


def load_dataset(settings: DataSettings, targets: Path | None = None, report: Reporter = QUIET) -> Dataset:
    """Load, check and split the data; `targets` is a file with the teacher's outputs, for validation and test sets without labels.

    The most recent data set is cached in memory. Raises ConfigError for shapes, labels or classes that do not match.
    """
    dataset = _load(_Key(settings, settings.fingerprint, report))
    return dataset if targets is None else _with_targets(dataset, targets)


@dataclass(frozen=True)
class _Key:
    """Settings that compare by fingerprint, and what reports the progress of loading."""

    settings: DataSettings
    fingerprint: str
    report: Reporter

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other.fingerprint == self.fingerprint


@lru_cache(maxsize=1)
def _load(key: _Key) -> Dataset:
    settings = key.settings
    everything = _load_sources(settings, key.report)
    inputs = _describe_inputs(settings, everything)
    named = dict(everything)
    named.pop("unlabelled", None)
    labels = [Labels(split, source.labels, source.classes) for split, source in named.items()]
    labelled = _are_labelled(settings, labels)
    task = find_task(settings.task)
    read = task.read_labels(labels, settings.classes)
    classes = task.names(read, settings.classes, settings.dimensions)
    if odd := next((name for name in classes if readable(name) != name), None):
        raise ConfigError(
            f"data.train: the class '{readable(odd)}' has a name that is not UTF-8, which no model file can hold; rename the class or its folder"
        )
    if len(classes) > MOST_CLASSES:
        raise ConfigError(
            f"data.train: the labels have {len(classes):,} classes or values; at most {MOST_CLASSES:,} are supported: check which numbers are the labels"
        )
    named = {
        split: source._replace(labels=one.values, classes=one.classes)
        for (split, source), one in zip(named.items(), read, strict=True)
    }
    for split, source in named.items():
        check_varied(_place(settings, split), source.inputs.values())
    train, val, test = _splits(settings, named)
    if labelled:
        task.require_scorable("val", val.labels)
        task.require_scorable("test", test.labels)
    unlabelled = _without_labels(settings, everything.get("unlabelled"), train)
    record = DataRecord(
        inputs=inputs, classes=classes, task=settings.task, output=settings.output or task.output, labelled=labelled,
        train=len(train), val=len(val), test=len(test), fingerprint=key.fingerprint,
        unlabelled=0 if unlabelled is None else len(unlabelled),
        left_out={split: source.left_out for split, source in everything.items() if source.left_out},
    )  # fmt: skip
    return Dataset(
        record, train, val, test, everything | named, describe_numbers(labels[0], read[0]), unlabelled
    )  # fmt: skip


def _load_sources(settings: DataSettings, report: Reporter) -> dict[SplitName, Source]:
    """Load the sources, first the training source: images are read in colour as its images, and masks and boxes have its classes."""
    (first,) = (source for source in settings.sources if source.split == "train")
    train = load_source(first.text, first.folder, settings.reading("train"), report)
    colour = train.files is not None and next(iter(train.inputs.values())).shape[-1:] == (3,)
    classes = settings.classes or (train.classes if settings.task in TASKS else None)
    named = {
        source.split: train if source is first else load_source(
            source.text, source.folder,
            settings.reading(source.split)._replace(is_colour=colour, classes=classes), report,
        )
        for source in settings.sources
    }  # fmt: skip
    if train.vocabulary is None:
        return named
    padded = same_length([source.inputs for source in named.values()])
    return {split: named[split]._replace(inputs=inputs) for split, inputs in zip(named, padded, strict=True)}


def _with_targets(dataset: Dataset, path: Path) -> Dataset:
    """Return the data set with validation and test labels from a file of the soft labels stage."""
    with np.load(path, allow_pickle=False) as targets:
        val, test = replace(dataset.val, labels=targets["val"]), replace(dataset.test, labels=targets["test"])
    return replace(dataset, val=val, test=test)


def _describe_inputs(settings: DataSettings, named: dict[SplitName, Source]) -> tuple[InputRecord, ...]:
    train = named["train"]
    for split, source in named.items():
        _check_source(split, source, train)
    return tuple(_describe(settings, name, named) for name in train.inputs)


def _describe(settings: DataSettings, name: str, named: dict[SplitName, Source]) -> InputRecord:
    train, kind = named["train"].inputs[name], settings.kinds.get(name)
    if named["train"].vocabulary is not None:
        vocabulary = named["train"].vocabulary if name == IDS else 2
        return InputRecord(name=name, kind="text", dtype=train.dtype.name, shape=train.shape[1:], vocabulary=vocabulary)
    known = kind or guess_kind(train)
    for split, source in named.items():
        check_input(_place(settings, split, name), source.inputs[name], known, is_given=kind is not None)
        KINDS[known].check(f"data.{split}", source.inputs[name])
    largest = max(int(source.inputs[name].max()) for source in named.values()) if known == "tokens" else None
    return InputRecord(
        name=name, kind=known, dtype=train.dtype.name, shape=train.shape[1:],
        vocabulary=None if largest is None else largest + 1,
    )  # fmt: skip


def _place(settings: DataSettings, split: str, name: str = SINGLE) -> str:
    """Return the words of a message for a split, its file and, of several, an input."""
    text = next(source.text for source in settings.sources if source.split == split)
    return f"data.{split} ({text})" if name == SINGLE else f"data.{split} ({text}), input '{name}'"


def _check_source(split: str, source: Source, train: Source) -> None:
    if list(source.inputs) != list(train.inputs):
        raise ConfigError(
            f"data.{split}: has the inputs {', '.join(source.inputs)}, but train has {', '.join(train.inputs)}"
        )
    for name, inputs in source.inputs.items():
        where = f"data.{split}" if len(source.inputs) == 1 else f"data.{split}, input '{name}'"
        check_count(where, inputs, source.labels)
        wanted = train.inputs[name]
        if inputs.shape[1:] != wanted.shape[1:] or inputs.dtype != wanted.dtype:
            raise ConfigError(
                f"{where}: samples are {inputs.dtype}{inputs.shape[1:]}, "
                f"but training samples are {wanted.dtype}{wanted.shape[1:]}"
            )


def _are_labelled(settings: DataSettings, labels: list[Labels]) -> bool:
    """Return whether the data has labels; raises ConfigError if only some splits have, or if the task needs them."""
    first = labels[0]
    for one in labels:
        if one.are_given != first.are_given:
            without, having = (one.split, first.split) if first.are_given else (first.split, one.split)
            raise ConfigError(
                f"data.{without}: has no labels, but data.{having} has labels; label every split, or none"
            )
    if not first.are_given and any(source.split == "unlabelled" for source in settings.sources):
        raise ConfigError("data.unlabelled: data.train has no labels either; put all samples into data.train")
    if first.are_given:
        if settings.dimensions is not None and not find_task(settings.task).scores_pairs:
            raise ConfigError(
                "data.dimensions: only applies to data without labels; this data has labels, so remove the key"
            )
        if find_task(settings.task).scores_pairs:
            _require_dimensions(settings)
        return True
    if find_task(settings.task).needs_labels:
        raise ConfigError(
            f"data.train: has no labels (no array 'labels'), but task '{settings.task}' needs labels; only task 'embedding' "
            "trains without labels, from the teacher's outputs"
        )
    _require_dimensions(settings)
    return False


def _require_dimensions(settings: DataSettings) -> None:
    if settings.dimensions is None:
        raise ConfigError(
            "data.dimensions: required for data without labels: the number of values in the teacher's output, for example 128"
        )


def check_views(views: ViewSettings, record: DataRecord) -> None:
    """Raise ConfigError for a mean or deviation that does not match the data."""
    for one in record.inputs:
        normalization, prefix = (
            views.inputs.get(one.name),
            "data." if len(record.inputs) == 1 else f"data.inputs.{one.name}.",
        )
        kind = kind_of(one)
        for key in ("mean", "std"):
            values = getattr(normalization, key, None)
            if values is None:
                continue
            if not kind.normalised:
                raise ConfigError(f"{prefix}{key}: {kind.name} are not normalised; remove the key")
            if len(values) != kind.channels(one.shape):
                raise ConfigError(
                    f"{prefix}{key}: {len(values)} values, but samples have {kind.channels(one.shape)} channel(s)"
                )


def check_mel(settings: DataSettings, views: ViewSettings, record: DataRecord) -> None:
    """Raise ConfigError for a log-mel front end that does not match the data."""
    if views.mel is None:
        return
    first = record.inputs[0]
    if len(record.inputs) > 1 or not kind_of(first).is_waveform or kind_of(first).channels(first.shape) != 1:
        raise ConfigError(f"data.mel: only applies to waveforms (N, T) of one channel; this data is {record.summary}")
    train = next(source for source in settings.sources if source.split == "train")
    rate = rate_of(train.text, train.folder)
    if rate is not None and rate != views.mel.rate:
        raise ConfigError(f"data.mel.rate: is {views.mel.rate}, but the WAV files have {rate} samples per second")
    if first.shape[0] < views.mel.window:
        raise ConfigError(f"data.mel: a window is {views.mel.window} samples, but waveforms have only {first.shape[0]}")


def _splits(settings: DataSettings, named: dict[SplitName, Source]) -> tuple[Split, Split, Split]:
    """Return the training, validation and test sets; missing sets are split from the training set."""
    fit, test, val = _whole(settings, named["train"]), named.get("test"), named.get("val")
    if test is not None:
        held = _whole(settings, test)
    else:
        fit, held = _split(settings, fit, "test")
    if val is not None:
        return fit, _whole(settings, val), held
    fit, valid = _split(settings, fit, "val")
    return fit, valid, held


def _without_labels(settings: DataSettings, source: Source | None, train: Split) -> Split | None:
    """Return the samples of data.unlabelled, with stand-ins for labels that have the type of those of the training set."""
    if source is None:
        return None
    count = len(next(iter(source.inputs.values())))
    stand_ins = find_task(settings.task).no_labels(train.labels, count)
    return Split(source.inputs, np.arange(count), stand_ins, source.files, count)


def _whole(settings: DataSettings, source: Source) -> Split:
    labels = find_task(settings.task).collate(source.labels)
    return Split(source.inputs, np.arange(len(labels)), labels, source.files)


def _split(settings: DataSettings, whole: Split, name: Literal["test", "val"]) -> tuple[Split, Split]:
    from sklearn.model_selection import train_test_split

    key, task = f"{name}_fraction", find_task(settings.task)
    units, members = np.unique(task.units(whole.labels), return_inverse=True)
    try:
        fit, _ = train_test_split(
            units,
            test_size=getattr(settings, key),
            random_state=settings.seed % 2**32,
            stratify=task.strata(whole.labels),
        )
    except ValueError as error:
        raise ConfigError(f"data.{key}: train cannot be split by class: {error}; set data.{name}") from None
    chosen = np.isin(units, fit)[members]
    return whole.take(np.flatnonzero(chosen)), whole.take(np.flatnonzero(~chosen))
