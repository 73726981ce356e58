"""Ways to damage a file."""

from collections.abc import Callable
from typing import Final

import numpy as np


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
