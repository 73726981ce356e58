"""Sentence embedding: vectors of sentences, learnt from the teacher; the metric is Spearman's correlation on pairs.

A label is (number of the pair, score of the pair); a pair are the two samples of one number. A score that is not known is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from edgedistill.errors import ConfigError
from edgedistill.tasks.embedding import Embedding
from edgedistill.tasks.task import Array, Labels

FEWEST = 3
"""The fewest pairs with scores that a correlation is computed from."""


class SentenceEmbedding(Embedding):
    """The task of placing sentences of similar meaning in similar directions."""

    name: ClassVar[str] = "sentence-embedding"
    metric: ClassVar[str] = "spearman"
    metric_title: ClassVar[str] = "Spearman correlation"
    scores_pairs: ClassVar[bool] = True

    def names(self, labels: Sequence[Labels], given: tuple[str, ...] | None, dimensions: int | None) -> tuple[str, ...]:
        """Return numbers as the names of the values; validation and test sets need pairs with scores."""
        splits = {one.split for one in labels}
        for one in labels:
            if one.split == "train" and splits >= {"val", "test"}:
                continue  # otherwise validation or test pairs are split from it
            if one.values.ndim != 2 or one.values.shape[1] != 2 or len(_pairs(one.values).scores) < FEWEST:
                raise ConfigError(
                    f"data.{one.split}: task 'sentence-embedding' is judged on pairs with scores; name two columns as text and one as "
                    "score, or set task = 'embedding' to compare with the teacher's outputs"
                )
        names = given or tuple(str(number) for number in range(dimensions or 0))
        if len(names) != dimensions:
            raise ConfigError(f"data.classes: {len(names)} names, but embeddings have {dimensions} values")
        return names

    def collate(self, labels: Array) -> Array:
        """Return (N, 2), float32."""
        return labels.astype(np.float32)

    def label_scale(self, labels: Array) -> tuple[Array, Array] | None:  # noqa: ARG002 - the protocol's signature
        """Return None: labels are scores of pairs."""
        return None

    def units(self, labels: Array) -> Array:
        """Return the number of each sample's pair."""
        return labels[:, 0].astype(np.int64)

    def require_scorable(self, split: str, labels: Array) -> None:
        """Raise ConfigError for fewer pairs with scores than a correlation is computed from."""
        count = len(_pairs(labels).scores)
        if count < FEWEST:
            raise ConfigError(
                f"data.{split}: has {count} pairs with scores, and the metric needs {FEWEST}; raise data.{split}_fraction, or set "
                f"data.{split}"
            )

    def score(self, answers: Array, labels: Array) -> float:
        """Return Spearman's rank correlation of the cosines of pairs with their scores; 0 if either is constant."""
        from scipy.stats import rankdata

        pairs = _pairs(labels)
        if len(pairs.scores) < FEWEST:
            return 0.0
        first, second = (answers[rows].astype(np.float64) for rows in (pairs.first, pairs.second))
        lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        cosines = (first * second).sum(1) / np.where(lengths > 0, lengths, 1)
        ours, theirs = (ranks - ranks.mean() for ranks in (rankdata(cosines), rankdata(pairs.scores)))
        spread = float(np.sqrt((ours**2).sum() * (theirs**2).sum()))
        return float((ours * theirs).sum()) / spread if spread else 0.0

    def agreement(self, answers: Array, reference: Array) -> float:
        """Return the mean cosine similarity to the other model's outputs."""
        return Embedding.score(self, answers, reference)

    def match_outputs(self, outputs: Array, labels: Array) -> Array:  # noqa: ARG002 - the protocol's signature
        """Return the outputs in their order: scores say nothing about single values."""
        return np.arange(outputs.shape[1])


class _Pairs(NamedTuple):
    """The rows of both samples of each pair with a score, and the scores."""

    first: Array
    second: Array
    scores: Array


def _pairs(labels: Array) -> _Pairs:
    """Return the pairs of which both samples are there, and which have a score."""
    order = np.argsort(labels[:, 0], kind="stable")
    same = np.flatnonzero(labels[order[1:], 0] == labels[order[:-1], 0])
    first, second = order[same], order[same + 1]
    known = ~np.isnan(labels[first, 1])
    return _Pairs(first[known], second[known], labels[first[known], 1])


TASK = SentenceEmbedding()
