"""Regression: labels are values (N,) or (N, D); the metric is the coefficient of determination, R²."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from edgedistill.tasks.task import Array, values_of
from edgedistill.tasks.values import ValueTask


class Regression(ValueTask):
    """The task of predicting numbers of any unit."""

    name: ClassVar[str] = "regression"
    metric: ClassVar[str] = "r2"
    metric_title: ClassVar[str] = "R²"
    chance_floor: ClassVar[float] = 0.0
    has_units: ClassVar[bool] = True

    def label_scale(self, labels: Array) -> tuple[Array, Array] | None:
        """Return the mean and the standard deviation of each value, so that values of all units count alike."""
        values = values_of(labels).astype(np.float64)
        return values.mean(0), values.std(0)

    def score(self, answers: Array, labels: Array) -> float:
        """Return 1 - squared error / variance of the labels (N, D), averaged over the D values.

        A constant value scores 1 if it is predicted exactly and 0 otherwise, as in scikit-learn's r2_score.
        """
        wanted = values_of(labels).astype(np.float64)
        error = ((answers.reshape(wanted.shape) - wanted) ** 2).sum(0)
        variance = ((wanted - wanted.mean(0)) ** 2).sum(0)
        varies = variance > 0
        return float(np.where(varies, 1 - error / np.where(varies, variance, 1), error == 0).mean())

    def agreement(self, answers: Array, reference: Array) -> float:
        """Return R² with the other model's outputs as labels."""
        return self.score(answers, reference)


TASK = Regression()
