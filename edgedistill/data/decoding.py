"""Decode the files of a source once, in parallel, into arrays on disk that this and later runs map into memory.

A cache is a folder of EDGEDISTILL_CACHE that is named by the hash of all that decides its content: the content of the source, the settings
of the decoding, and the version of Pillow. It contains NAME.npy for each array, one row per readable file, and `manifest.json`, which is
written last: a folder without it is an interrupted decoding, and starts again. Threads decode, because Pillow decodes and resizes without
Python's lock; rows are written, not mapped, so that the memory of the process stays small.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgedistill.data.files import Broken, attempt_read, readable
from edgedistill.data.images import image_errors, require_alike
from edgedistill.errors import ConfigError
from edgedistill.runtime.caches import caches_folder, locked
from edgedistill.runtime.files import hash_of, versions_of, write_json
from edgedistill.runtime.progress import QUIET, Reporter

Array = npt.NDArray[Any]
Sample = dict[str, Array]
"""The arrays that a file is decoded to, by name; they have the same shapes and types for all files."""

Read = Callable[[Path], Sample]

SCHEMA: Final = "edgedistill.decoded/1"
MANIFEST: Final = "manifest.json"
CHUNK: Final = 64
"""The number of files that a thread decodes before progress is reported."""

BLOCK_BYTES: Final = 1 << 24


class Decoding(NamedTuple):
    """How the files of a source are decoded.

    `key` is a JSON-like value of all that decides the result apart from the version of Pillow. `prepare` returns the function
    that decodes a file, and puts files that cannot be read into its argument; it is only called if there is no cache. `what`
    describes the files as `readable` takes it.
    """

    key: Any
    prepare: Callable[[Broken], Read]
    what: tuple[str, str, str]
    skip_bad: bool = False
    report: Reporter = QUIET


class Decoded(NamedTuple):
    """The arrays of the files that could be decoded, by name, read-only, these files, and the others with the reason."""

    arrays: Sample
    files: list[Path]
    broken: Broken


def decode(files: Sequence[Path], decoding: Decoding) -> Decoded:
    """Decode files, or map the result of an earlier decoding.

    Raises ConfigError that names the files that cannot be decoded, unless `skip_bad` asks to leave them out, for files of different
    shapes, and for a disk that is too small.
    """
    folder = caches_folder("decoded") / hash_of([SCHEMA, versions_of(("pillow",)), decoding.key])
    with locked(folder, lambda: decoding.report.info("data: waiting for another process that decodes the same files")):
        found = _open(folder)
        if found is None:
            _make(folder, files, decoding)
            found = _open(folder)
    assert found is not None
    arrays, reasons = found
    broken = {files[row]: reason for row, reason in reasons.items()}
    return Decoded(arrays, readable(files, broken, decoding.what, skip_bad=decoding.skip_bad), broken)


def _open(folder: Path) -> tuple[Sample, dict[int, str]] | None:
    """Map a cache: its arrays, and the reasons of the files that are left out, by their place; None if it is not complete."""
    about = read_manifest(folder / MANIFEST)
    if about is None:
        return None
    try:
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in about["arrays"]}
    except (OSError, ValueError):  # a file is missing or too short
        return None
    if any([one.dtype.name, *one.shape] != about["arrays"][name] for name, one in arrays.items()):
        return None
    return arrays, {int(row): reason for row, reason in about["broken"].items()}


def read_manifest(path: Path) -> dict[str, Any] | None:
    """Return the content of a manifest, or None if there is none, or a damaged one."""
    try:
        about = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return about if isinstance(about, dict) and about.keys() >= {"schema", "files", "arrays", "broken"} else None


def _make(folder: Path, files: Sequence[Path], decoding: Decoding) -> None:
    """Decode files into a cache; removes what it wrote if that fails."""
    broken: Broken = {}
    for stale in (folder / MANIFEST, *folder.glob("*.npy")):
        stale.unlink(missing_ok=True)
    try:
        read = decoding.prepare(broken)
        names = _decode_all(folder, files, read, broken, decoding.report)
        reasons = {row: broken[file] for row, file in enumerate(files) if file in broken}
        kept = readable(
            files, {files[row]: reason for row, reason in reasons.items()}, decoding.what, skip_bad=decoding.skip_bad
        )
        rows = np.setdiff1d(np.arange(len(files)), list(reasons)) if reasons else None
        shapes = {name: _finish(folder / f"{name}.npy", rows) for name in names}
        write_json(folder / MANIFEST, {"schema": SCHEMA, "files": len(kept), "arrays": shapes, "broken": reasons})
    except BaseException:
        for path in folder.glob("*.npy"):
            path.unlink()
        raise


def _decode_all(folder: Path, files: Sequence[Path], read: Read, broken: Broken, report: Reporter) -> list[str]:
    """Decode all files into rows of .npy files, and return the names of the arrays."""
    errors = image_errors()
    first = next((file for file in files if attempt_read(read, file, broken, errors) is not None), None)
    if first is None:
        return []
    example = read(first)
    _require_space(folder, len(files) * sum(one.nbytes for one in example.values()))
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(_rows(folder / f"{name}.npy", len(files), one)) for name, one in example.items()
        }

        def decode_chunk(start: int) -> tuple[int, Broken]:
            wrong: Broken = {file: broken[file] for file in files[start : start + CHUNK] if file in broken}
            for row, file in enumerate(files[start : start + CHUNK], start):
                sample = attempt_read(read, file, wrong, errors)
                if sample is not None:
                    for name, values in sample.items():
                        require_alike(file, values, first, example[name])
                        writers[name](row, values)
            return min(CHUNK, len(files) - start), wrong

        advance = stack.enter_context(report.track("decoding", len(files)))
        for count, wrong in _in_parallel(decode_chunk, range(0, len(files), CHUNK)):
            broken.update(wrong)
            advance(count, "files")
    return list(example)


def _in_parallel(work: Callable[[int], tuple[int, Broken]], starts: range) -> Iterator[tuple[int, Broken]]:
    """Yield the results of chunks in their order; an error stops the chunks that have not begun."""
    workers = min(len(os.sched_getaffinity(0)), len(starts))
    if workers < 2:
        yield from map(work, starts)
        return
    pool = ThreadPoolExecutor(workers, "decode")
    try:
        yield from pool.map(work, starts)
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _rows(path: Path, count: int, example: Array) -> Iterator[Callable[[int, Array], None]]:
    """Create a .npy file of `count` rows, and yield a function that writes one row, which several threads may call."""
    start = np.lib.format.open_memmap(path, "w+", example.dtype, (count, *example.shape)).offset
    with path.open("r+b") as file:

        def write(row: int, values: Array) -> None:
            try:
                os.pwrite(file.fileno(), values.tobytes(), start + row * values.nbytes)
            except OSError as error:
                raise ConfigError(f"data: {path} cannot be written: {error.strerror}") from None

        yield write
        os.fsync(file.fileno())


def _finish(path: Path, rows: Array | None) -> list[Any]:
    """Keep only some rows of a file, if given, and return its type and shape."""
    old = np.load(path, mmap_mode="r")
    if rows is None:
        return [old.dtype.name, *old.shape]
    scratch = path.with_name("kept.npy")
    new = np.lib.format.open_memmap(scratch, "w+", old.dtype, (len(rows), *old.shape[1:]))
    step = max(1, BLOCK_BYTES // max(1, old[0].nbytes))
    for start in range(0, len(rows), step):
        new[start : start + step] = old[rows[start : start + step]]
    new.flush()
    scratch.replace(path)
    return [new.dtype.name, *new.shape]


def _require_space(folder: Path, size: int) -> None:
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if size > free:
        raise ConfigError(
            f"data: the decoded files need {size / 1e9:.1f} GB in {folder.parent}, where {free / 1e9:.1f} GB are free; free space, lower "
            "data.size, or set EDGEDISTILL_CACHE to a folder on another disk"
        )


def describe_decoded() -> Iterator[str]:
    """Yield a line for the caches of decoded files, and one for each: its folder, arrays and size, and whether it is complete."""
    caches = sorted(path.parent for path in caches_folder("decoded").glob("*/.lock"))
    yield f"{len(caches)} decoded sources in {caches_folder('decoded')}; to free the space, delete folders there"
    for folder in caches:
        about = read_manifest(folder / MANIFEST)
        size = sum(path.stat().st_size for path in folder.iterdir())
        if about is None:
            yield f"{folder.name[:16]}  {size:,} bytes, incomplete"
            continue
        arrays = ", ".join(
            f"{name} {'x'.join(map(str, shape))} {dtype}" for name, (dtype, *shape) in about["arrays"].items()
        )
        left_out = f", {len(about['broken']):,} files left out" if about["broken"] else ""
        yield f"{folder.name[:16]}  {about['files']:,} files, {arrays}, {size:,} bytes{left_out}"
