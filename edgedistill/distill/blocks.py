"""The blocks of a cache of soft labels: the teacher answers a block at a time, and each finished block has a checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from tokenize import TokenError
from typing import Final

import numpy as np

from edgedistill.data.sources import Array

BLOCK: Final = 256
"""The samples of a block, in one view."""
DIGEST_BYTES: Final = 32
"""The size of a checksum; a block whose checksum is zero is not finished."""
UNREADABLE: Final = (ValueError, TypeError, OverflowError, SyntaxError, TokenError, OSError)
"""What NumPy raises for a damaged .npy file."""


def block_count(samples: int) -> int:
    """Return the number of blocks of a view."""
    return -(-samples // BLOCK)


def blocks_of(views: int, samples: int) -> list[tuple[int, int, Array]]:
    """Return the blocks of a cache: the view, the number in the view, and the positions of the samples."""
    numbers = range(block_count(samples))
    return [(view, n, np.arange(n * BLOCK, min((n + 1) * BLOCK, samples))) for view in range(views) for n in numbers]


def checksum(entries: Iterable[Array]) -> Array:
    """Return the checksum of the entries of a block: its logits, then the other outputs in the order of their names."""
    digest = hashlib.sha256()
    for one in entries:
        digest.update(np.ascontiguousarray(one).tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


def find_damage(folder: Path, entries: tuple[np.dtype, tuple[int, ...]], outputs: list[Path]) -> str | None:
    """Return what is damaged in an unfinished cache, or None; `entries` are the type and the shape of its logits."""
    logits, done = _mapped(folder / "logits.npy"), _mapped(folder / "done.npy")
    if logits is None or (logits.dtype, logits.shape) != entries:
        return "logits.npy has another type or shape"
    views, samples = logits.shape[:2]
    if done is None or done.dtype != np.uint8 or done.shape != (views, block_count(samples), DIGEST_BYTES):
        return "done.npy has another type or shape"
    kept = [logits]
    for path in sorted(outputs, key=lambda path: path.stem):
        values = _mapped(path)
        if values is None or values.dtype != np.float16 or values.shape[:2] != (views, samples):
            return f"{path.name} has another type or shape"
        kept.append(values)
    finished = [(view, n, block) for view, n, block in blocks_of(views, samples) if done[view, n].any()]
    wrong = sum(
        not np.array_equal(done[view, n], checksum(values[view, block] for values in kept))
        for view, n, block in finished
    )
    return f"{wrong} of {len(finished)} finished blocks differ from their checksums" if wrong else None


def _mapped(path: Path) -> Array | None:
    """Memory-map an array for reading, or return None if the file is damaged."""
    try:
        return np.lib.format.open_memmap(path, "r")
    except UNREADABLE:
        return None
