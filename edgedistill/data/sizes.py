"""Whether there are enough samples: of each class, to choose an epoch, to measure accuracy, and to judge int8.

The figures follow from the normal approximation of a proportion. With n samples, an accuracy p is known to within
1.96 * sqrt(p * (1 - p) / n), and the difference of two models that are compared on the same samples to within
1.96 * sqrt(d / n), where d is the share of samples that exactly one of the two answers correctly (McNemar).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from edgedistill.data.dataset import Dataset, Split
from edgedistill.data.sources import Array
from edgedistill.records.finding import Finding
from edgedistill.tasks.table import find_task

FEW: Final = 10
"""Fewer training samples of a class are a warning."""

SHOWN: Final = 5
"""The largest number of classes that a message names."""

ACCURACY: Final = 0.9
"""The assumed accuracy p."""

EPOCHS_DIFFER: Final = 0.05
"""The assumed share d of samples that exactly one of two late epochs answers correctly."""

INT8_DIFFERS: Final = 0.01
"""The assumed share d of samples that exactly one of a float model and its int8 model answers correctly."""

WORDS: Final = {"val": "validation", "test": "test"}
COARSE: Final = 5.0
"""A validation or test set that is less precise than this, in percentage points, is a warning."""


def count_unlabelled(dataset: Dataset) -> Iterator[Finding]:
    """Yield a note of how many samples have no labels, and which models learn from them."""
    record = dataset.record
    if record.unlabelled:
        text = (
            f"{record.unlabelled:,} samples without labels beside {record.train:,} training samples: the student learns the teacher's "
            "outputs for all of them, and int8 is fine-tuned on all of them; teachers that are trained, the control and the ranges of "
            "int8 have the training samples only"
        )
        yield Finding(severity="note", subject="data.unlabelled", text=text)


def find_class_gaps(dataset: Dataset) -> Iterator[Finding]:
    """Yield findings for classes that a split lacks, and for classes with few training samples."""
    names, task = dataset.record.classes, find_task(dataset.record.task)
    splits = {"val": dataset.val, "test": dataset.test}
    train = task.counts(dataset.train.labels, len(names))
    if train is None or not dataset.record.labelled:
        return
    counts = {
        name: found for name, split in splits.items() if (found := task.counts(split.labels, len(names))) is not None
    }
    evaluated = sum(counts.values())
    if unlearned := _named(names, (train == 0) & (evaluated > 0)):
        yield _warning(
            "data.train", f"no sample has {unlearned}, but validation or test samples have; add training samples"
        )
    if unused := _named(names, (train == 0) & (evaluated == 0)):
        yield Finding(severity="note", subject="data.classes", text=f"no sample of any split has {unused}")
    if few := _named(names, (train > 0) & (train < FEW), train):
        yield _warning("data.train", f"few samples to learn from: {few}; add samples, at least {FEW} of each class")
    for name, count in counts.items():
        if missing := _named(names, (count == 0) & (train > 0)):
            yield _warning(f"data.{name}", f"no sample has {missing}, so its answers are not measured; add samples")


def _named(names: Sequence[str], chosen: Array, counts: Array | None = None) -> str:
    """Return the chosen classes in words, with their numbers of samples if given; empty if none is chosen."""
    listed = [f"'{name}'" + ("" if counts is None else f" ({counts[i]})") for i, name in enumerate(names) if chosen[i]]
    if not listed:
        return ""
    more = f" and {len(listed) - SHOWN:,} more" if len(listed) > SHOWN else ""
    return f"class{'es' if len(listed) > 1 else ''} {', '.join(listed[:SHOWN])}{more}"


def find_small_splits(dataset: Dataset) -> Iterator[Finding]:
    """Yield findings for a validation set that cannot choose an epoch, and for a test set that cannot measure an accuracy."""
    if not find_task(dataset.record.task).is_proportion:
        return
    yield from _small(
        "val", dataset.val, EPOCHS_DIFFER,
        "two epochs can only be told apart if their accuracies differ by {points:.0f} points or more, so the choice of the epoch is "
        "partly chance",
    )  # fmt: skip
    yield from _small(
        "test",
        dataset.test,
        ACCURACY * (1 - ACCURACY),
        "an accuracy of 90 % is only known to within {points:.0f} points",
    )


def _small(name: str, split: Split, variance: float, effect: str) -> Iterator[Finding]:
    points = precision(variance, len(split))
    if points > COARSE:
        yield _warning(
            f"data.{name}",
            f"has {len(split):,} {WORDS[name]} samples: {effect.format(points=points)}; {needed(variance, COARSE):,} samples reduce "
            f"this to {COARSE:g} points, {needed(variance, 1):,} samples to 1 point",
        )


def find_coarse_limit(samples: int, max_drop: float) -> Iterator[Finding]:
    """Yield a finding if a validation set of `samples` samples cannot tell whether int8 loses `max_drop` points."""
    enough = needed(INT8_DIFFERS, max_drop)
    if 100 / samples > max_drop:
        text = f"a single one of the {samples:,} validation samples is worth {100 / samples:.2g} points, more than max_drop {max_drop:g}"
        yield _warning(
            "quantize.max_drop",
            f"{text}; use about {enough:,} validation samples, or raise max_drop",
        )
    elif samples < enough:
        text = (
            f"{samples:,} validation samples show drops of about {precision(INT8_DIFFERS, samples):.1f} points or more"
        )
        yield Finding(
            severity="note",
            subject="quantize.max_drop",
            text=f"{text}; a drop of max_drop, {max_drop:g}, takes about {enough:,} samples",
        )


def precision(variance: float, samples: int) -> float:
    """Return half the width of the 95 % interval of a mean of `samples` samples, in percentage points."""
    return 196 * math.sqrt(variance / samples)


def needed(variance: float, points: float) -> int:
    """Return the number of samples with a precision of `points` percentage points."""
    return math.ceil(variance * (196 / points) ** 2)


def _warning(subject: str, text: str) -> Finding:
    return Finding(severity="warning", subject=subject, text=text)
