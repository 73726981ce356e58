"""One finished run of real digits for the whole suite: made once, whichever process asks first, and changed by no test."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from edgedistill.runtime.files import SEAL, seal_of, sha256_of
from tests.support.command import edgedistill

CONFIG = """
name = "digits"
[data]
train = "edgedistill.data.digits:train"
test = "edgedistill.data.digits:test"
augment = ["crop:1"]
mean = [0.3]
std = [0.4]
[teacher]
model = "zoo:mlperf-resnet8"
width = 0.5
epochs = 3
batch_size = 32
engine = "torch"
[student]
model = "zoo:mlperf-resnet8"
width = 0.25
[distill]
epochs = 4
batch_size = 32
views = 2
control = true
[quantize]
mode = "ptq"
[[target]]
name = "pc"
kit = "ort"
[bench]
processes = 3
seconds = 0.1
"""
ELSEWHERE = """[export]
bake = ["normalize"]
[[target]]
name = "board"
kit = "ort"
device = "ssh://board.invalid"
threads = 1
"""
"""A device that nothing reaches: what is exported for it has to run on any processor."""
TARGET = '[[target]]\nname = "pc"\nkit = "ort"\n'


def stages(run: Path) -> dict[str, dict]:
    """Return the stages of a run as its manifest has them."""
    return json.loads((run / "manifest.json").read_text())["stages"]


def as_written(run: Path, change: Callable[[dict], object] = lambda _manifest: None) -> None:
    """Change the manifest of a run, and give its entries and files the hashes that stages would have written."""
    manifest = json.loads((run / "manifest.json").read_text())
    change(manifest)
    manifest.pop("configuration_sha256", None)
    for entry in manifest["stages"].values():
        _hash_files(run, entry)
        if SEAL in entry:
            entry[SEAL] = seal_of(entry)
    (run / "manifest.json").write_text(json.dumps(manifest, indent=2))


def _hash_files(run: Path, value: object) -> None:
    if isinstance(value, dict) and value.keys() == {"path", "sha256", "bytes"} and (run / value["path"]).is_file():
        value |= {"sha256": sha256_of(run / value["path"]), "bytes": (run / value["path"]).stat().st_size}
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _hash_files(run, one)


def finished_run(shared: Path) -> Path:
    """Return the folder of edgedistill.toml, `runs/digits` and the cache, made if no process has made it yet."""
    folder = shared / "finished"
    with (shared / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _make(shared / "unfinished", ("run",))
            (shared / "unfinished").rename(folder)
    return folder


def exported_elsewhere(shared: Path) -> Path:
    """Return the folder of the same run, exported for a device that cannot be asked, and not measured."""
    finished, folder = finished_run(shared), shared / "elsewhere"
    with (shared / "elsewhere.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            copy = shared / "unfinished-elsewhere"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(finished, copy)
            _forget(copy / "runs" / "digits", ("compile", "bench", "report"), ("measurements", "artifacts"))
            _make(copy, ("export",), CONFIG.replace(TARGET, ELSEWHERE))
            copy.rename(folder)
    return folder


def _forget(run: Path, later: tuple[str, ...], folders: tuple[str, ...]) -> None:
    for name in folders:
        shutil.rmtree(run / name)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["stages"] = {name: entry for name, entry in manifest["stages"].items() if name not in later}
    (run / "manifest.json").write_text(json.dumps(manifest))


def _make(folder: Path, command: tuple[str, ...], config: str = CONFIG) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "edgedistill.toml").write_text(config)
    done = edgedistill(*command, "edgedistill.toml", cwd=folder)
    assert done.returncode == 0, done.stderr
