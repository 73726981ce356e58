"""Text that others wrote, made fit for a terminal, a file and a report."""

from __future__ import annotations

import re
from typing import Final

UNSHOWN: Final = r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"
"""Control characters, and those that turn the direction of the text around them; for a class of Python's or Rust's expressions."""
ONE_LINE: Final = rf"^[^{UNSHOWN}]*$"
"""A line without such characters."""
LONGEST: Final = 10_000
CUT: Final = " […]"

_SPACES: Final = re.compile(r"[\t\n\r\x0b\x0c\u2028\u2029]+")
_UNSHOWN: Final = re.compile(f"[{UNSHOWN}\ud800-\udfff]")


def plain(text: str, longest: int = LONGEST) -> str:
    """Return a text as one line: line breaks are spaces, characters that no line should hold are "�", and the rest is cut off."""
    if len(text) > longest:
        text = text[: longest - len(CUT)] + CUT
    return _UNSHOWN.sub("�", _SPACES.sub(" ", text).strip())
