"""Batches of augmented, normalised views, addressed by (row, view)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgedistill.config import Config
from edgedistill.data.augment import Op, augment, hash_view, parse_augment
from edgedistill.data.dataset import Split
from edgedistill.data.preprocess import Preprocess
from edgedistill.data.sources import Array
from edgedistill.records import DataRecord

VIEW_STREAM = 1 << 20  # apart from the streams of augmentations, which count up from 0


@dataclass(frozen=True, slots=True)
class Views:
    """A split with its augmentation and preprocessing; without `ops` every view is the plain sample."""

    split: Split
    preprocess: Preprocess
    ops: tuple[Op, ...]
    seed: int

    def batch(self, positions: Array, views: Array) -> Tensor:
        """Return model inputs (B, ...) for positions (B,) in the split, each in its own view (B,)."""
        rows = self.split.rows[positions]
        raw = np.ascontiguousarray(self.split.inputs[rows])
        if self.ops:
            raw = augment(raw, rows, views, self.seed, self.ops)
        with torch.inference_mode(mode=False), torch.no_grad():
            x: Tensor = self.preprocess(torch.from_numpy(np.ascontiguousarray(raw)))
        return x

    def view_of(self, positions: Array, epoch: int, count: int) -> Array:
        """Return which of `count` views each sample shows in an epoch, so that an epoch mixes all views."""
        start = hash_view(self.seed, self.split.rows[positions], np.zeros_like(positions), VIEW_STREAM)
        return ((start + np.uint64(epoch)) % np.uint64(count)).astype(np.int64)


def training_views(split: Split, data: DataRecord, config: Config) -> Views:
    """Return the augmented views of a training split."""
    ops = parse_augment(config.data.augment, data.kind)
    return Views(split, Preprocess(data, config.data), ops, config.seed)


def plain_views(split: Split, data: DataRecord, config: Config) -> Views:
    """Return a split without augmentation."""
    return Views(split, Preprocess(data, config.data), (), config.seed)
