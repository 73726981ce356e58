"""Texts: read from tables (.tsv, .csv, .jsonl) or from folders of classes, and turned into token numbers and masks.

Tokenizers are those of Hugging Face's `tokenizers`, from a tokenizer.json; no code of a model is run.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from edgedistill.config.data import Column
from edgedistill.config.encoder import TOKENIZER
from edgedistill.config.schema import Config
from edgedistill.data.files import names_below, names_in
from edgedistill.errors import ConfigError, nearest
from edgedistill.records.base import Record
from edgedistill.records.finding import Finding
from edgedistill.runtime.memory import available_bytes

Array = npt.NDArray[Any]
IDS: Final = "input_ids"
MASK: Final = "attention_mask"
TYPES: Final = "token_type_ids"
"""The names of the inputs of encoders; types are only inputs where two texts are read as one."""

INFLATED_BYTES: Final = 1 << 30
"""The most bytes that a .gz file may have inside, on a system that does not say how much memory is free."""
AT_ONCE: Final = 4096
"""The texts that are tokenized at once."""

NOTEWORTHY: Final = 0.01
"""The share of texts that are cut from which on it is a warning."""

PAIRED: Final = "sentence-embedding"
"""The task in which two columns are a pair of samples, not one sample of two texts."""

NUMBERS: Final = frozenset({"regression"})
UNLABELLED: Final = frozenset({"embedding", PAIRED})
TASKS: Final = frozenset({"classification", *NUMBERS, *UNLABELLED})


class TextSettings(Record):
    """How texts are read: the columns, the hash of the tokenizer, and the largest number of tokens.

    `columns` is empty for folders of classes. A file of `file` is no part of the settings' hash, because `tokenizer` is its hash.
    """

    columns: tuple[Column, ...]
    label: Column | None
    score: Column | None
    tokenizer: str
    max_length: int
    file: Path = Field(exclude=True)


class Texts(NamedTuple):
    """The texts of a source, one or two for each sample, with their labels, (N, 0) without labels, and their files in a folder."""

    texts: list[tuple[str, ...]]
    labels: Array
    files: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None


class Tokens(NamedTuple):
    """Token numbers and masks (N, T) by input name, the size of the vocabulary, and how many texts were cut."""

    inputs: dict[str, Array]
    vocabulary: int
    cut: int


def tokenizer_file(config: Config) -> Path:
    """Return the tokenizer of a configuration: that of [data], or that of a model hf:FOLDER; raises ConfigError if there is none."""
    data, models = config.data, [one.model for one in config.teachers] + [config.student.model]
    named = [one for one in models if one is not None and one.source == "hf"]
    if data.tokenizer is None and not named:
        raise ConfigError(
            f"data.tokenizer: names no tokenizer for the texts; set it to a {TOKENIZER}, or to the folder that has it"
        )
    path = config.model_folder(named[0]) if data.tokenizer is None else config.path(data.tokenizer)
    path = path / TOKENIZER if path.is_dir() else path
    if not path.is_file():
        raise ConfigError(f"data.tokenizer: {path.name}: no such file (looked for {path})")
    return path


def text_files(folder: Path) -> list[Path]:
    """Return the files CLASS/TEXT.txt of a folder."""
    return [folder / name for name in names_in(folder, {".txt"}) if "/" in name]


def read_texts(path: Path, settings: TextSettings, task: str) -> Texts:
    """Read the texts and labels of a table, or of a folder of classes; raises ConfigError that names the file and the line."""
    if task not in TASKS:
        raise ConfigError(f"data.task: texts have the tasks {', '.join(sorted(TASKS))}; the task is '{task}'")
    if path.is_dir():
        return _from_folder(path)
    if not settings.columns:
        raise ConfigError(f"data.text: required: the column of the texts in {path.name}")
    wanted = [*settings.columns, *(one for one in (settings.label,) if one is not None)]
    table = _Table(path, wanted, settings.score)
    texts, labels, scores = [], [], []
    for line, row in table.rows():
        values = [_filled(path, line, column, row[column]) for column in settings.columns]
        texts.append(tuple(values))
        if settings.label is not None:
            labels.append(_label(path, line, row[settings.label], numbers=task in NUMBERS))
        scores.append(_score(path, line, row.get(settings.score)))
    if not texts:
        raise ConfigError(f"data: {path.name} has no rows")
    if task == PAIRED:
        return _pairs(texts, scores)
    return Texts(texts, np.array(labels) if labels else np.empty((len(texts), 0), np.float32))


def _pairs(rows: Sequence[tuple[str, ...]], scores: Sequence[float]) -> Texts:
    """Return each text as a sample; its label is the number of its row, and the score of the row, which may be NaN."""
    texts: list[tuple[str, ...]] = [(text,) for row in rows for text in row]
    numbers = [number for number, row in enumerate(rows) for _ in row]
    return Texts(texts, np.stack([np.array(numbers, np.float32), np.array(scores, np.float32)[numbers]], 1))


def _from_folder(folder: Path) -> Texts:
    files = text_files(folder)
    if not files:
        raise ConfigError(f"data: folder {folder.name} holds no texts; expected {folder.name}/CLASS/TEXT.txt")
    names = names_below(files, folder)
    classes, labels = np.unique([name.partition("/")[0] for name in names], return_inverse=True)
    texts: list[tuple[str, ...]] = [(_filled(file, None, None, _decoded(file, file.read_bytes())),) for file in files]
    return Texts(texts, labels.astype(np.int64), tuple(names), tuple(map(str, classes)))


def _integers(numbers: list[int], kind: type[np.integer[Any]]) -> Array:
    """Return numbers as an array; raises OverflowError for one that does not fit, which numpy 1 would change."""
    largest = max(numbers, default=0)
    if largest > np.iinfo(kind).max:
        raise OverflowError(f"number {largest} is out of bounds for {kind.__name__}")
    return np.array(numbers, kind)


def tokenize(texts: Sequence[tuple[str, ...]], settings: TextSettings) -> Tokens:
    """Turn texts into token numbers, int32, and masks, int8, (N, T); T is the longest of them, at most `max_length`."""
    tokenizer = load_tokenizer(settings.file)
    tokenizer.enable_truncation(settings.max_length)
    encoded, cut = [], 0
    for start in range(0, len(texts), AT_ONCE):
        given = [text if len(text) > 1 else text[0] for text in texts[start : start + AT_ONCE]]
        try:
            found = tokenizer.encode_batch(given)
            encoded += [(_integers(one.ids, np.int32), _integers(one.type_ids, np.int8)) for one in found]
        except Exception as error:  # noqa: BLE001 - the package raises Exception itself
            raise ConfigError(f"data.tokenizer: {settings.file.name} cannot encode the texts: {error}") from None
        cut += sum(bool(one.overflowing) for one in found)
    length = max(len(ids) for ids, _ in encoded)
    inputs: dict[str, Array] = {
        IDS: np.zeros((len(texts), length), np.int32),
        MASK: np.zeros((len(texts), length), np.int8),
    }
    if len(texts[0]) > 1:
        inputs[TYPES] = np.zeros((len(texts), length), np.int8)
    for row, (ids, types) in enumerate(encoded):
        inputs[IDS][row, : len(ids)], inputs[MASK][row, : len(ids)] = ids, 1
        if TYPES in inputs:
            inputs[TYPES][row, : len(ids)] = types
    return Tokens(inputs, tokenizer.get_vocab_size(), cut)


def load_tokenizer(file: Path) -> Any:
    """Load a tokenizer.json, without padding; raises ConfigError if it or the package `tokenizers` is missing or not readable."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ConfigError("texts need the package tokenizers; run: pip install 'edgedistill[text]'") from None
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # noqa: BLE001 - the package raises Exception itself
        raise ConfigError(f"data.tokenizer: {file.name} is not readable: {error}") from None
    tokenizer.no_padding()
    return tokenizer


