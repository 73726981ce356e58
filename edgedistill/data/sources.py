"""Load samples from .npz files, tables of texts, folders of images, WAV files or texts, and `package.module:function`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgedistill.data.audio import rate_of_clips, read_clips, wav_files
from edgedistill.data.decoding import Decoding, Read, decode
from edgedistill.data.dense import TASKS, dense_files, find_pictures, read_dense
from edgedistill.data.files import CLIPS, IMAGES, Broken, names_below, names_in, readable
from edgedistill.data.images import IMAGE_SUFFIXES, decode_image, image_files, mode_of_files
from edgedistill.data.masks import find_folders
from edgedistill.data.reading import Labelled, Reading
from edgedistill.data.shard_reading import read_shards
from edgedistill.data.shards import find_shards, hash_shards
from edgedistill.data.text import TextSettings, cut_finding, read_texts, text_files, tokenize
from edgedistill.errors import ConfigError
from edgedistill.records.finding import Finding
from edgedistill.runtime.arrays import array_names, read_arrays
from edgedistill.runtime.files import hash_of, sha256_of
from edgedistill.runtime.progress import QUIET, Reporter
from edgedistill.runtime.user_code import code_ref, is_function, resolve_function, user_code

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
"""Arrays by input name, in the order in which models take them."""
SINGLE = "input"
FOLDERS = 3
"""How folders of classes are read; part of their hash. 1 read images without EXIF rotation, 16 bits, colour of any image, and
alpha; 2 resized in an order of the axes that depended on the version of Pillow."""
DENSE = "dense/2"
"""How pictures with masks and boxes are read; part of their hash."""
PLAIN: Final = Reading()
PREFIX = "input."
NAMES = {"inputs", "labels", "classes"}
"""The name of a single input, and the prefix of the arrays of several inputs in an .npz file."""


class Source(NamedTuple):
    """Unprocessed samples; `labels` is (N, 0) without labels, `classes` are the class names if the source has names.

    `files` are the files of the samples, CLASS/FILE, if the source is a folder; `left_out` are those that cannot be read, each
    with the reason, and `ignored` are the other files in the folder. `findings` say what is odd about the labels and how it was
    handled. `vocabulary` is the number of different tokens that the tokenizer of texts can give.
    """

    inputs: Arrays
    labels: Array
    classes: tuple[str, ...] | None
    files: tuple[str, ...] | None = None
    left_out: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    vocabulary: int | None = None

    @property
    def is_labelled(self) -> bool:
        """Whether the samples have labels."""
        return self.labels.size > 0 or self.labels.ndim < 2


def load_source(text: str, folder: Path, reading: Reading = PLAIN, report: Reporter = QUIET) -> Source:
    """Load a source of a configuration in `folder`, read as `reading` says; images are decoded once, into a cache.

    Raises ConfigError that names the missing or malformed part.
    """
    source = _load(text, folder, reading, report)
    return source if reading.has_labels else _without_labels(source)


def _load(text: str, folder: Path, reading: Reading, report: Reporter) -> Source:
    if is_function(text):
        return _from_function(text, folder)
    shards = find_shards(text, folder, reading.split)
    path = _existing(text, folder) if shards is None else shards.root
    if path.suffix == ".npz":
        return _from_npz(path)
    if reading.text is not None:
        return _of_texts(path, reading, reading.text)
    if reading.content is None:
        reading = reading._replace(content=fingerprint_source(text, folder, sha256_of, reading))
    if shards is not None:
        return _of_labelled(read_shards(shards, reading, report))
    if reading.task in TASKS and reading.has_labels:
        return _of_labelled(read_dense(path, folder, reading, report))
    if path.is_dir():
        has_clips = bool(wav_files(path, in_classes=reading.has_labels))
        return _from_wav_folder(path, reading) if has_clips else _from_folder(path, reading, report)
    raise ConfigError(
        f"data: '{text}' is neither an .npz file, a folder of images or WAV files, .tar or .parquet shards, a table of texts, nor package.module:function"
    )


def fingerprint_source(text: str, folder: Path, hash_file: Callable[[Path], str], reading: Reading = PLAIN) -> str:
    """Hash a source without loading it: its file contents, or the modules of its function."""
    if is_function(text):
        return hash_of([text, code_ref(text, folder).sha256])
    if (shards := find_shards(text, folder, reading.split)) is not None:
        return hash_shards(shards, hash_file)
    path = _existing(text, folder)
    if reading.task in TASKS and reading.has_labels and path.suffix != ".npz":
        files = [[os.path.relpath(file, path), hash_file(file)] for file in dense_files(path, folder, reading)]
        return hash_of([DENSE, files])
    if path.is_dir():
        found = (
            wav_files(path, in_classes=reading.has_labels)
            or image_files(path, in_classes=reading.has_labels)
            or text_files(path)
        )
        files = [[name, hash_file(file)] for name, file in zip(names_below(found, path), found, strict=True)]
        return hash_of([FOLDERS, files])
    return hash_file(path)


def picture_files(text: str, folder: Path, reading: Reading) -> tuple[Path, ...]:
    """Return the picture files of a source; none for arrays, shards, audio and texts."""
    if is_function(text) or reading.text is not None or find_shards(text, folder, reading.split) is not None:
        return ()
    path = _existing(text, folder)
    if path.suffix == ".npz":
        return ()
    if reading.task in TASKS and reading.has_labels:
        return find_pictures(path, folder, reading).files
    return tuple(image_files(path, in_classes=reading.has_labels)) if path.is_dir() else ()


def rate_of(text: str, folder: Path) -> int | None:
    """Return the samples per second of a folder of WAV files, or None for other sources."""
    path = (folder / text).resolve()
    return None if is_function(text) or not path.is_dir() else rate_of_clips(wav_files(path))


def _existing(text: str, folder: Path) -> Path:
    path = (folder / text).resolve()
    if not path.exists():
        raise ConfigError(f"data: {text}: no such file or folder (looked for {path})")
    return path


def _from_function(text: str, folder: Path) -> Source:
    function = resolve_function(text, folder)
    if not callable(function):
        raise ConfigError(f"data: '{text}' is not a function but {type(function).__name__}")
    with user_code(lambda: f"data: '{text}'"):
        result = function()
    if not isinstance(result, (tuple, list)) or len(result) not in (2, 3):
        raise ConfigError(f"data: '{text}' must return (inputs, labels) or (inputs, labels, class names)")
    classes = tuple(map(str, result[2])) if len(result) == 3 else None
    given = result[0] if isinstance(result[0], Mapping) else {SINGLE: result[0]}
    inputs = {str(name): np.asarray(values) for name, values in given.items()}
    if not inputs:
        raise ConfigError(f"data: '{text}' returned no inputs; return an array, or a dictionary of arrays by name")
    return Source(inputs, _no_labels(inputs) if result[1] is None else np.asarray(result[1]), classes)


def _without_labels(source: Source) -> Source:
    """Return a source without its labels, and a finding if it had labels."""
    findings = source.findings
    if source.is_labelled:
        text = "the source has labels, which are not read"
        findings = (*findings, Finding(severity="note", subject="data.unlabelled", text=text))
    return source._replace(labels=_no_labels(source.inputs), classes=None, findings=findings)


def _no_labels(inputs: Arrays) -> Array:
    return np.empty((len(next(iter(inputs.values()))), 0), np.float32)


def _from_npz(path: Path) -> Source:
    arrays = read_arrays(path, f"data: {path.name}", lambda name: name in NAMES or name.startswith(PREFIX))
    inputs = {SINGLE: arrays["inputs"]} if "inputs" in arrays else {}
    inputs |= {name.removeprefix(PREFIX): array for name, array in arrays.items() if name.startswith(PREFIX)}
    if not inputs:
        raise ConfigError(
            f"data: {path.name} has no array 'inputs', and none named 'input.NAME'; it holds {', '.join(array_names(path, path.name)) or 'no arrays'}"
        )
    classes = _names(path, arrays["classes"]) if "classes" in arrays else None
    return Source(inputs, np.array(arrays["labels"]) if "labels" in arrays else _no_labels(inputs), classes)


def _names(path: Path, classes: Array) -> tuple[str, ...]:
    try:
        return tuple(one.decode() if isinstance(one, bytes) else str(one) for one in classes)
    except (
        SystemError,
        ValueError,
        TypeError,
    ) as error:  # numpy stores characters as numbers, which may be none of Unicode
        raise ConfigError(f"data: {path.name}: 'classes' are no names of classes: {error}") from None


def _of_texts(path: Path, reading: Reading, settings: TextSettings) -> Source:
    texts = read_texts(path, settings, reading.task)
    tokens = tokenize(texts.texts, settings)
    findings = tuple(cut_finding(reading.split, tokens.cut, len(texts.texts), settings))
    return Source(
        tokens.inputs, texts.labels, texts.classes, texts.files, findings=findings, vocabulary=tokens.vocabulary
    )


def _of_labelled(read: Labelled) -> Source:
    inputs = {SINGLE: read.inputs}
    return Source(inputs, read.labels, read.classes, read.files, read.left_out, read.ignored, read.findings)


def _from_folder(folder: Path, reading: Reading, report: Reporter) -> Source:
    files = image_files(folder, in_classes=reading.has_labels)
    if not files:
        expected = f"{folder.name}/CLASS/IMAGE.png" if reading.has_labels else f"{folder.name}/IMAGE.png"
        raise ConfigError(f"data: folder {folder.name} holds no images or WAV files; expected {expected}")
    if not reading.has_labels and (masked := find_folders(folder)) is not None and masked[0] != folder:
        raise ConfigError(
            f"data.unlabelled: folder {folder.name} holds masks beside the images; name the folder of the images, {masked[0].name}"
        )

    def prepare(broken: Broken) -> Read:
        mode = "RGB" if reading.is_colour else mode_of_files(files, broken)
        return lambda file: {"inputs": decode_image(file, reading.resizing, mode)}

    key = ["images", reading.content, reading.is_colour, reading.resizing]
    found = decode(files, Decoding(key, prepare, IMAGES, reading.skip_bad, report))
    return _of_files(found.arrays["inputs"], found.files, folder, found.broken, reading)


def _from_wav_folder(folder: Path, reading: Reading) -> Source:
    files, broken = wav_files(folder, in_classes=reading.has_labels), Broken()
    clips = read_clips(files, reading.seconds, broken)
    readable_files = readable(files, broken, CLIPS, skip_bad=reading.skip_bad)
    return _of_files(clips, readable_files, folder, broken, reading)


def _of_files(inputs: Array, files: Sequence[Path], folder: Path, broken: Broken, reading: Reading) -> Source:
    """Return the source of a folder: the inputs of its readable files, and what is left out."""
    names, wrong = names_below(files, folder), names_below(broken, folder)
    left_out = tuple(f"{name} ({reason})" for name, reason in zip(wrong, broken.values(), strict=True))
    others = _others(folder, {*names, *wrong})
    if not reading.has_labels:
        return Source({SINGLE: inputs}, _no_labels({SINGLE: inputs}), None, tuple(names), left_out, others)
    labels, classes = _by_folder(files, folder)
    return Source({SINGLE: inputs}, labels, classes, tuple(names), left_out, others)


def is_sample(name: str) -> bool:
    """Return whether a file can be a sample, by the end of its name."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES | {".wav"}


