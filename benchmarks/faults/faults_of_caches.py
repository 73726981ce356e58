"""Planted faults of caches, checkpoints and run folders: a command runs, a file is damaged, and the next command meets it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from planted import Fault, save_job, weights
from safetensors.torch import save_file

UNTIL: Final = "run edgedistill.toml --until"
SOFT_LABELS: Final = f"{UNTIL} soft_labels"
DISTILL: Final = f"{UNTIL} distill"
CACHE: Final = "cache/soft_labels/*"
MANIFEST: Final = "runs/faults/manifest.json"
STOPS: Final = """

class Stops(nn.Sequential):
    calls = 0

    def forward(self, x):
        Stops.calls += self.training
        if Stops.calls > 25 and Path("stop").exists():
            raise RuntimeError("stopped")
        return super().forward(x)


def stops(classes: int) -> nn.Module:
    return Stops(nn.Flatten(), nn.Linear(64, classes))
"""


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(255 - byte for byte in content[middle : middle + 5]) + content[middle + 5 :]


def _truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _empty(_: bytes) -> bytes:
    return b""


def _change(folder: Path, pattern: str, change: Callable[[bytes], bytes]) -> None:
    """Change the content of each file of a pattern; other names of the file, which are hard links, see the change too."""
    paths = sorted(folder.glob(pattern))
    assert paths, f"no file {pattern}"
    for path in paths:
        path.chmod(0o644)
        content = change(path.read_bytes())
        with path.open("r+b") as file:
            file.truncate(0)
            file.write(content)


def _remove(folder: Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        path.unlink()


def _unfinished(folder: Path) -> None:
    _remove(folder, f"{CACHE}/logits.sha256")
    _remove(folder, MANIFEST)


def _another_teacher(folder: Path) -> None:
    """Repair the teacher of `_shifted` in its file of weights."""
    save_file(weights(), folder / "quarters.safetensors")


def _reversed(folder: Path) -> None:
    save_job(folder)
    path = folder / "nets.py"
    path.write_text(
        path.read_text(encoding="utf-8") + "\n\nfrom sign import SIGN\n\n\nclass Signed(nn.Sequential):\n"
        "    def forward(self, x):\n        return SIGN * super().forward(x)\n\n\n"
        "def signed(classes: int) -> nn.Module:\n    return Signed(nn.Flatten(), nn.Linear(64, classes))\n",
        encoding="utf-8",
    )
    (folder / "sign.py").write_text("SIGN = 0.5\n", encoding="utf-8")


def _repaired(folder: Path) -> None:
    (folder / "sign.py").write_text("SIGN = 1.0\n", encoding="utf-8")


def _stopping(folder: Path) -> None:
    save_job(folder, student={"model": "nets:stops"}, distill={"epochs": 6})
    path = folder / "nets.py"
    path.write_text("from pathlib import Path\n" + path.read_text(encoding="utf-8") + STOPS, encoding="utf-8")
    (folder / "stop").touch()


def _resume(folder: Path, change: Callable[[bytes], bytes]) -> None:
    (folder / "stop").unlink()
    _change(folder, "runs/faults/student/*resume*", change)


def _cache(planted: str, change: Callable[[bytes], bytes], file: str, says: str, command: str = SOFT_LABELS) -> Fault:
    """Damage a file of finished soft labels in the cache; then a run in another run folder meets the file."""

    def damage(folder: Path) -> None:
        _change(folder, f"{CACHE}/{file}", change)

    again = command if command != SOFT_LABELS else f"{SOFT_LABELS} --run-dir again"
    return Fault("cache", planted, save_job, again, 0, says, before=(SOFT_LABELS, damage))


def _partial(planted: str, change: Callable[[bytes], bytes], file: str, says: str) -> Fault:
    """Damage a file of an unfinished cache of soft labels."""

    def damage(folder: Path) -> None:
        _unfinished(folder)
        _change(folder, f"{CACHE}/{file}", change)

    return Fault("cache", planted, save_job, SOFT_LABELS, 0, says, before=(SOFT_LABELS, damage))


def _checkpoint(planted: str, change: Callable[[bytes], bytes], says: str) -> Fault:
    """Damage the checkpoint of a training that was interrupted."""
    return Fault("cache", planted, _stopping, DISTILL, 0, says, before=(DISTILL, partial(_resume, change=change)))


def _run_file(planted: str, file: str, change: Callable[[bytes], bytes], code: int, says: str) -> Fault:
    """Damage a file of a finished run."""
    return Fault(
        "cache", planted, save_job, DISTILL, code, says,
        before=(DISTILL, partial(_change, pattern=file, change=change)),
    )  # fmt: skip


def _verified(folder: Path) -> None:
    """Make soft labels of another teacher look like those of this one: only recomputing can tell."""
    path = next(folder.glob(f"{CACHE}/logits.npy"))
    logits = np.load(path)
    np.save(path, logits[..., ::-1])
    path.with_name("logits.sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest(), encoding="utf-8")
    _remove(folder, MANIFEST)


def _wrong_weights(folder: Path) -> None:
    save_job(folder)
    tensors = weights()
    tensors["1.bias"] = torch.tensor([1.0, 0, 0, 0])
    save_file(tensors, folder / "quarters.safetensors")


FAULTS = (
    _cache("5 bytes of finished soft labels are flipped", _flipped, "logits.npy", "is damaged"),
    _cache("half of the finished soft labels is missing", _truncated, "logits.npy", "is damaged"),
    _cache("the manifest of finished soft labels is empty", _empty, "manifest.json", "is damaged"),
    _partial("5 bytes of unfinished soft labels are flipped", _flipped, "logits.npy", "is damaged"),
    _partial("half of unfinished soft labels is missing", _truncated, "logits.npy", "is damaged"),
    _partial("the checksums of unfinished soft labels are empty", _empty, "done.npy", "is damaged"),
    Fault("cache", "soft labels of another order, with a hash that matches", save_job, f"{SOFT_LABELS} --run-dir again", 0, "holds other answers than this teacher gives now", before=(SOFT_LABELS, _verified)),
    Fault("cache", "the teacher's weights are repaired", _wrong_weights, SOFT_LABELS, 0, "soft_labels: done", before=(SOFT_LABELS, _another_teacher)),
    Fault("cache", "a module that the teacher's module imports is repaired", _reversed, SOFT_LABELS, 0, "soft_labels: done", before=(SOFT_LABELS, _repaired)),
    Fault("cache", "--from soft_labels makes them again", save_job, f"{SOFT_LABELS} --from soft_labels", 0, "soft labels", before=(SOFT_LABELS,)),
    _checkpoint("5 bytes of a training's checkpoint are flipped", _flipped, "damaged"),
    _checkpoint("half of a training's checkpoint is missing", _truncated, "damaged"),
    _checkpoint("a training's checkpoint is empty", _empty, "damaged"),
    _run_file("5 bytes of the student's weights are flipped", "runs/faults/student/student.safetensors", _flipped, 0, "distill: done"),
    _run_file("the manifest of a run is half a file", MANIFEST, _truncated, 2, "manifest.json"),
    _run_file("the manifest of a run is empty", MANIFEST, _empty, 2, "manifest.json"),
)  # fmt: skip
