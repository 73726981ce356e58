"""The files of onnxruntime-web and of the tokenizers: pinned by hash, and downloaded once from npm or copied from the user's folder."""

from __future__ import annotations

import gzip
import hashlib
import sys
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from edgedistill.errors import ConfigError
from edgedistill.kits.kits import targets_folder
from edgedistill.records.base import Encoding, Record
from edgedistill.runtime.caches import caches_folder
from edgedistill.runtime.files import sha256_of, write_atomic
from edgedistill.runtime.scratch import scratch_folder

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DIST = "package/dist/"
TIMEOUT_S = 60.0


class Runtime(Record):
    """An npm package, and the hashes of the files that a page loads from its folder dist."""

    package: str
    version: str
    url: str
    bytes: int
    sha512: str
    files: dict[str, str]


class WebKit(Record):
    """The target for browsers: `encoding` lists the supported int8 encodings, the preferred first; `opset` is the highest.

    `runtime` is the engine, and `tokenizer` turns texts into tokens.
    """

    name: str
    title: str
    precisions: tuple[str, ...]
    opset: int
    encoding: tuple[Encoding, ...]
    runtime: Runtime
    tokenizer: Runtime


def page_folder() -> Path:
    """Return the folder of the page: targets/web."""
    return targets_folder() / "web"


def read_web_kit() -> WebKit:
    """Read the page's target.toml."""
    path = page_folder() / "target.toml"
    try:
        return WebKit.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise ConfigError(f"{path}: {error}; reinstall edgedistill") from None


def runtime_folder(runtime: Runtime, given: Sequence[Path], tell: Callable[[str], None]) -> Path:
    """Return a folder with the files of the runtime, checked by hash, and gzipped copies of them.

    Args:
        runtime: the package, its version and hashes.
        given: npm's package folders, their folders dist, or the .tgz files, used if the cache lacks the files; empty downloads them.
        tell: reports a download before it starts.
    """
    kept = _cache(runtime)
    if _is_whole(kept, runtime):
        return kept
    if not given:
        tell(
            f"{runtime.package} {runtime.version} will be downloaded once from {runtime.url} ({runtime.bytes:,} bytes) to {kept}; "
            "without a network, use --runtime FILE.tgz with a file from 'npm pack'"
        )
        with scratch_folder() as scratch:
            _unpack(_download(runtime, scratch), kept, runtime)
        return kept
    place = next((one for one in given if _holds(one, runtime)), given[0])
    if place.is_file():
        _unpack(place, kept, runtime)
    else:
        _copy(place, kept, runtime)
    return kept


def _cache(runtime: Runtime) -> Path:
    return caches_folder("web") / f"{runtime.package.replace('/', '-').removeprefix('@')}-{runtime.version}"


def _holds(place: Path, runtime: Runtime) -> bool:
    """Return whether a file or folder of the user is the package of a runtime, among those of several packages."""
    if not place.is_file():
        return any(path.is_file() for name in runtime.files for path in _places(place, name))
    try:
        with tarfile.open(place) as opened:
            return any(DIST + name in opened.getnames() for name in runtime.files)
    except (tarfile.TarError, OSError):
        return False


def describe_kit() -> str:
    """Describe the target for browsers in one line: its engine, and whether a download is needed."""
    kit = read_web_kit()
    runtime = kit.runtime
    fetched = _is_whole(_cache(runtime), runtime)
    state = "" if fetched else f"; downloads {runtime.bytes:,} bytes once"
    return f"{kit.name:10} {', '.join(kit.precisions):12} {runtime.package} {runtime.version}, used by 'edgedistill serve RUN'{state}"


def _is_whole(folder: Path, runtime: Runtime) -> bool:
    """Return whether every file of a runtime and its compressed copy have the pinned content."""
    files = {folder / name: sha256 for name, sha256 in runtime.files.items()}
    return all(
        path.is_file() and sha256_of(path) == sha256 == _sha256_inside(_zipped(path), path.stat().st_size)
        for path, sha256 in files.items()
    )


def _sha256_inside(path: Path, size: int) -> str | None:
    """Return the SHA-256 of what a .gz file contains; None if it is missing, damaged, or contains more than `size` bytes."""
    digest, left = hashlib.sha256(), size + 1
    try:
        with gzip.open(path) as file:
            while left > 0 and (block := file.read(min(1 << 20, left))):
                digest.update(block)
                left -= len(block)
    except (OSError, EOFError, zlib.error):
        return None
    return digest.hexdigest()


def _download(runtime: Runtime, folder: Path) -> Path:
    """Download the package into a folder, and check its hash."""
    path = folder / "package.tgz"
    try:
        with (
            path.open("wb") as file,
            urllib.request.urlopen(runtime.url, timeout=TIMEOUT_S) as answer,  # noqa: S310 - the address is pinned, https
        ):
            digest = _pour(answer, file, runtime.bytes)
    except (OSError, urllib.error.URLError) as error:
        raise ConfigError(
            f"{runtime.url}: {error}; on a machine with a network, run 'npm pack {runtime.package}@{runtime.version}', and "
            "use the file here with --runtime FILE.tgz"
        ) from None
    if digest != runtime.sha512:
        raise ConfigError(f"{runtime.url}: the SHA-512 of the download differs from the pinned one; it was deleted")
    return path


def _pour(source: BinaryIO, target: BinaryIO, most: int) -> str:
    """Copy at most `most` + 1 bytes, and return their SHA-512."""
    digest, left = hashlib.sha512(), most + 1
    while left > 0 and (block := source.read(min(1 << 20, left))):
        target.write(block)
        digest.update(block)
        left -= len(block)
    return digest.hexdigest()


def _unpack(archive: Path, kept: Path, runtime: Runtime) -> None:
    """Keep the pinned files of a package; paths in the archive do not decide where files are written."""
    try:
        with tarfile.open(archive) as opened:
            for name in runtime.files:
                member = opened.extractfile(DIST + name)
                if member is None:
                    raise ConfigError(f"{archive}: {DIST}{name} is not a file; the archive is not {runtime.package}")
                _keep(member.read(), kept / name, runtime.files[name], archive)
    except (tarfile.TarError, OSError, KeyError) as error:
        raise ConfigError(f"{archive}: {error}; --runtime needs {runtime.package} {runtime.version} from npm") from None


def _copy(folder: Path, kept: Path, runtime: Runtime) -> None:
    for name, sha256 in runtime.files.items():
        path = next((path for path in _places(folder, name) if path.is_file()), None)
        if path is None:
            raise ConfigError(
                f"{folder}: has no {name}; --runtime needs the folder of {runtime.package} {runtime.version}, or its .tgz"
            )
        _keep(path.read_bytes(), kept / name, sha256, path)


def _places(folder: Path, name: str) -> Iterator[Path]:
    yield from (folder / name, folder / "dist" / name)


def _keep(content: bytes, path: Path, sha256: str, origin: Path) -> None:
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ConfigError(f"{origin}: {path.name} differs from the pinned file of {path.parent.name}; it was not used")
    write_atomic(_zipped(path), gzip.compress(content, 6, mtime=0))
    write_atomic(path, content)


def _zipped(path: Path) -> Path:
    return path.with_name(f"{path.name}.gz")
