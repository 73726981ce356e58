"""Files of models that a configuration names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import Field

from edgedistill.errors import ConfigError
from edgedistill.graphs.read import weights_files
from edgedistill.records.base import Record
from edgedistill.runtime.files import hash_of

HashFile = Callable[[Path], str]


class ModelFile(Record):
    """A file named in a configuration, the files `beside` it that hold the weights of an ONNX file, and the hash of their content."""

    sha256: str
    name: str
    path: Path = Field(exclude=True)
    beside: tuple[Path, ...] = Field(default=(), exclude=True)

    @property
    def size_bytes(self) -> int:
        """The bytes of all files."""
        return sum(path.stat().st_size for path in (self.path, *self.beside))


def model_file(path: Path, name: str, key: str, hash_file: HashFile) -> ModelFile:
    """Declare a file; raises ConfigError, which names the key of the configuration, for a missing or damaged one."""
    if not path.is_file():
        raise ConfigError(f"{key}: {name}: no such file (looked for {path})")
    beside, sha256 = _weights_beside(path, key), hash_file(path)
    if beside:
        sha256 = hash_of([sha256, *(hash_file(one) for one in beside)])
    return ModelFile(sha256=sha256, name=name, path=path, beside=beside)


def _weights_beside(path: Path, key: str) -> tuple[Path, ...]:
    try:
        return weights_files(path) if path.suffix == ".onnx" else ()
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from None
