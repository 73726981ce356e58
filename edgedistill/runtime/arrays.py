"""Writing .npz archives, and reading those that others made: sizes are checked before anything is inflated, and damage is a sentence."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from edgedistill.errors import ConfigError
from edgedistill.runtime.memory import available_bytes

Array = npt.NDArray[Any]
UNREADABLE: Final = (
    ValueError, OSError, EOFError, AttributeError, RuntimeError, SyntaxError, SystemError, TypeError, zipfile.BadZipFile, zlib.error,
    TokenError, OverflowError,
)  # fmt: skip
"""What zipfile and numpy raise for damaged archives, encrypted ones and headers that are no shape."""
SUFFIX: Final = ".npy"


def read_arrays(path: Path, about: str, wanted: Callable[[str], bool] = lambda _name: True) -> dict[str, Array]:
    """Return the wanted arrays of an .npz file by name; those that are not compressed are memory-mapped, read-only.

    Args:
        path: the file.
        about: the file in messages, for example "data: photos.npz".
        wanted: which names are read.

    Raises:
        ConfigError: the file is not readable, holds Python objects, an array declares another size than it has, or compressed arrays
            are larger than the free memory.
    """
    with _readable(about), zipfile.ZipFile(path) as archive, path.open("rb") as file:
        members = {name: one for name, one in _members(archive) if wanted(name)}
        _require_memory(about, members.values())
        return {name: _array(archive, file, one) for name, one in members.items()}


def write_arrays(path: Path | IO[bytes], arrays: Mapping[str, Array], *, compressed: bool = False) -> None:
    """Write arrays by name as .npz, to a path or an open file; raises ValueError for an array of Python objects.

    numpy.savez would take an array with the name "file" for its own argument, and its argument `allow_pickle` for an array before numpy 2.1.
    """
    method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}{SUFFIX}", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def array_names(path: Path, about: str) -> list[str]:
    """Return the names of the arrays in an .npz file; raises ConfigError as `read_arrays` does."""
    with _readable(about), zipfile.ZipFile(path) as archive:
        return [name for name, _ in _members(archive)]


def _members(archive: zipfile.ZipFile) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    for one in archive.infolist():
        if one.filename.endswith(SUFFIX):
            yield one.filename.removesuffix(SUFFIX), one


@contextmanager
def _readable(about: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ConfigError(f"{about}: no such file") from None
    except UNREADABLE as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{about} is not a readable .npz file: {reason}") from None


def _require_memory(about: str, members: Iterable[zipfile.ZipInfo]) -> None:
    inflated = sum(one.file_size for one in members if one.compress_type != zipfile.ZIP_STORED)
    free = available_bytes()
    if free is not None and inflated > free:
        raise ConfigError(
            f"{about} declares {inflated / 1e9:.1f} GB of compressed arrays, and {free / 1e9:.1f} GB of memory are free; save the file with "
            "numpy.savez, whose arrays are read from the disk"
        )


def _array(archive: zipfile.ZipFile, file: IO[bytes], member: zipfile.ZipInfo) -> Array:
    with archive.open(member) as stream:
        shape, fortran, dtype = _header(stream)
        declared, has = math.prod(shape) * dtype.itemsize, member.file_size - stream.tell()
        if declared != has:
            raise ValueError(
                f"array {member.filename.removesuffix(SUFFIX)} declares {declared:,} bytes and has {has:,}"
            )
        if member.compress_type != zipfile.ZIP_STORED:
            values = np.frombuffer(bytearray(stream.read()), dtype)
            return values.reshape(shape, order="F" if fortran else "C")
        return _mapped(file, member, stream.tell(), (shape, fortran, dtype))


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read the header of an .npy stream (NEP 1); raises ValueError for one that is damaged or declares Python objects."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which could run code; save arrays of numbers or text")
    return shape, fortran, dtype


def _mapped(
    file: IO[bytes], member: zipfile.ZipInfo, header: int, layout: tuple[tuple[int, ...], bool, np.dtype]
) -> Array:
    shape, fortran, dtype = layout
    file.seek(member.header_offset + 26)  # the local header's name and extra lengths (APPNOTE.TXT 4.3.7)
    name_length, extra_length = np.frombuffer(file.read(4), "<u2")
    start = member.header_offset + 30 + int(name_length) + int(extra_length) + header
    if not math.prod(shape):
        return np.zeros(shape, dtype)  # the system maps no empty part of a file
    return np.memmap(file, dtype, "r", start, shape, "F" if fortran else "C")
