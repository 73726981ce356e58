"""Texts of `check`: from the command line or from a file, with the tokenizer of the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from edgedistill.data.text import TextSettings
from edgedistill.errors import ConfigError
from edgedistill.records.contract import Contract, TextRules

LONGEST = 60
"""The characters of a text that a line of the result shows."""


def read_given(given: Sequence[str], rules: TextRules) -> tuple[tuple[str, ...], ...]:
    """Return the texts of arguments: each is a text, or a file with a text in each line; a tab is between the texts of a pair.

    Raises ConfigError for an empty text, and for a pair where the model takes one text or the reverse.
    """
    return tuple(_split(line, place, rules) for place, line in _lines(given))


def _lines(given: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each text with its place."""
    for one in given:
        if not _is_file(one):
            yield f"'{shown(one)}'", one
            continue
        try:
            content = Path(one).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{one}: is not a readable file of texts in UTF-8: {error}") from None
        yield from ((f"{one}, line {number}", line) for number, line in enumerate(content.splitlines(), 1))


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # a text that is too long for a name, or has a null character
        return False


def _split(line: str, place: str, rules: TextRules) -> tuple[str, ...]:
    texts = tuple(line.split("\t")) if rules.texts > 1 else (line,)
    if not all(text.strip() for text in texts):
        raise ConfigError(f"check: {place}: the text is empty")
    if len(texts) != rules.texts:
        raise ConfigError(f"check: {place}: the model takes pairs of texts; write both with a tab between them")
    return texts


def shown(text: str) -> str:
    """Return a text in one line of limited length."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def text_settings(contract: Contract, tokenizer: Path) -> TextSettings:
    """Return how training reads the texts of a contract."""
    rules = contract.text
    assert rules is not None
    return TextSettings(
        columns=tuple(range(rules.texts)), label=None, score=None, tokenizer=rules.sha256, max_length=rules.max_length, file=tokenizer,
    )  # fmt: skip
