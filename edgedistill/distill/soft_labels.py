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


def build_soft_labels(
    folder: Path, fingerprint: str, predict: Predict, views: Views, count: int, classes: int, report: Reporter
) -> Path:
    """Fill the cache in `folder` with the logits of `count` views and return its logits.npy.

    What an interrupted call under the same fingerprint had done is kept. Raises EdgedistillError for logits that are not
    finite or do not fit float16, and for a teacher of other classes.
    """
    positions = np.arange(len(views.split))
    logits, done = _open(folder, fingerprint, (count, len(positions), classes))
    blocks = [positions[i : i + BATCH] for i in range(0, len(positions), BATCH)]
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
    return folder / "logits.npy"


def store_soft_labels(folder: Path, fingerprint: str, logits: Array) -> Path:
    """Keep recorded logits (views, samples, classes) as a finished cache and return its logits.npy."""
    for view in logits:
        _check(view, logits.shape[1], logits.shape[2])
    kept, done = _open(folder, fingerprint, (logits.shape[0], logits.shape[1], logits.shape[2]))
    kept[:], done[:] = logits, True
    kept.flush()
    done.flush()
    return folder / "logits.npy"


def _open(folder: Path, fingerprint: str, shape: tuple[int, int, int]) -> tuple[np.memmap, np.memmap]:  # type: ignore[type-arg]
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "manifest.json"
    wanted = {"schema": SCHEMA, "fingerprint": fingerprint, "shape": list(shape)}
    paths = folder / "logits.npy", folder / "done.npy"
    whole = manifest.exists() and json.loads(manifest.read_text()) == wanted and all(p.exists() for p in paths)
    mode = "r+" if whole else "w+"
    if not whole:
        write_json(manifest, wanted)
    return (
        np.lib.format.open_memmap(paths[0], mode, np.float16, shape),
        np.lib.format.open_memmap(paths[1], mode, np.bool_, shape[:2]),
    )


def _check(answer: Array, samples: int, classes: int) -> None:
    if answer.shape != (samples, classes):
        raise EdgedistillError(f"teacher: answers {answer.shape} for {samples} samples of {classes} classes")
    if not np.isfinite(answer).all() or np.abs(answer).max() > np.finfo(np.float16).max:
        raise EdgedistillError("teacher: logits are not finite, or too large for float16; check its weights and mean/std")


def load_soft_labels(path: Path) -> SoftLabels:
    """Map a finished cache's logits; small ones are read whole."""
    return SoftLabels(np.load(path, mmap_mode="r"))
