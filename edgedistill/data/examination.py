"""Examine a loaded data set: what `init`, `run` and `doctor` say about its splits, classes and values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

from edgedistill.data.contents import Contents, contents_of
from edgedistill.data.dataset import Dataset, Split
from edgedistill.data.duplicates import find_conflicts, find_copies, find_overlap, know
from edgedistill.data.files import listed
from edgedistill.data.sizes import count_unlabelled, find_class_gaps, find_small_splits
from edgedistill.data.sources import is_sample
from edgedistill.data.values import find_constant_channels, find_constant_samples, find_uniform_classes
from edgedistill.records.finding import Finding
from edgedistill.tasks.table import find_task


@lru_cache(maxsize=1)
def examine(dataset: Dataset) -> tuple[Finding, ...]:
    """Return what is wrong or odd about a data set, whatever is built on it; errors first."""
    splits = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    splits |= {} if dataset.unlabelled is None else {"unlabelled": dataset.unlabelled}
    kinds = [one.kind for one in dataset.record.inputs]
    contents = {name: contents_of(split, kinds) for name, split in splits.items()}
    found = [
        *_examine_files(dataset),
        *count_unlabelled(dataset),
        *find_class_gaps(dataset),
        *find_small_splits(dataset),
        *_examine_values(dataset, splits, contents),
        *_examine_samples(dataset, contents),
    ]
    order = ("error", "warning", "note")
    return tuple(sorted(found, key=lambda one: order.index(one.severity)))


def _examine_files(dataset: Dataset) -> Iterator[Finding]:
    """Yield which files of a folder are left out because they cannot be read, and which are no samples."""
    for split, source in dataset.sources.items():
        yield from source.findings
        if source.left_out:
            text = f"left out, because they cannot be read: {len(source.left_out):,} files, {listed(source.left_out)}"
            yield Finding(severity="note", subject=f"data.{split}", text=text)
        samples = [name for name in source.ignored if is_sample(name)]
        if samples:
            text = f"{len(samples):,} image or WAV files are not used: {listed(samples, 3)}; "
            advice = "samples of one kind belong in class folders, CLASS/FILE"
            yield Finding(severity="warning", subject=f"data.{split}", text=text + advice)
        elif source.ignored:
            text = f"{len(source.ignored):,} files are no samples: {listed(source.ignored, 3)}"
            yield Finding(severity="note", subject=f"data.{split}", text=text)


def _examine_values(
    dataset: Dataset, splits: Mapping[str, Split], contents: Mapping[str, Contents]
) -> Iterator[Finding]:
    for name, split in splits.items():
        yield from find_constant_samples(name, split, contents[name])
    for record in dataset.record.inputs:
        yield from find_constant_channels(dataset.train, record)


def _examine_samples(dataset: Dataset, contents: Mapping[str, Contents]) -> Iterator[Finding]:
    """Yield what the content of whole samples shows: copies, and classes whose samples are all identical."""
    record = dataset.record
    train, val = (know(split, contents[name]) for name, split in (("train", dataset.train), ("val", dataset.val)))
    yield from find_copies("val", dataset.val, contents["val"], [train])
    yield from find_copies("test", dataset.test, contents["test"], [train, val])
    if dataset.unlabelled is not None:
        held = [val, know(dataset.test, contents["test"])]
        yield from find_overlap(dataset.unlabelled, contents["unlabelled"], train, held)
    classes = find_task(record.task).strata(dataset.train.labels)
    if classes is not None:
        yield from find_conflicts(train, classes, record.classes)
        yield from find_uniform_classes(train.keys, classes, record.classes)
