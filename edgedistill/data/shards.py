"""Shards: pictures packed into .tar files as WebDataset has them, or into .parquet files as Hugging Face has them.

A source of shards is one file, several by a range in braces (`train-{000000..000009}.tar`) or a pattern (`train-*.parquet`), or a
folder of them. Shards are only read, where they lie: nothing is unpacked to disk, no URL is opened and no command is run. Samples get
the path of their shard with their own name below it, which no file has.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from edgedistill.data.files import listed, names_below
from edgedistill.data.images import IMAGE_SUFFIXES
from edgedistill.data.places import NAMES
from edgedistill.errors import ConfigError
from edgedistill.records.stages import SplitName
from edgedistill.runtime.files import hash_of

Label = int | float | str | list[float]
SUFFIXES: Final = (".tar", ".parquet")
COMPRESSED: Final = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
SAMPLES: Final = IMAGE_SUFFIXES | {".wav", ".npz", ".xml"}
RANGE: Final = re.compile(r"\{(\d+)\.\.(\d+)\}")
SCHEMA: Final = "shards/1"
"""How shards are read; part of their hash."""


class Shards(NamedTuple):
    """The files of a source, all of one form, .tar or .parquet, in order, and the folder that names are relative to."""

    files: tuple[Path, ...]
    root: Path

    @property
    def are_tables(self) -> bool:
        """Whether the files are Parquet."""
        return self.files[0].suffix == ".parquet"


class Samples(NamedTuple):
    """The pictures in shards: `names` are SHARD/SAMPLE, `labels` one for each, None where it is missing.

    `broken` are those that cannot be used, by number, with the reason. `read` returns the content of a picture by its number;
    several threads may call it. `classes` are the names of numbered classes, if the shards have names, and `ignored` are members
    that belong to no sample.
    """

    names: list[str]
    labels: list[Label | None]
    broken: dict[int, str]
    read: Callable[[int], bytes]
    classes: tuple[str, ...] | None = None
    ignored: tuple[str, ...] = ()


def find_shards(text: str, folder: Path, split: SplitName = "train") -> Shards | None:
    """Return the shards that a source names, or None for a source of another form; `folder` is that of the configuration.

    Of a folder with files of several splits, such as test-00000-of-00001.parquet, those of `split` are taken. Raises ConfigError
    for shards that do not exist or cannot be read in place.
    """
    if "://" in text or text.startswith("pipe:"):
        raise ConfigError(
            f"data.{split}: '{text}' is not a file; URLs are not opened and commands are not run: download the shards"
        )
    if text.endswith(COMPRESSED):
        raise ConfigError(
            f"data.{split}: {text} is compressed, so that its members cannot be read in place; decompress it to .tar"
        )
    path = (folder / text).resolve()
    if path.is_dir():
        files = _in_folder(path, split)
    elif not text.endswith(SUFFIXES):
        return None
    else:
        files = [path] if path.is_file() else _matching(text, folder, split)
    if not files:
        return None
    if len({file.suffix for file in files}) > 1:
        raise ConfigError(f"data.{split}: {text} has .tar and .parquet files; name one form")
    resolved = tuple(file.resolve() for file in files)
    return Shards(resolved, resolved[0].parent)


def _matching(text: str, folder: Path, split: SplitName) -> list[Path]:
    names = list(_expand(text))
    if RANGE.search(text):
        files = [(folder / name).resolve() for name in names]
        if missing := [file.name for file in files if not file.is_file()]:
            raise ConfigError(
                f"data.{split}: {text}: {len(missing):,} of {len(files):,} shards do not exist: {listed(missing, 3)}"
            )
        return files
    pattern = os.path.normpath(Path(glob.escape(str(folder.resolve()))) / text)  # the folder may not exist yet
    found = [Path(name) for name in sorted(glob.glob(pattern))]  # noqa: PTH207 - Path.glob refuses absolute patterns
    if not found:
        raise ConfigError(
            f"data.{split}: {text}: no such file, and no file matches it (looked in {(folder / text).resolve().parent})"
        )
    return found


def _expand(text: str) -> Iterator[str]:
    """Yield the names of a range in braces, in which all numbers have as many digits as the first; without a range, the text."""
    found = RANGE.search(text)
    if found is None:
        yield text
        return
    first, last = found.groups()
    for number in range(int(first), int(last) + 1):
        yield from _expand(f"{text[: found.start()]}{number:0{len(first)}}{text[found.end() :]}")


def _in_folder(folder: Path, split: SplitName) -> list[Path]:
    """Return the shards in a folder: those whose names begin with the name of the split, if names begin with splits.

    A folder with other folders, or with files that are samples, is none of shards: an archive may lie beside what was unpacked from it.
    """
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if not entry.name.startswith(".")]
    if not any(entry.name.endswith(SUFFIXES) for entry in found):
        return []
    if any(entry.is_dir() or Path(entry.name).suffix.lower() in SAMPLES for entry in found):
        return []
    files = sorted(folder / entry.name for entry in found if entry.name.endswith(SUFFIXES))
    named = {key: [path for path in files if _begins(path, names)] for key, names in NAMES.items()}
    if not any(named.values()):
        return files
    if not named.get(split):
        raise ConfigError(
            f"data.{split}: the shards in {folder.name} are named as splits, but none begins with {split}; name the files, for example "
            f"{folder.name}/{files[0].name}"
        )
    return named[split]


def _begins(path: Path, names: Sequence[str]) -> bool:
    return any(re.match(rf"{name}(?![a-z])", path.name) for name in names)


def find_shard_splits(data: Path) -> dict[SplitName, Path]:
    """Return the shards of each split in a folder, in its folder `data`, or beside a file: patterns of names that begin with the split.

    Shards that are not named by splits are all for training. Empty for data of another form.
    """
    if data.is_file():
        return {"train": data} if data.suffix in SUFFIXES else {}
    for folder in (data, data / "data"):
        found = find_shards(folder.name, folder.parent) if folder.is_dir() else None
        if found is None:
            continue
        suffix = found.files[0].suffix
        named = {
            split: next(
                (name for name in names if any(_begins(file, [name]) for file in folder.glob(f"*{suffix}"))), None
            )
            for split, names in NAMES.items()
        }
        escaped = Path(glob.escape(str(folder)))
        splits = {split: escaped / f"{name}*{suffix}" for split, name in named.items() if name is not None}
        return splits or {"train": folder}
    return {}


def hash_shards(shards: Shards, hash_file: Callable[[Path], str]) -> str:
    """Return the hash of the content of shards."""
    return hash_of(
        [
            SCHEMA,
            [
                [name, hash_file(file)]
                for name, file in zip(names_below(shards.files, shards.root), shards.files, strict=True)
            ],
        ]
    )


def as_label(value: Any) -> Label | None:
    """Return a value as a label: a number, a name, or a list of numbers; None if it is none of them."""
    if isinstance(value, list):
        return value if value and all(isinstance(one, (int, float)) for one in value) else None
    return value if isinstance(value, (int, float, str)) and not isinstance(value, bool) and value != "" else None