def parts_of(inputs: Mapping[str, Array]) -> list[Array]:
    """Return the token numbers of each text of a sample, from its inputs (tokens,) without padding."""
    if TYPES not in inputs:
        return [inputs[IDS]]
    return [inputs[IDS][inputs[TYPES] == number] for number in (0, 1)]


def same_length(splits: Sequence[dict[str, Array]]) -> list[dict[str, Array]]:
    """Return the inputs of splits padded with 0 to the length of the longest."""
    length = max(inputs[IDS].shape[1] for inputs in splits)
    return [
        {name: np.pad(values, ((0, 0), (0, length - values.shape[1]))) for name, values in inputs.items()}
        for inputs in splits
    ]


def cut_finding(split: str, cut: int, count: int, settings: TextSettings) -> Iterator[Finding]:
    """Yield a finding if some texts were cut to `max_length` tokens."""
    if cut:
        yield Finding(
            severity="warning" if cut >= NOTEWORTHY * count else "note", subject=f"data.{split}",
            text=f"{cut:,} of {count:,} texts have more than max_length = {settings.max_length} tokens; what follows is cut off",
        )  # fmt: skip


def _filled(path: Path, line: int | None, column: Column | None, text: Any) -> str:
    """Return a text; raises ConfigError for an empty one."""
    if not isinstance(text, str) or not text.strip():
        place = path.parent.name + "/" + path.name if line is None else f"{path.name}, line {line}, column '{column}'"
        raise ConfigError(f"data: {place}: the text is empty; remove the sample")
    return text


