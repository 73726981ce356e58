"""Find the order of outputs that fits labels best, to explain a model whose outputs are in another order than the data's."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def match_classes(outputs: Array, labels: Array) -> Array:
    """Return the output (C,) for each class that makes most answers of outputs (N, C) right, each output once."""
    from scipy.optimize import linear_sum_assignment

    classes = outputs.shape[1]
    confusion = np.zeros((classes, classes))
    np.add.at(confusion, (labels, outputs.argmax(1)), 1)
    return np.asarray(linear_sum_assignment(confusion, maximize=True)[1])


def match_values(outputs: Array, labels: Array) -> Array:
    """Return the output (D,) for each value that correlates best with labels (N, D), each output once."""
    from scipy.optimize import linear_sum_assignment

    ours, theirs = (x - x.mean(0) for x in (outputs.astype(np.float64), labels.astype(np.float64)))
    lengths = np.outer(np.linalg.norm(theirs, axis=0), np.linalg.norm(ours, axis=0))
    correlation = (theirs.T @ ours) / np.where(lengths > 0, lengths, 1)
    return np.asarray(linear_sum_assignment(correlation, maximize=True)[1])
