"""Batches of augmented, normalised views, addressed by (row, view), and their mixtures.

Mixup (Zhang et al. 2018) takes a sample's partner and share from the hash of (seed, sample, view), never from the batch, so
that a mixture is the same in any order, batch or process, and a teacher's answer to it can be cached. Normalised inputs
are mixed, in float32: that is the mixture of the raw ones without its rounding to their type, as normalising is affine, and
it costs a pass over numbers that are in cache. Log-mel pictures are mixed as pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from edgedistill.data.augment import Op, augment, hash_view, parse_augment, splitmix64, uniform
from edgedistill.data.dataset import Split
from edgedistill.data.preprocess import Preprocess, preprocessors
from edgedistill.data.settings import ViewSettings
from edgedistill.data.sources import Array
from edgedistill.losses.batch import Tensors
from edgedistill.records.stages import DataRecord

VIEW_STREAM = 1 << 20  # apart from the streams of augmentations, which count up from 0
MIX_STREAM = 2 << 20


class Mix(NamedTuple):
    """How samples are mixed: each with the one at `partners` (B,) in the split, of which it leaves 1 - `shares` (B,)."""

    partners: Array
    shares: Array


@dataclass(frozen=True, slots=True)
class Views:
    """A split with its augmentation and preprocessing; without `ops` every view is the plain sample.

    `preprocess` and `ops` are by input; an operation has the same random numbers for every input of a sample. `mixup` is
    the alpha of the shares' distribution, beta(alpha, alpha); 0 mixes nothing.
    """

    split: Split
    preprocess: Mapping[str, Preprocess]
    ops: Mapping[str, tuple[Op, ...]]
    seed: int
    mixup: float = 0.0

    def batch(self, positions: Array, views: Array) -> Tensors:
        """Return model inputs (B, ...) for positions (B,) in the split, each in its own view (B,)."""
        inputs, mix = self._unmixed(positions, views), self.mix(positions, views)
        if mix is None:
            return inputs
        shares, partners = torch.from_numpy(mix.shares), self._unmixed(mix.partners, views)
        return {name: _mixed(x, partners[name], shares) for name, x in inputs.items()}

    def mix(self, positions: Array, views: Array) -> Mix | None:
        """Return how the samples at positions (B,) are mixed in their views (B,); None without mixup.

        A partner is any sample of the split in its own view of that number; shares are float32.
        """
        if not self.mixup:
            return None
        from scipy.special import betaincinv

        bits = hash_view(self.seed, self.split.rows[positions], views, MIX_STREAM)
        partners = (uniform(splitmix64(bits)) * len(self.split)).astype(np.int64)
        return Mix(partners, betaincinv(self.mixup, self.mixup, uniform(bits)).astype(np.float32))

    def _unmixed(self, positions: Array, views: Array) -> Tensors:
        rows = self.split.rows[positions]
        return {name: self._input(name, values[rows], rows, views) for name, values in self.split.inputs.items()}

    def _input(self, name: str, values: Array, rows: Array, views: Array) -> Tensor:
        raw, ops = np.ascontiguousarray(values), self.ops.get(name, ())
        if ops:
            raw = augment(raw, rows, views, self.seed, ops)
        with torch.inference_mode(mode=False), torch.no_grad():
            x: Tensor = self.preprocess[name](torch.from_numpy(np.ascontiguousarray(raw)))
        return x

    def view_of(self, positions: Array, epoch: int, count: int) -> Array:
        """Return which of `count` views each sample shows in an epoch, so that an epoch mixes all views."""
        start = hash_view(self.seed, self.split.rows[positions], np.zeros_like(positions), VIEW_STREAM)
        return ((start + np.uint64(epoch)) % np.uint64(count)).astype(np.int64)


def _mixed(x: Tensor, partners: Tensor, shares: Tensor) -> Tensor:
    shares = shares.reshape(-1, *(1,) * (x.ndim - 1))
    # Not lerp: where it fuses its two roundings, that depends on a number's place in the batch.
    return x.mul_(shares).add_(partners.mul_(1 - shares))


def training_views(split: Split, record: DataRecord, settings: ViewSettings) -> Views:
    """Return the augmented views of a training split."""
    plan = parse_augment(settings.augment, record.inputs)
    return Views(split, preprocessors(record, settings), plan.ops, settings.seed, plan.mixup)


def plain_views(split: Split, record: DataRecord, settings: ViewSettings) -> Views:
    """Return a split without augmentation."""
    return Views(split, preprocessors(record, settings), {}, settings.seed)