def _label(path: Path, line: int, value: Any, *, numbers: bool) -> str | float:
    if value is None or value != value:  # noqa: PLR0124 - NaN, which pandas and JSON write for a missing value
        raise ConfigError(f"data.label: {path.name}, line {line}: has no label; remove the row")
    if not numbers:
        return str(value)
    return _number(path, line, "label", value)


def _score(path: Path, line: int, value: Any) -> float:
    return float("nan") if value is None or value == "" else _number(path, line, "score", value)


def _number(path: Path, line: int, key: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"data.{key}: {path.name}, line {line}: '{value}' is not a number") from None


def table_rows(path: Path, names: frozenset[str]) -> Iterator[dict[Any, Any]]:
    """Yield the rows of a table by column; columns of .csv and .tsv have names if the first row has one of `names` in lower case.

    Raises ConfigError that names the file and the line.
    """
    numbered = _Table(path, [0], None) if Path(path.name.removesuffix(".gz")).suffix != ".jsonl" else None
    first = {} if numbered is None else next((row for _, row in numbered.rows()), {})
    has_names = numbered is None or any(str(value).lower() in names for value in first.values())
    yield from (row for _, row in _Table(path, [] if has_names else [0], None).rows())


class _Table:
    """A table of texts; `wanted` are its columns, `optional` is one that may be missing."""

    def __init__(self, path: Path, wanted: Sequence[Column], optional: Column | None) -> None:
        self.path, self.wanted, self.optional = path, wanted, optional
        self.kind = Path(path.name.removesuffix(".gz")).suffix
        given = [*wanted, *([] if optional is None else [optional])]
        self.has_header = not given or isinstance(given[0], str)
        if any(isinstance(column, str) != self.has_header for column in given):
            raise ConfigError("data.text: name all columns, or number all of them; a table with a header has names")
        if self.kind == ".jsonl" and not self.has_header:
            raise ConfigError(f"data.text: {path.name} has keys, not numbered columns; name them")

    def rows(self) -> Iterator[tuple[int, dict[Column | None, Any]]]:
        """Yield the number of the line and the values of each row, by column."""
        content = _decoded(self.path, _content(self.path))
        yield from self._objects(content) if self.kind == ".jsonl" else self._records(content)

    def _objects(self, content: str) -> Iterator[tuple[int, dict[Column | None, Any]]]:
        for number, line in enumerate(content.split("\n"), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"data: {self.path.name}, line {number}: not JSON: {error}") from None
            if not isinstance(row, dict):
                raise ConfigError(f"data: {self.path.name}, line {number}: not an object of keys and values")
            self._require(row, number)
            yield number, row

    def _records(self, content: str) -> Iterator[tuple[int, dict[Column | None, Any]]]:
        reader = self._reader(content)
        try:
            header: list[Any] | None = next(reader, []) if self.has_header else None
            for values in reader:
                if header is not None and any(values[len(header) :]):
                    raise ConfigError(
                        f"data: {self.path.name}, line {reader.line_num}: has {len(values)} fields, but the header has "
                        f"{len(header)}{self._advice}"
                    )
                if values:
                    row = dict(enumerate(values) if header is None else zip(header, values, strict=False))
                    self._require(row, reader.line_num)
                    yield reader.line_num, row
        except csv.Error as error:
            raise ConfigError(f"data: {self.path.name}, line {reader.line_num}: {error}") from None

    def _reader(self, content: str) -> Any:
        """Return a reader of rows: quotes are part of the text in .tsv, and surround it in .csv (RFC 4180)."""
        if self.kind == ".tsv":
            return csv.reader(io.StringIO(content, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
        return csv.reader(io.StringIO(content, newline=""), strict=True)

    @property
    def _advice(self) -> str:
        """What to do about a row with too many fields."""
        return (
            "; remove the tabs from its texts"
            if self.kind == ".tsv"
            else "; surround texts that hold commas with quotes"
        )

    def _require(self, row: dict[Any, Any], line: int) -> None:
        for column in self.wanted:
            if column not in row:
                known = [str(name) for name in row]
                raise ConfigError(
                    f"data: {self.path.name}, line {line}: has no column '{column}'{nearest(str(column), known)}; it has: "
                    f"{', '.join(known)}"
                )


def _content(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    free = available_bytes()
    return inflated(
        path, INFLATED_BYTES if free is None else free // 4
    )  # the bytes become text, and the text becomes rows


def inflated(path: Path, most: int) -> bytes:
    """Return the content of a .gz file; raises ConfigError for a damaged one and for more than `most` bytes, without reading them all."""
    try:
        with gzip.open(path) as file:
            content = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"data: {path.name} is not a readable .gz file: {error}") from None
    if len(content) > most:
        raise ConfigError(
            f"data: {path.name} has more than {most / 1e9:.1f} GB when it is decompressed, which is the most that this machine may read at once; split the table"
        )
    return content


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"data: {path.name} is not UTF-8: {error}; convert it") from None
