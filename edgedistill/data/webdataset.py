"""Read the members of .tar files in WebDataset's form: members that follow each other and share a name up to its first dot are a sample.

The package `webdataset` is not used. It reads a shard from its beginning to its end, so that pictures could not be decoded in parallel
or twice; it opens URLs and, for `pipe:`, runs shell commands; and it unpickles some members. What is needed of it is how members make
up a sample. The standard library's tarfile reads the headers of a shard once, and pictures are then read by their places in the file.
Nothing is extracted, so links, devices and names that lead out of a folder can do no harm; they are not samples.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from edgedistill.data.images import IMAGE_SUFFIXES
from edgedistill.data.reading import Reading
from edgedistill.data.shards import Label, Samples, Shards, as_label
from edgedistill.errors import ConfigError
from edgedistill.runtime.caches import caches_folder
from edgedistill.runtime.files import hash_of, write_atomic

NAME: Final = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
"""The name of a sample, and that of its field, as webdataset splits the name of a member."""
META: Final = re.compile(r"__[^/]*__($|/)")
"""Members that webdataset passes over."""
PICTURES: Final = frozenset(suffix[1:] for suffix in IMAGE_SUFFIXES)
LABELS: Final = ("cls", "json", "txt")
"""The fields that can hold a label; the first that a sample has is taken."""
KEYS: Final = ("label", "class", "cls")
"""The keys of a JSON object that can hold a label."""
LARGEST_LABEL: Final = 1 << 20
"""Fields with more bytes hold no label."""
SCHEMA: Final = "edgedistill.shards/1"


class Member(NamedTuple):
    """A regular member of a shard: its name, and where its content lies."""

    name: str
    offset: int
    size: int


class Entry(NamedTuple):
    """A sample: its name below the shard, the place of its picture, its label, and why it cannot be used, or None."""

    name: str
    offset: int
    size: int
    label: Label | None
    problem: str | None


def tar_samples(shards: Shards, reading: Reading) -> Samples:
    """Return the samples of .tar files. The list of samples is cached by their content, so that headers are read once."""
    kept = None
    if reading.content is not None:
        kept = caches_folder("shards") / f"{hash_of([SCHEMA, reading.content, reading.has_labels])}.json"
    index = None if kept is None else _read_index(kept)
    if index is None:
        index = [_index(file, has_labels=reading.has_labels) for file in shards.files]
        if kept is not None:
            write_atomic(kept, json.dumps(index))
    entries = [(file, Entry(*entry)) for file, (found, _) in zip(shards.files, index, strict=True) for entry in found]
    if not entries:
        raise ConfigError(
            f"data.{reading.split}: the shards hold no pictures; expected members such as 000001.jpg with 000001.cls"
        )

    def read(number: int) -> bytes:
        file, entry = entries[number]
        return _read_at(file, entry.offset, entry.size)

    return Samples(
        [f"{file.name}/{entry.name}" for file, entry in entries],
        [entry.label for _, entry in entries],
        {number: entry.problem for number, (_, entry) in enumerate(entries) if entry.problem is not None},
        read,
        ignored=tuple(f"{file.name}/{name}" for file, (_, others) in zip(shards.files, index, strict=True) for name in others),
    )  # fmt: skip


def describe_lists() -> str:
    """Return a line with the number and the size of the cached lists of samples."""
    folder = caches_folder("shards")
    sizes = [path.stat().st_size for path in folder.glob("*.json")]
    return f"{len(sizes)} lists of the samples in shards in {folder}, {sum(sizes):,} bytes"


def _read_index(path: Path) -> list[tuple[list[Any], list[str]]] | None:
    try:
        return [(entries, others) for entries, others in json.loads(path.read_bytes())]
    except (OSError, ValueError):  # not made yet, or damaged
        return None


def _read_at(file: Path, offset: int, size: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(offset)
        return opened.read(size)


def _index(file: Path, *, has_labels: bool) -> tuple[list[Entry], list[str]]:
    """Return the samples of a shard, and the names of members that belong to no sample; raises ConfigError for a damaged file."""
    entries, others = list[Entry](), list[str]()
    for name, fields in _grouped(file, others):
        pictures = [member for field, member in fields if field in PICTURES]
        if not pictures:
            others += [member.name for _, member in fields]
            continue
        problem = _problem(name, fields, len(pictures))
        label = None
        if has_labels and problem is None:
            try:
                label = _label(file, dict(fields))
            except ValueError as error:
                problem = str(error)
        picture = pictures[0]
        entries.append(Entry(picture.name, picture.offset, picture.size, label, problem))
    return entries, others


def _problem(name: str, fields: list[tuple[str, Member]], pictures: int) -> str | None:
    if name.startswith("/") or ".." in name.split("/"):
        return "its name leads out of the archive"
    if pictures > 1:
        return f"the sample has {pictures} pictures"
    return "two members of the sample have the same name" if len(dict(fields)) < len(fields) else None


def _grouped(file: Path, others: list[str]) -> Iterator[tuple[str, list[tuple[str, Member]]]]:
    """Yield the name and the fields of each sample, in the order of the members; other members are added to `others`."""
    name, fields = None, list[tuple[str, Member]]()
    for member in _members(file, others):
        found = NAME.fullmatch(member.name)
        if found is None or META.match(member.name):
            others.append(member.name)
            continue
        if found[1] != name:
            if name is not None:
                yield name, fields
            name, fields = found[1], []
        fields.append((found[2].lower(), member))
    if name is not None:
        yield name, fields


def _members(file: Path, others: list[str]) -> Iterator[Member]:
    """Yield the regular members of a shard; the names of other members but folders are added to `others`."""
    size = file.stat().st_size
    try:
        with tarfile.open(file, "r:") as archive:
            while (one := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it keeps every header, which `next` does not need
                if not one.isreg() or one.issparse():
                    others += [] if one.isdir() else [one.name]
                elif one.offset_data + one.size > size:
                    raise tarfile.ReadError(f"member {one.name} is cut off")
                else:
                    yield Member(one.name, one.offset_data, one.size)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ConfigError(
            f"data: {file.name} is not a whole .tar file: {error}; download it or make it again"
        ) from None


def _label(file: Path, fields: dict[str, Member]) -> Label:
    """Return the label of a sample; raises ValueError if it has none, or one that is not understood."""
    field = next((field for field in LABELS if field in fields), None)
    if field is None:
        raise ValueError("has no label: no member with the ending .cls, .json or .txt")
    member = fields[field]
    if member.size > LARGEST_LABEL:
        raise ValueError(f"its .{field} of {member.size:,} bytes is too large for a label")
    try:
        text = _read_at(file, member.offset, member.size).decode().strip()
    except UnicodeDecodeError:
        raise ValueError(f"its .{field} is not UTF-8") from None
    if not text:
        raise ValueError(f"its .{field} is empty")
    return _of_json(text) if field == "json" else int(text) if text.isascii() and text.isdigit() else text


def _of_json(text: str) -> Label:
    try:
        value = json.loads(text)
    except ValueError:
        raise ValueError("its .json is not JSON") from None
    if isinstance(value, dict):
        value = next((value[key] for key in KEYS if key in value), None)
    label = as_label(value)
    if label is None:
        keys = ", ".join(KEYS)
        raise ValueError(
            f"its .json holds no label: expected a number, a name, a list of numbers, or one of the keys {keys}"
        )
    return label
