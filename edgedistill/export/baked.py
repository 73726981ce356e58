"""[export] bake: a model with its preprocessing and scores built in, and test inputs in the form it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from edgedistill.data.dataset import Split
from edgedistill.data.kinds import kind_of
from edgedistill.data.preprocess import preprocessors
from edgedistill.data.settings import ViewSettings
from edgedistill.data.sources import Array, Arrays
from edgedistill.data.text import MASK
from edgedistill.data.views import Views, plain_views
from edgedistill.distill.predictors import batches_of
from edgedistill.models.outputs import SINGLE, named_outputs
from edgedistill.records.stages import DataRecord
from edgedistill.tasks.table import find_task

SCORES: Final = "scores"
"""The name of a single output that has scores."""


class Baking:
    """The parts that [export] bake adds to a model; `bake` are the entries of the key."""

    def __init__(self, data: DataRecord, views: ViewSettings, bake: tuple[str, ...]) -> None:
        self.data, self.views = data, views
        self.normalizes, self.scores = "normalize" in bake, "scores" in bake

    @property
    def threshold(self) -> float | None:
        """The value of the file's output above which a label counts as predicted; None without a threshold."""
        task = find_task(self.data.task)
        if task.threshold is None or not self.scores:
            return task.threshold
        return float(task.scores(np.full((1, 1), task.threshold))[0, 0])

    def agreement(self, got: Array, expected: Array, size: tuple[int, ...], values: int) -> float:
        """Return the agreement of the labelled outputs (N, ...) of two forms of a file, for inputs of a spatial `size`.

        With scores, a label applies above another value than in torch, where tasks count.
        """
        task = find_task(self.data.task)
        shift = (self.threshold or 0.0) - (task.threshold or 0.0)
        return task.agreement(*(task.answers(one - shift if shift else one, size, values) for one in (got, expected)))

    def module(self, model: nn.Module, outputs: Mapping[str, str], main: str) -> nn.Module:
        """Return the model with the baked parts; `outputs` maps its output names in torch to the names in the file."""
        score = find_task(self.data.task).score_module() if self.scores else None
        before = preprocessors(self.data, self.views) if self.normalizes else {}
        if len(self.data.inputs) == 1 and list(outputs) == [SINGLE]:
            return nn.Sequential(*before.values(), model, *([score] if score is not None else []))
        return _Baked(list(before.values()), model, score, main)

    def names(self, outputs: Mapping[str, Any]) -> dict[str, str]:
        """Map output names in torch to the names in the file: a single unnamed output is called logits or scores."""
        return {name: SCORES if self.scores and list(outputs) == [SINGLE] else name for name in outputs}

    def expected(self, outputs: Arrays, main: str) -> Arrays:
        """Return the file's expected outputs, by their names in the file, from the model's outputs in torch."""
        task, names = find_task(self.data.task), self.names(outputs)
        return {
            names[name]: task.scores(values) if self.scores and name == main else values
            for name, values in outputs.items()
        }

    def inputs(self, split: Split) -> Arrays:
        """Return a split's inputs in the form that the file takes, one request each: (N, 1, ...); texts are padded."""
        if kind_of(self.data.inputs[0]).varies:
            return {name: values[split.rows][:, None].astype(np.int64) for name, values in split.inputs.items()}
        if self.normalizes:
            return {name: np.ascontiguousarray(values[split.rows])[:, None] for name, values in split.inputs.items()}
        views = plain_views(split, self.data, self.views)
        return {name: record_input(views, name, _plain) for name in split.inputs}


def record_input(views: Views, name: str, arrange: Callable[[Tensor], Array]) -> Array:
    """Return one input of every sample of a split as a request: (N, 1, ...)."""
    arrays = [arrange(inputs[name]) for inputs in batches_of(views)]
    return np.ascontiguousarray(np.concatenate(arrays)[:, None])


def _plain(x: Tensor) -> Array:
    return np.asarray(x.numpy())


class _Baked(nn.Module):
    """A model of several inputs or outputs between its preprocessing and its scores."""

    def __init__(self, before: list[Any], model: nn.Module, score: nn.Module | None, main: str) -> None:
        super().__init__()
        self.before, self.model, self.score, self.main = nn.ModuleList(before), model, score, main

    def forward(self, *raw: Tensor) -> tuple[Tensor, ...] | Tensor:
        """Return the outputs in their order."""
        inputs = [prepare(x) for prepare, x in zip(self.before, raw, strict=True)] if len(self.before) else raw
        outputs = named_outputs(self.model(*inputs))
        if self.score is not None:
            outputs[self.main] = self.score(outputs[self.main])
        values = tuple(outputs.values())
        return values if len(values) > 1 else values[0]


def lengths_of(inputs: Arrays) -> Array:
    """Return the length (N,) of each of the padded requests of texts."""
    return np.asarray(inputs[MASK].sum((1, 2)), np.int64)


def at_their_length(inputs: Arrays) -> dict[str, list[Array]]:
    """Return padded requests of texts without their padding."""
    lengths = lengths_of(inputs)
    return {
        name: [value[:, :length] for value, length in zip(values, lengths, strict=True)]
        for name, values in inputs.items()
    }


def examples_of(inputs: Arrays) -> tuple[Tensor, ...]:
    """Return the first request of each input, to export with."""
    return tuple(torch.from_numpy(values[0]) for values in inputs.values())
