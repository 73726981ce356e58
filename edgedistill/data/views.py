"""Batches of augmented and normalised views, addressed by (row, view), with optional mixup.

Mixup (Zhang et al. 2018) takes the partner and the share of a sample from the hash of (seed, sample, view), not from the
batch: a mixture is the same in any order, batch and process, and the teacher's output for it can be cached. Mixup applies to
normalised inputs in float32. Normalisation is affine, so this equals mixing raw inputs, without rounding to their type, and
the values are still in the processor's cache. Waveforms are mixed as log-mel spectrograms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from edgedistill.data.augment import Op, augment, hash_view, parse_augment, splitmix64, uniform
from edgedistill.data.dataset import Split
from edgedistill.data.placement import Key, Placement, Pools, parts_of, place
from edgedistill.data.preprocess import Preprocess, preprocessors
from edgedistill.data.settings import ViewSettings
from edgedistill.data.sources import Array
from edgedistill.data.text import MASK
from edgedistill.data.warp import are_dense, move_boxes, warp_masks, warp_pictures
from edgedistill.losses.batch import Tensors
from edgedistill.records.stages import DataRecord

VIEW_STREAM = 1 << 20  # apart from the streams of augmentations, which count up from 0
MIX_STREAM = 2 << 20


class Mix(NamedTuple):
    """A mixture: `shares` (B,) of each sample plus 1 - `shares` of the sample at `partners` (B,) in the split."""

    partners: Array
    shares: Array


@dataclass(frozen=True, slots=True)
class Views:
    """A split with its augmentation and preprocessing; without `ops` every view is the sample itself.

    `preprocess` and `ops` are by input; an operation has the same random numbers for every input of a sample. Shares are
    drawn from beta(alpha, alpha), where alpha is `mixup`; 0 means no mixup. `moves`, by input too, place pictures before `ops`, on
    canvases of the value `padding`; labels that are masks or boxes are moved along. Texts are as long as the longest of their batch.
    """

    split: Split
    preprocess: Mapping[str, Preprocess]
    ops: Mapping[str, tuple[Op, ...]]
    seed: int
    mixup: float = 0.0
    moves: Mapping[str, tuple[Op, ...]] = field(default_factory=dict)
    padding: int = 114

    def batch(self, positions: Array, views: Array) -> Tensors:
        """Return model inputs (B, ...) for positions (B,) in the split and views (B,)."""
        inputs, mix = self._unmixed(positions, views), self.mix(positions, views)
        if mix is None:
            return inputs
        shares, partners = torch.from_numpy(mix.shares), self._unmixed(mix.partners, views)
        return {name: _mixed(x, partners[name], shares) for name, x in inputs.items()}

    def labels(self, positions: Array, views: Array) -> Tensor:
        """Return the labels (B, ...) of the samples at positions (B,) in their views (B,), in the type of the split's labels.

        Masks and boxes lie where the view shows their pixels; a view of boxes can have the boxes of four pictures.
        """
        labels = self.split.labels
        moved = next((name for name, ops in self.moves.items() if ops), None)
        if moved is None or not are_dense(labels):
            return torch.from_numpy(labels[positions])
        placement = self._placement(moved, positions, views)
        if labels.dtype == np.uint8:
            return torch.from_numpy(warp_masks(labels, placement))
        return torch.from_numpy(move_boxes(labels, placement, parts_of(self.moves[moved])))

    def mix(self, positions: Array, views: Array) -> Mix | None:
        """Return the mixture of the samples at positions (B,) in their views (B,); None without mixup.

        A partner is any sample of the split that it may be mixed with, in its view of the same number; shares are float32.
        """
        if not self.mixup:
            return None
        from scipy.special import betaincinv

        bits = hash_view(self.seed, self.split.rows[positions], views, MIX_STREAM)
        starts, sizes = self.split.pools(positions)
        partners = starts + (uniform(splitmix64(bits)) * sizes).astype(np.int64)
        return Mix(partners, betaincinv(self.mixup, self.mixup, uniform(bits)).astype(np.float32))

    def _unmixed(self, positions: Array, views: Array) -> Tensors:
        inputs = {
            name: self._input(name, self._placed(name, positions, views), self.split.rows[positions], views)
            for name in self.split.inputs
        }
        if not any(one.varies for one in self.preprocess.values()):
            return inputs
        longest = int(inputs[MASK].sum(1).max())
        return {name: values[:, :longest].contiguous() for name, values in inputs.items()}

    def _placed(self, name: str, positions: Array, views: Array) -> Array:
        """Return raw samples (B, ...) of an input, as their placements show them."""
        values = self.split.inputs[name]
        if not self.moves.get(name):
            return values[self.split.rows[positions]]
        placement = self._placement(name, positions, views)
        fill = self.padding if values.dtype == np.uint8 else 0
        return warp_pictures(values, self.split.rows[placement.positions], placement, fill)

    def _placement(self, name: str, positions: Array, views: Array) -> Placement:
        key = Key(self.seed, self.split.rows[positions], views, np.zeros_like(positions))
        shape = self.split.inputs[name].shape
        return place(self.moves[name], key, positions, Pools(*self.split.pools(positions)), (shape[1], shape[2]))

    def _input(self, name: str, raw: Array, rows: Array, views: Array) -> Tensor:
        raw, ops = np.ascontiguousarray(raw), self.ops.get(name, ())
        if ops:
            raw = augment(raw, rows, views, self.seed, ops)
        with torch.inference_mode(mode=False), torch.no_grad():
            x: Tensor = self.preprocess[name](torch.from_numpy(np.ascontiguousarray(raw)))
        return x

    def lengths(self, positions: Array) -> Array | None:
        """Return the number of tokens of the samples at positions (B,); None if all samples have the same shape."""
        if not any(one.varies for one in self.preprocess.values()):
            return None
        found: Array = self.split.inputs[MASK][self.split.rows[positions]].sum(1)
        return found

    def view_of(self, positions: Array, epoch: int, count: int) -> Array:
        """Return the view of each sample in an epoch, out of `count` views; one epoch contains all views."""
        start = hash_view(self.seed, self.split.rows[positions], np.zeros_like(positions), VIEW_STREAM)
        return ((start + np.uint64(epoch)) % np.uint64(count)).astype(np.int64)


def _mixed(x: Tensor, partners: Tensor, shares: Tensor) -> Tensor:
    shares = shares.reshape(-1, *(1,) * (x.ndim - 1))
    # Not lerp, whose rounding depends on the position of a number in the batch.
    return x.mul_(shares).add_(partners.mul_(1 - shares))


def training_views(split: Split, record: DataRecord, settings: ViewSettings) -> Views:
    """Return the augmented views of a training split."""
    plan = parse_augment(settings.augment, record.inputs, is_dense=are_dense(split.labels))
    return Views(
        split, preprocessors(record, settings), plan.ops, settings.seed, plan.mixup, plan.moves, settings.padding
    )


def plain_views(split: Split, record: DataRecord, settings: ViewSettings) -> Views:
    """Return a split without augmentation."""
    return Views(split, preprocessors(record, settings), {}, settings.seed)
