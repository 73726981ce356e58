"""Embedding: labels are vectors (N, D) or, without labels, the teacher's outputs; the metric is the cosine similarity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from edgedistill.errors import ConfigError
from edgedistill.tasks.task import Array, Labels, values_of
from edgedistill.tasks.values import ValueTask


class Embedding(ValueTask):
    """The task of predicting the direction of vectors."""

    name: ClassVar[str] = "embedding"
    metric: ClassVar[str] = "cosine"
    metric_title: ClassVar[str] = "cosine"
    needs_labels: ClassVar[bool] = False

    def names(self, labels: Sequence[Labels], given: tuple[str, ...] | None, dimensions: int | None) -> tuple[str, ...]:
        """Return the names of the D values; D is at least 2."""
        names = super().names(labels, given, dimensions)
        if len(names) < 2:
            raise ConfigError(
                "data.task: an embedding needs vectors (N, D) as labels; for one value use task = 'regression'"
            )
        return names

    def label_scale(self, labels: Array) -> tuple[Array, Array] | None:
        """Return the mean of each value, and one deviation for all: another scale of each would change the directions that count."""
        values = values_of(labels).astype(np.float64)
        mean = values.mean(0)
        return mean, np.full(len(mean), np.sqrt(((values - mean) ** 2).mean()))

    def score(self, answers: Array, labels: Array) -> float:
        """Return the mean cosine similarity of outputs and labels (N, D); 0 for a vector of length 0."""
        ours, theirs = (values_of(x).astype(np.float64) for x in (answers, labels))
        lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        return float(((ours * theirs).sum(1) / np.where(lengths > 0, lengths, 1)).mean())

    def agreement(self, answers: Array, reference: Array) -> float:
        """Return the mean cosine similarity to the other model's outputs."""
        return self.score(answers, reference)


TASK = Embedding()
