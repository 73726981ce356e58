"""Ways to damage a file, and a reporter that keeps what is said."""

from collections.abc import Callable
from typing import Final

import numpy as np

from edgedistill.runtime.progress import Reporter


class Listener(Reporter):
    """Keeps the lines of information in `said`."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def info(self, text: str) -> None:
        self.said.append(text)


def _flipped(content: bytes) -> bytes:
    changed = np.frombuffer(content, np.uint8).copy()
    changed[np.random.default_rng(0).choice(min(len(changed), 2000), min(len(changed), 5), replace=False)] ^= 0xFF
    return changed.tobytes()


DAMAGES: Final[dict[str, Callable[[bytes], bytes]]] = {
    "flipped": _flipped,
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
}
"""Functions from the content of a file to its damaged content."""
