"""Files of models that a configuration names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import Field

from edgedistill.errors import ConfigError
from edgedistill.records.base import Record

HashFile = Callable[[Path], str]


class ModelFile(Record):
    """A file named in a configuration, and the hash of its content."""

    sha256: str
    name: str
    path: Path = Field(exclude=True)


def model_file(path: Path, name: str, key: str, hash_file: HashFile) -> ModelFile:
    """Declare a file; raises ConfigError, which names the key of the configuration, for a missing one."""
    if not path.is_file():
        raise ConfigError(f"{key}: {name}: no such file (looked for {path})")
    return ModelFile(sha256=hash_file(path), name=name, path=path)
