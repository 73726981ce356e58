"""Soft labels of detectors: the best cells are kept, and the rest is its mean."""

from pathlib import Path

import numpy as np
import torch

from edgedistill.distill.cache import Cache
from edgedistill.distill.cells import cell_deviation, pack_cells, unpack_cells
from edgedistill.distill.soft_labels import SoftLabels, store_soft_labels

CLASSES, CELLS, VALUES = 3, 50, 3 + 32
TEACHER = torch.from_numpy(np.random.default_rng(0).normal(size=(4, CELLS, VALUES)).astype(np.float32))


def test_the_best_cells_keep_their_values_and_the_others_their_mean() -> None:
    whole = unpack_cells(pack_cells(TEACHER, CLASSES, 10), CELLS)
    best = TEACHER[..., :CLASSES].amax(2).argsort(1, descending=True)
    for image in range(4):
        kept, rest = best[image, :10], best[image, 10:]
        torch.testing.assert_close(whole[image, kept], TEACHER[image, kept], atol=2e-3, rtol=1e-3)
        mean = TEACHER[image, rest].mean(0).expand(len(rest), -1)
        torch.testing.assert_close(whole[image, rest], mean, atol=2e-3, rtol=1e-3)


def test_more_cells_than_there_are_keep_everything() -> None:
    entries = pack_cells(TEACHER, CLASSES, 1000)
    torch.testing.assert_close(unpack_cells(entries, CELLS), TEACHER, atol=2e-3, rtol=1e-3)
    assert cell_deviation(TEACHER, entries) < 2e-3
    assert cell_deviation(TEACHER + 1, entries) > 0.9


def test_a_cache_of_cells_is_a_small_part_of_all(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "f", (1, 4, CELLS, VALUES), 5, CLASSES)
    path = store_soft_labels(cache, TEACHER.numpy()[None])
    kept = np.load(path, mmap_mode="r")
    assert kept.nbytes < 0.15 * TEACHER.numel() * 2
    found = SoftLabels(kept, cells=CELLS).take(np.array([2, 0]), np.array([0, 0]), {}).logits
    torch.testing.assert_close(found, unpack_cells(pack_cells(TEACHER[[2, 0]], CLASSES, 5), CELLS))
