"""Training batches: shuffled by (seed, epoch), with one view per sample and epoch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, count, islice
from typing import Final, Protocol

import numpy as np
import torch

from edgedistill.data.sources import Array
from edgedistill.data.views import Views
from edgedistill.distill.training import Feed, TeacherLogits
from edgedistill.errors import ConfigError
from edgedistill.losses.batch import Batch, Tensors
from edgedistill.runtime import processes

PACK: Final = 16
"""The batches of an epoch among which texts are sorted by length."""


class TeacherAnswers(Protocol):
    """The teacher's logits, from the cache or from a running teacher."""

    def take(self, positions: Array, views: Array, inputs: Tensors) -> TeacherLogits:
        """Return the logits for samples at positions (B,) in views (B,); `inputs` (B, ...) are the model inputs of these views."""


class TrainingFeed:
    """Batches of augmented views with labels; with `view_count` 0 every epoch has new views.

    `seed` determines the order. Each process takes every `processes.world_size()`th sample of a batch. Batches have texts of similar
    length, unless some texts are unlabelled.
    """

    def __init__(
        self, views: Views, batch_size: int, teacher: TeacherAnswers | None, view_count: int, seed: int
    ) -> None:
        self.views, self.teacher, self.view_count, self.seed = views, teacher, view_count, seed
        self.batch_size = min(batch_size, len(views.split))
        if self.batch_size % processes.world_size():
            raise ConfigError(
                f"batch_size: {self.batch_size} samples cannot be shared evenly by {processes.world_size()} processes"
            )

    def __len__(self) -> int:
        """Count full batches; an incomplete batch is dropped, because batch norm needs enough samples."""
        return len(self.views.split) // self.batch_size

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of an epoch; `number` counts from 0."""
        split = self.views.split
        random = np.random.Generator(np.random.Philox(key=[self.seed, number]))
        order = mixed_order(random, split.labelled, split.unlabelled)[: len(self) * self.batch_size]
        lengths = None if split.unlabelled else self.views.lengths(order)
        if lengths is not None:
            order = order[alike_order(random, lengths, self.batch_size)]
        for i in range(len(self)):
            positions = order[i * self.batch_size : (i + 1) * self.batch_size][
                processes.rank() :: processes.world_size()
            ]
            views = (
                self.views.view_of(positions, number, self.view_count)
                if self.view_count
                else np.full_like(positions, number)
            )
            yield self._batch(positions, views)

    def _batch(self, positions: Array, views: Array) -> Batch:
        inputs = self.views.batch(positions, views)
        batch = Batch(inputs, self.views.labels(positions, views))
        if self.views.split.unlabelled:
            batch = batch._replace(is_labelled=torch.from_numpy(positions < self.views.split.labelled))
        if self.teacher is not None:
            answer = self.teacher.take(positions, views, inputs)
            batch = batch._replace(
                teacher_logits=answer.logits, teacher_classes=answer.classes, teacher_outputs=answer.others
            )
        mix = self.views.mix(positions, views)
        if mix is None:
            return batch
        partner_labels = self.views.labels(mix.partners, views)
        return batch._replace(partner_labels=partner_labels, share=torch.from_numpy(mix.shares))


class ContinuedFeed:
    """The batches of a feed, epoch after epoch, counted as epochs of `steps` batches: it trains for as many steps as a longer feed."""

    def __init__(self, feed: Feed, steps: int) -> None:
        self._feed, self._steps = feed, steps

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return self._steps

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of an epoch; `number` counts from 0."""
        first, skipped = divmod(number * self._steps, len(self._feed))
        batches = chain.from_iterable(self._feed.epoch(own) for own in count(first))
        return islice(batches, skipped, skipped + self._steps)


def alike_order(random: np.random.Generator, lengths: Array, batch_size: int) -> Array:
    """Return an order in which the texts of a batch have similar lengths (N,), so that few tokens are padding.

    PACK batches at a time are sorted by length, and then all batches are shuffled. N is a multiple of `batch_size`.
    """
    pack = PACK * batch_size
    parts = [start + np.argsort(lengths[start : start + pack], kind="stable") for start in range(0, len(lengths), pack)]
    batches = np.concatenate(parts).reshape(-1, batch_size)
    return batches[random.permutation(len(batches))].ravel()


def mixed_order(random: np.random.Generator, labelled: int, unlabelled: int) -> Array:
    """Return the positions of all samples, each once: those with labels, which come first in a split, spread evenly.

    Any stretch of the order has the share of samples with labels that the whole has, to within one sample.
    """
    known = random.permutation(labelled)
    if not unlabelled:
        return known
    others = labelled + random.permutation(unlabelled)
    places = [(np.arange(size) + 0.5) / size for size in (labelled, unlabelled)]
    return np.concatenate([known, others])[np.argsort(np.concatenate(places), kind="stable")]
