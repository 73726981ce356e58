"""Models of the Hugging Face hub: downloaded once at a fixed commit, checked against the hub's hashes, and recorded."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import Any, Final

from edgedistill.errors import ConfigError
from edgedistill.runtime.caches import caches_folder, locked
from edgedistill.runtime.files import sha256_of, write_json

FILES: Final = (
    "config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json", "1_Pooling/config.json",
)  # fmt: skip
"""The files that are downloaded, those of them that a repository has."""
REQUIRED: Final = FILES[:2]
RECORD: Final = "downloaded.json"
COMMIT: Final = re.compile(r"[0-9a-f]{40}")


@cache
def hub_folder(repository: str, revision: str) -> Path:
    """Return the folder COMMIT/NAME with the files of a repository ORG/NAME at a revision.

    The first use of a tag or branch records its commit, and later uses take the same one. Files that are there are checked against
    their recorded SHA-256 and not downloaded again. Raises ConfigError if a download or a check fails.
    """
    models = caches_folder("models") / repository.replace("/", "--")
    pinned = models / "revisions" / f"{revision.replace('/', '--')}.json"
    with locked(models, lambda: None):
        if COMMIT.fullmatch(revision):
            commit = revision
        elif pinned.is_file():
            commit = json.loads(pinned.read_bytes())["commit"]
        else:
            commit = _described(repository, revision).sha
            write_json(pinned, {"repository": repository, "revision": revision, "commit": commit})
        folder = models / commit / repository.rpartition("/")[2]
        if (folder / RECORD).is_file():
            _check_recorded(folder, f"hf:{repository}@{revision}")
        else:
            _download(repository, commit, folder)
    return folder


def _described(repository: str, revision: str) -> Any:
    """Return what the hub knows of a revision: its commit, and its files with their hashes."""
    from huggingface_hub import HfApi

    def ask() -> Any:
        return HfApi(endpoint=_endpoint()).model_info(repository, revision=revision, files_metadata=True, timeout=30)

    return _on_hub(repository, revision, ask)


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT")


def _on_hub(repository: str, revision: str, ask: Any) -> Any:
    """Return the result of a request to the hub; raises ConfigError with the reason and the next step if it fails."""
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is imported there
        GatedRepoError,
        HFValidationError,
        HTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"hf:{repository}@{revision}"
    try:
        return ask()
    except GatedRepoError:
        reason = "access to it has to be granted first; request it on the hub, and set HF_TOKEN"
    except RepositoryNotFoundError:
        reason = "the hub has no such repository, or it is private; check the name, or set HF_TOKEN"
    except RevisionNotFoundError:
        reason = "the repository has no such revision; use a commit, a tag or a branch of it"
    except HFValidationError as error:
        reason = str(error).splitlines()[0]
    except (HTTPError, OSError) as error:
        reason = _no_network(repository, revision, error)
    raise ConfigError(f"model '{where}': not downloaded: {reason}") from None


def _no_network(repository: str, revision: str, error: Exception) -> str:
    place = repository.rpartition("/")[2]
    return (
        f"the hub does not answer ({str(error).splitlines()[0]}); where there is a network, run: hf download {repository} "
        f"--revision {revision} --local-dir {place} {' '.join(FILES[:4])}; copy that folder, and write hf:{place}"
    )


def _download(repository: str, commit: str, folder: Path) -> None:
    """Download the files of a commit into a folder, check them against the hub's hashes, and record their SHA-256."""
    info = _described(repository, commit)
    files = {one.rfilename: one for one in info.siblings or () if one.rfilename in FILES}
    for name in REQUIRED:
        if name not in files:
            raise ConfigError(f"model 'hf:{repository}@{commit}': the repository has no {name}; use another model")
    shutil.rmtree(folder, ignore_errors=True)
    for name, one in files.items():
        path = _fetched(repository, commit, folder, name)
        if _hash_of(path, one) != (one.lfs.sha256 if one.lfs else one.blob_id):
            path.unlink()
            raise ConfigError(
                f"model 'hf:{repository}@{commit}': {name} was damaged on the way: its hash is not that of the hub; run again"
            )
    write_json(
        folder / RECORD,
        {"repository": repository, "commit": commit, "sha256": {name: sha256_of(folder / name) for name in files}},
    )


def _fetched(repository: str, commit: str, folder: Path, name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    if not sys.stderr.isatty():
        disable_progress_bars()

    def fetch() -> str:
        return hf_hub_download(repository, name, revision=commit, local_dir=folder, endpoint=_endpoint())

    return Path(_on_hub(repository, commit, fetch))


def _hash_of(path: Path, one: Any) -> str:
    """Return the hash of a file as the hub has it: SHA-256 of large files, and Git's SHA-1 of others."""
    if one.lfs:
        return sha256_of(path)
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _check_recorded(folder: Path, where: str) -> None:
    for name, expected in json.loads((folder / RECORD).read_bytes())["sha256"].items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != expected:
            raise ConfigError(
                f"model '{where}': {path} is missing or changed since it was downloaded; delete {folder}, and run again"
            )