def _others(folder: Path, used: AbstractSet[str]) -> tuple[str, ...]:
    """Return the names of the files below a folder that are not used; hidden files are not counted."""
    others = (name for name in names_in(folder) if name not in used)
    return tuple(name for name in others if not any(part.startswith((".", "__")) for part in name.split("/")))


def _by_folder(files: Sequence[Path], folder: Path) -> tuple[Array, tuple[str, ...]]:
    """Return the labels of files, and the classes, which are the names of the files' folders."""
    check_class_folders(files, folder)
    names = [name.partition("/")[0] for name in names_below(files, folder)]
    classes, labels = np.unique(names, return_inverse=True)
    return labels.astype(np.int64), tuple(map(str, classes))


def check_class_folders(files: Sequence[Path], folder: Path) -> None:
    """Raise ConfigError if a class folder has none of the files; hidden folders are not classes."""
    full = {name.partition("/")[0] for name in names_below(files, folder)}
    inside = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))
    empty = [name for name in inside if name not in full]
    if empty:
        what = "WAV files" if files[0].suffix.lower() == ".wav" else "images"
        more = f" (and {len(empty) - 1} other class folders)" if len(empty) > 1 else ""
        raise ConfigError(
            f"data: class folder {folder.name}/{empty[0]}{more} holds no {what}; add {what}, or remove the folder"
        )
