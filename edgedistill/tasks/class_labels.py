"""Read class labels as data sets have them: numbers with gaps, whole floats, columns (N, 1), and names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from edgedistill.errors import ConfigError
from edgedistill.tasks.task import Array, Labels

LARGEST: Final = 999_999
"""The largest label that is taken for the number of a class."""


def read_class_labels(labels: Sequence[Labels], given: tuple[str, ...] | None) -> tuple[Labels, ...]:
    """Return the labels of all splits, train first, as class numbers (N,), int64.

    Names get the numbers of their alphabetical order; numbers that have gaps or do not start at 0 are numbered anew, and the
    original numbers become the names of the classes. Class names of the configuration, `given`, or of the data settle the
    numbers, so nothing is numbered anew. Raises ConfigError that names the split and the sample.
    """
    read = [one._replace(values=_checked(one)) for one in labels]
    train = read[0]
    for one in read:
        _check_agreement(one, train)
    names = given or train.classes
    if _are_names(train):
        return tuple(_numbered(one, names or _class_names(train, read)) for one in read)
    numbers = np.unique(train.values)
    if names or numbers[-1] == len(numbers) - 1:
        return tuple(read)
    return tuple(_renumbered(one, numbers) for one in read)


def describe_numbers(before: Labels, after: Labels) -> str | None:
    """Return a line about labels that were numbered anew, or None."""
    if before.classes is not None or after.classes is None or before.values.dtype.kind not in "iuf":
        return None
    count, numbers = len(after.classes), after.classes
    listed = ", ".join(numbers) if count <= 6 else f"{numbers[0]} to {numbers[-1]} ({count} different numbers)"
    return f"data: labels {listed} become classes 0 to {count - 1}; the original numbers are the names of the classes"


def _are_names(one: Labels) -> bool:
    return one.values.dtype.kind == "U"


def _checked(one: Labels) -> Array:
    """Return labels as (N,): int64, or text."""
    values, where = _text(one.values), f"data.{one.split}"
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        one_hot = (
            "; each row has a single 1, so that labels.argmax(1) gives class numbers" if _is_one_hot(values) else ""
        )
        raise ConfigError(
            f"{where}: labels have shape {values.shape}; expected ({len(values)},), "
            f"or data.task = 'regression' or 'multi-label' if each sample has several{one_hot}"
        )
    if values.dtype.kind not in "Ubiuf":
        raise ConfigError(f"{where}: labels are {values.dtype}; expected class numbers from 0 on, or names")
    if values.dtype.kind == "U":
        _refuse(where, values, np.char.str_len(values) == 0, "is empty; name its class")
        return values
    _refuse(where, values, ~np.isfinite(values), "is not a number")
    values_or = "expected class numbers from 0 on, or data.task = 'regression' if they are values"
    _refuse(where, values, values != np.floor(values), f"is not a whole number; {values_or}")
    _refuse(where, values, values < 0, f"is below 0; {values_or}")
    _refuse(where, values, values > LARGEST, f"is too large for a class; {values_or}, or names of classes")
    return values.astype(np.int64)


def _is_one_hot(values: Array) -> bool:
    """Return whether labels are rows (N, D) of zeros with a single 1 each."""
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        return False
    return bool((np.isin(values, (0, 1)).all(1) & (values.sum(1) == 1)).all())


def _text(values: Array) -> Array:
    """Return text that is stored as bytes or as objects as text; leave other labels as they are."""
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8")
    if values.dtype.kind == "O" and all(isinstance(value, str) for value in values.ravel()):
        return values.astype(str)
    return values


def _refuse(where: str, values: Array, wrong: Array, problem: str) -> None:
    """Raise ConfigError for the first label that is wrong."""
    if wrong.any():
        row = int(np.argmax(wrong))
        shown = f"'{values[row]}'" if values.dtype.kind == "U" else f"{values[row]}"
        raise ConfigError(f"{where}: label {shown} (sample {row}) {problem}")


def _check_agreement(one: Labels, train: Labels) -> None:
    """Raise ConfigError if a split has other kinds of labels, or other classes, than the training set."""
    if _are_names(one) != _are_names(train):
        kinds = ["names" if _are_names(labels) else "numbers" for labels in (one, train)]
        raise ConfigError(
            f"data.{one.split}: labels are {kinds[0]}, but training labels are {kinds[1]}; use one of them"
        )
    if one.classes is None or one.classes == train.classes:
        return
    ours = train.classes or ()
    if missing := [name for name in ours if name not in one.classes]:
        raise ConfigError(f"data.{one.split}: class '{missing[0]}' is missing, which the training set has")
    if extra := [name for name in one.classes if ours and name not in ours]:
        raise ConfigError(f"data.{one.split}: class '{extra[0]}' is missing in the training set")
    raise ConfigError(
        f"data.{one.split}: classes {', '.join(one.classes)} differ from the training classes, {', '.join(ours) or 'none'}"
    )


def _class_names(train: Labels, read: Sequence[Labels]) -> tuple[str, ...]:
    """Return the sorted names in the training labels; raises ConfigError for a split without one of the names."""
    names = tuple(map(str, np.unique(train.values)))
    for one in read:
        missing = sorted(set(names) - set(map(str, np.unique(one.values))))
        if missing:
            raise ConfigError(
                f"data.{one.split}: no sample has the label '{missing[0]}', which the training set has; add samples of this "
                "class, or list the names of all classes in data.classes"
            )
    return names


def _numbered(one: Labels, names: tuple[str, ...]) -> Labels:
    order = np.argsort(names)
    found = order[np.searchsorted(names, one.values, sorter=order).clip(max=len(names) - 1)]
    wrong = np.asarray(names)[found] != one.values
    _refuse(f"data.{one.split}", one.values, wrong, f"is none of the {len(names)} classes, {', '.join(names[:10])}")
    return one._replace(values=found.astype(np.int64), classes=names)


def _renumbered(one: Labels, numbers: Array) -> Labels:
    found = np.searchsorted(numbers, one.values).clip(max=len(numbers) - 1)
    _refuse(f"data.{one.split}", one.values, numbers[found] != one.values, "does not occur in the training set")
    return one._replace(values=found, classes=tuple(map(str, numbers)))
