"""Read many files: those that cannot be read are all named at once, or left out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final, TypeVar

from edgedistill.errors import ConfigError

T = TypeVar("T")
Broken = dict[Path, str]
"""Files that cannot be read, each with the reason."""

SHOWN: Final = 20
"""The largest number of files that a message names."""

IMAGES: Final = ("a readable image", "readable images", "repair")
CLIPS: Final = (
    "a WAV file of PCM samples",
    "WAV files of PCM samples",
    "convert (ffmpeg -i IN -c:a pcm_s16le OUT.wav)",
)
"""What a file, and what several files should be, and how to mend them."""


def names_in(folder: Path, suffixes: AbstractSet[str] | None = None) -> list[str]:
    """Return the names of the files below a folder, relative to it and in the order of their parts; `suffixes` are in lower case.

    Folders that are links are followed if they are in the folder itself.
    """
    names = _walk(str(folder), "")
    if suffixes is not None:
        names = (name for name in names if _suffix(name) in suffixes)
    return sorted(names, key=lambda name: name.split("/"))


def _suffix(name: str) -> str:
    """Return the suffix of a name in lower case, as Path.suffix, which takes ten times as long."""
    stem, dot, suffix = name.rpartition(".")
    return f"{dot}{suffix.lower()}" if stem and not stem.endswith("/") else ""


def _walk(folder: str, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=not prefix):
                yield from _walk(entry.path, f"{prefix}{entry.name}/")
            elif entry.is_file():
                yield prefix + entry.name


def names_below(files: Iterable[Path], folder: Path) -> list[str]:
    """Return the names of files relative to a folder that they are in; faster than `relative_to`."""
    start = len(f"{folder}".rstrip("/")) + 1
    return [str(file)[start:] for file in files]


def read_each(
    read: Callable[[Path], T], files: Iterable[Path], broken: Broken, errors: tuple[type[Exception], ...]
) -> Iterator[tuple[Path, T]]:
    """Read each file that is not yet in `broken`; a file that raises one of the errors is put there."""
    for file in files:
        found = attempt_read(read, file, broken, errors)
        if found is not None:
            yield file, found


def attempt_read(
    read: Callable[[Path], T], file: Path, broken: Broken, errors: tuple[type[Exception], ...]
) -> T | None:
    """Read a file; returns None for a file in `broken`, and for one that raises one of the errors, which is put there."""
    if file in broken:
        return None
    try:
        return read(file)
    except errors as error:
        broken[file] = str(error).replace(str(file), file.name)
        return None


def refuse(broken: Broken, what: tuple[str, str, str]) -> None:
    """Raise ConfigError that names all files that cannot be read, if there are any; `what` is IMAGES or CLIPS."""
    one, several, mend = what
    advice = f"{mend} or remove {{0}}, or leave {{0}} out with --skip-bad"
    if len(broken) == 1:
        ((file, reason),) = broken.items()
        raise ConfigError(f"data: {_name(file)} is not {one}: {reason}; {advice.format('it')}")
    if broken:
        names = listed(map(_name, broken))
        first = next(iter(broken.values()))
        why = f"; the first: {first}" if first else ""
        raise ConfigError(f"data: {len(broken):,} files are not {several}: {names}; {advice.format('them')}{why}")


def readable(files: Sequence[Path], broken: Broken, what: tuple[str, str, str], *, skip_bad: bool) -> list[Path]:
    """Return the files that are not broken; raises ConfigError that names all broken files, unless `skip_bad` asks to leave them out."""
    if not skip_bad or len(broken) == len(files):
        refuse(broken, what)
    return [file for file in files if file not in broken] if broken else list(files)


def listed(names: Iterable[str], shown: int = SHOWN) -> str:
    """Return names in words: the first ones, and the number of the others."""
    every: Sequence[str] = list(names)
    more = f" and {len(every) - shown:,} more" if len(every) > shown else ""
    return f"{', '.join(every[:shown])}{more}"


def _name(file: Path) -> str:
    return f"{file.parent.name}/{file.name}"
