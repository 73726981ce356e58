"""What a model is for: one metric per task, of which 1 is perfect, for choosing epochs, for parity and for reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, NamedTuple

import numpy as np

from edgedistill.data.sources import Array

TaskName = Literal["classification", "regression", "embedding"]


class Task(NamedTuple):
    """A metric's name in measurements, its name for people, and the metric of outputs (N, D) and labels."""

    metric: str
    shown: str
    score: Callable[[Array, Array], float]


def top1(outputs: Array, labels: Array) -> float:
    """Return the fraction of samples whose largest output (N, classes) is that of their label (N,)."""
    return float((outputs.argmax(1) == labels).mean())


def r2(outputs: Array, labels: Array) -> float:
    """Return 1 - squared error / variance of the labels (N, D), averaged over the D values.

    A value that does not vary counts as 1 where it is met exactly and as 0 otherwise, as scikit-learn's r2_score has it.
    """
    wanted = labels.reshape(len(labels), -1).astype(np.float64)
    error = ((outputs.reshape(wanted.shape) - wanted) ** 2).sum(0)
    variance = ((wanted - wanted.mean(0)) ** 2).sum(0)
    varies = variance > 0
    return float(np.where(varies, 1 - error / np.where(varies, variance, 1), error == 0).mean())


def cosine(outputs: Array, labels: Array) -> float:
    """Return the mean cosine of outputs and labels (N, D); 0 for a vector of length 0."""
    ours, theirs = (x.reshape(len(labels), -1).astype(np.float64) for x in (outputs, labels))
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(((ours * theirs).sum(1) / np.where(lengths > 0, lengths, 1)).mean())


TASKS: Final[dict[TaskName, Task]] = {
    "classification": Task("top1", "accuracy", top1),
    "regression": Task("r2", "R²", r2),
    "embedding": Task("cosine", "cosine", cosine),
}


def agreement_of(task: TaskName, outputs: Array, reference: Array) -> float:
    """Return the task's metric of a model's outputs (N, D) with another model's outputs for labels."""
    labels = reference.argmax(1) if task == "classification" else reference
    return TASKS[task].score(outputs, labels)
