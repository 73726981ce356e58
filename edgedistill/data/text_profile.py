"""Inspect texts: find the splits, the columns of texts, labels and scores, and the classes, which a configuration is written from."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from edgedistill.config.data import TABLES, Column
from edgedistill.data.audio import wav_files
from edgedistill.data.description import DataProfile, profile_of
from edgedistill.data.images import image_files
from edgedistill.data.places import NAMES, relative
from edgedistill.data.text import PAIRED, table_rows, text_files
from edgedistill.errors import ConfigError
from edgedistill.records.stages import SplitName

LOOKED_AT: Final = 2000
"""The most rows of a table that columns are recognised by."""

PAIRS: Final = (
    ("sentence1", "sentence2"), ("text1", "text2"), ("question1", "question2"), ("premise", "hypothesis"), ("text_a", "text_b"), ("query", "passage"),
)  # fmt: skip
ONE: Final = ("text", "sentence", "message", "content", "review", "comment", "question", "utterance", "body", "title")
LABELS: Final = ("label", "labels", "class", "category", "target", "intent", "sentiment", "topic", "kind")
SCORES: Final = ("score", "similarity", "similarity_score", "relatedness", "relatedness_score")
KNOWN: Final = frozenset({*ONE, *LABELS, *SCORES, *(name for pair in PAIRS for name in pair)})
"""Names of columns, of which a table with a header has at least one; the first found of each kind is taken."""

WORDS, FEW = 2.0, 50
"""A column of texts has at least so many words on average, and one of labels at most so many different values."""


Rows = Sequence[Mapping[Column, Any]]
"""The rows of a table by column."""


SPLITS: Final[Mapping[SplitName, Sequence[str]]] = {**NAMES, "val": (*NAMES["val"], "dev")}
"""The names of files and folders of splits."""


class Columns(NamedTuple):
    """The columns of a table: one or two of texts, and that of labels or scores, if there is one."""

    texts: tuple[Column, ...]
    label: Column | None = None
    score: Column | None = None


def find_text_splits(data: Path) -> dict[SplitName, Path] | None:
    """Return the tables or folders of texts by split, which include train; None for other data."""
    if data.is_file():
        return _tables(data) if data.name.endswith(TABLES) else None
    found = {split: path for split in NAMES if (path := _named(data, split)) is not None}
    if "train" in found and (found["train"].is_file() or _holds_texts(found["train"])):
        return found
    return {"train": data} if "train" not in found and _holds_texts(data) else None


def _tables(data: Path) -> dict[SplitName, Path]:
    stem, _, ending = data.name.partition(".")
    own = next((name for name in NAMES["train"][::-1] if name in stem), None)
    found: dict[SplitName, Path] = {"train": data}
    for split in ("val", "test") if own is not None else ():
        places = (data.with_name(f"{stem.replace(str(own), name)}.{ending}") for name in SPLITS[split])
        if place := next((path for path in places if path.is_file()), None):
            found[split] = place
    return found


def _named(folder: Path, split: SplitName) -> Path | None:
    places = (folder / f"{name}{ending}" for name in SPLITS[split] for ending in ("", *TABLES))
    return next((path for path in places if path.exists()), None)


def _holds_texts(folder: Path) -> bool:
    return folder.is_dir() and bool(text_files(folder)) and not image_files(folder) and not wav_files(folder)


def profile_texts(splits: Mapping[SplitName, Path], folder: Path) -> DataProfile:
    """Describe texts; paths in the keys are relative to `folder`. Raises ConfigError if no column holds texts."""
    train = splits["train"]
    keys: dict[str, Any] = {split: relative(path, folder) for split, path in splits.items()}
    if "test" not in splits and "val" in splits:
        keys["test"] = keys.pop("val")
    if train.is_dir():
        names = [file.relative_to(train).parts[0] for file in text_files(train)]
        return profile_of("texts", f"{len(names):,} texts", {"kind": "text"} | keys, 0, names)
    rows = list(table_rows(train, KNOWN))
    columns = find_columns(train, rows[:LOOKED_AT])
    return _described(rows, columns, keys)


def _described(rows: Rows, columns: Columns, keys: dict[str, Any]) -> DataProfile:
    """Return the profile of a table with its columns named in the summary and the keys."""
    named = " and ".join(map(_named_column, columns.texts))
    keys |= {"text": columns.texts[0] if len(columns.texts) == 1 else list(columns.texts)}
    summary = f"{len(rows):,} rows with texts in {named}"
    if columns.score is not None:
        keys |= {"task": PAIRED, "score": columns.score}
        return profile_of(
            "texts", f"{summary}, scores of pairs in {_named_column(columns.score)}", keys, 0, [], len(rows)
        )
    if columns.label is None:
        return profile_of("texts", f"{summary}, no labels", keys | {"task": "embedding"}, 0, [], len(rows))
    labels = [str(row.get(columns.label)) for row in rows]
    keys |= {"label": columns.label}
    summary += f", labels in {_named_column(columns.label)}"
    if _are_values(labels):
        return profile_of("texts", summary, keys | {"task": "regression"}, 0, [], len(rows))
    return profile_of("texts", summary, keys, 0, labels)


def find_columns(path: Path, rows: Rows) -> Columns:
    """Return the columns of a table by their names, or else by their values; raises ConfigError if none holds texts."""
    if not rows:
        raise ConfigError(f"{path}: has no rows")
    by_name: dict[str, Column] = {str(name).lower(): name for name in rows[0] if isinstance(name, str)}
    texts = next(
        (two for names in (*PAIRS, *((one,) for one in ONE)) if (two := _all(by_name, names))), tuple(_wordy(rows))
    )
    if not texts:
        raise ConfigError(
            f"{path}: no column holds texts of several words; write a configuration with [data] text instead"
        )
    others = [name for name in rows[0] if name not in texts]
    (label,) = next((one for name in LABELS if (one := _all(by_name, (name,)))), (None,))
    if len(texts) > 1 and label is None:
        named = [one for name in SCORES for one in _all(by_name, (name,))]
        if numbers := [name for name in (*named, *others) if _are_numbers(rows, name)]:
            return Columns(texts, score=numbers[0])
    return Columns(texts, label if label is not None else _fewest(rows, others))


def _all(by_name: Mapping[str, Column], names: Sequence[str]) -> tuple[Column, ...]:
    """Return the columns of names, or nothing if one is missing."""
    return tuple(by_name[name] for name in names) if all(name in by_name for name in names) else ()


def _wordy(rows: Rows) -> Iterator[Column]:
    """Yield the columns that hold texts, at most two: those with the most words, the second with at least half as many."""
    words = {name: sum(len(str(row.get(name, "")).split()) for row in rows) / len(rows) for name in rows[0]}
    found = sorted((name for name in words if words[name] >= WORDS), key=lambda name: -words[name])[:2]
    kept = {name for name in found if words[name] >= words[found[0]] / 2}
    yield from (name for name in rows[0] if name in kept)


def _fewest(rows: Rows, names: Sequence[Column]) -> Column | None:
    """Return the column with the fewest different values, at least two, if they are few enough to be labels."""
    counts = {name: len(Counter(str(row.get(name)) for row in rows)) for name in names}
    fitting = [name for name in names if 2 <= counts[name] <= min(FEW, len(rows) / 4)]
    return min(fitting, key=lambda name: counts[name], default=None)


def _are_numbers(rows: Rows, name: Column) -> bool:
    return all(_number(row.get(name)) is not None for row in rows) and len({row.get(name) for row in rows}) > 2


def _are_values(labels: Sequence[str]) -> bool:
    """Return whether labels are numbers with fractions, and so no classes."""
    numbers = [_number(label) for label in labels]
    return None not in numbers and any(number != round(number) for number in numbers if number is not None)


def _number(value: Any) -> float | None:
    """Return a value as a finite number, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _named_column(column: Column) -> str:
    return f"column '{column}'" if isinstance(column, str) else f"column {column}"
