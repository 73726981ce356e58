"""The teacher's logits for every augmented view, computed once and kept on disk.

A cache is a folder named after its fingerprint: `manifest.json`, `logits.npy` (views, samples, classes) in float16, raw,
so that any temperature and loss can use them, and `done.npy`, the bitmap from which an interrupted cache goes on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgedistill.data.sources import Array
from edgedistill.data.views import Views
from edgedistill.distill.predictors import BATCH, Predict
from edgedistill.errors import EdgedistillError
from edgedistill.progress import Reporter
from edgedistill.runs import write_json

SCHEMA = "edgedistill.soft_labels/1"


@dataclass(frozen=True, slots=True)
class SoftLabels:
    """Logits (views, samples, classes) in float16, samples in the order of the training split."""

    logits: Array

    def take(self, positions: Array, views: Array, _: Tensor) -> Tensor:
        """Return the logits (B, classes) of samples in their views."""
        return torch.from_numpy(np.ascontiguousarray(self.logits[views, positions]).astype(np.float32))


@dataclass(frozen=True, slots=True)
class OnlineTeacher:
    """A teacher asked anew for every batch; for views that are never seen twice."""

    predict: Predict

    def take(self, _: Array, __: Array, inputs: Tensor) -> Tensor:
        """Return the teacher's logits (B, classes) for the inputs."""
        return self.predict(inputs)


@dataclass(frozen=True, slots=True)
class Cache:
    """Where a cache lies, what it is of, and its shape (views, samples, classes)."""

    folder: Path
    fingerprint: str
    shape: tuple[int, int, int]

    def open(self) -> tuple[np.memmap, np.memmap]:
        """Map logits and bitmap for writing; what an earlier call under the same fingerprint wrote is kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        manifest = self.folder / "manifest.json"
        wanted = {"schema": SCHEMA, "fingerprint": self.fingerprint, "shape": list(self.shape)}
        paths = self.folder / "logits.npy", self.folder / "done.npy"
        whole = manifest.exists() and json.loads(manifest.read_text()) == wanted and all(p.exists() for p in paths)
        maps = tuple(
            np.lib.format.open_memmap(path, "r+" if whole else "w+", dtype, shape)
            for path, dtype, shape in zip(paths, (np.float16, np.bool_), (self.shape, self.shape[:2]), strict=True)
        )
        if not whole:
            write_json(manifest, wanted)  # last, so that a manifest stands for two files of the right shape
        return maps[0], maps[1]


def build_soft_labels(cache: Cache, predict: Predict, views: Views, report: Reporter) -> Path:
    """Fill a cache with a teacher's logits of augmented views and return its logits.npy.

    What an interrupted call had done is kept. Raises EdgedistillError for logits that are not finite or do not fit
    float16, and for a teacher of other classes.
    """
    logits, done = cache.open()
    count, samples, classes = cache.shape
    positions = np.arange(samples)
    blocks = [positions[i : i + BATCH] for i in range(0, samples, BATCH)]
    with report.track("soft labels", count * len(blocks)) as advance:
        for view in range(count):
            for block in blocks:
                if not done[view, block].all():
                    answer = predict(views.batch(block, np.full_like(block, view))).numpy()
                    _check(answer, len(block), classes)
                    logits[view, block] = answer
                    logits.flush()
                    done[view, block] = True  # after the logits are on disk, so that a kill cannot mark what is not
                    done.flush()
                advance(1, f"view {view + 1} of {count}")
    return cache.folder / "logits.npy"


def store_soft_labels(cache: Cache, logits: Array) -> Path:
    """Keep recorded logits (views, samples, classes) as a finished cache and return its logits.npy."""
    for view in logits:
        _check(view, *cache.shape[1:])
    kept, done = cache.open()
    kept[:], done[:] = logits, True
    kept.flush()
    return cache.folder / "logits.npy"


def _check(answer: Array, samples: int, classes: int) -> None:
    if answer.shape != (samples, classes):
        raise EdgedistillError(f"teacher: answers {answer.shape} for {samples} samples of {classes} classes")
    if not np.isfinite(answer).all() or np.abs(answer).max() > np.finfo(np.float16).max:
        raise EdgedistillError(
            "teacher: logits are not finite, or too large for float16; check its weights and mean/std"
        )


def load_soft_labels(path: Path) -> SoftLabels:
    """Map a finished cache's logits; small ones are read whole."""
    return SoftLabels(np.load(path, mmap_mode="r"))
