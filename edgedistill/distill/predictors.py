"""Running a model over a split: batched, without gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from edgedistill.data.dataset import Split
from edgedistill.data.kinds import kind_of
from edgedistill.data.sources import Array
from edgedistill.data.views import Views, plain_views
from edgedistill.distill.bfloat16 import autocast
from edgedistill.distill.settings import LearningSettings
from edgedistill.errors import ConfigError
from edgedistill.graphs import reference
from edgedistill.graphs.read import check_onnx
from edgedistill.graphs.reference import RefusedError, run_session
from edgedistill.losses.batch import Tensors
from edgedistill.models.interface import Interface
from edgedistill.models.outputs import labelled_names, main_name, run
from edgedistill.records.stages import InputRecord
from edgedistill.tasks.chance import Problem, find_problem
from edgedistill.tasks.table import find_task
from edgedistill.tasks.task import Task

Predict = Callable[[Tensors], Tensors]
"""From model inputs (B, ...) by name to outputs (B, ...) by name, float32."""
BATCH = 256
"""The most samples that a model answers at once."""
ANSWERS = "answers"
"""The output of a teacher that gives answers, such as detections, in place of the labelled output."""
TEXTS = 32
"""The most texts that a model answers at once: all are padded to the longest of them."""
VALUES = 1 << 23
"""About the most input values that a model answers at once: 53 images of 224 pixels, whose activations fit in memory."""


class Answer(NamedTuple):
    """A model's output for the labels (B, D), and its other outputs by name."""

    main: Tensor
    others: Tensors


def split_outputs(outputs: Tensors, wanted: str | None) -> Answer:
    """Split outputs into the labelled output and the others; `wanted` is the key [data] output.

    Outputs that `wanted` joins, as in "a+b", are put side by side along their last axis. Answers take the place of the labelled
    output.
    """
    if ANSWERS in outputs:
        return Answer(outputs[ANSWERS], {})
    names = labelled_names(tuple(outputs), wanted)
    main = outputs[names[0]] if len(names) == 1 else torch.cat([outputs[name] for name in names], -1)
    return Answer(main, {name: value for name, value in outputs.items() if name not in names})


def labelled_shape(model: nn.Module, views: Views, wanted: str | None) -> tuple[int, ...]:
    """Return the shape of a torch model's labelled output for a sample."""
    first = np.zeros(1, np.int64)
    with torch.no_grad():
        return tuple(split_outputs(run(model.eval(), views.batch(first, first)), wanted).main.shape[1:])


@dataclass(frozen=True, slots=True)
class Scorer:
    """The metric of a task on a split; all models are scored by this class. `values` is the number of classes or values."""

    task: Task
    views: Views
    output: str | None
    values: int

    def answers(self, predict: Predict) -> Array:
        """Return the answers (N, ...) of a model for every sample, without augmentation."""
        places, batches = alike_batches(self.views)
        return np.concatenate([self.answers_in(predict(inputs)) for inputs in batches])[places]

    def answers_in(self, outputs: Mapping[str, Tensor | Array]) -> Array:
        """Return the answers in the outputs (B, ...) of a model."""
        if ANSWERS in outputs:
            return np.asarray(outputs[ANSWERS])
        main = split_outputs({name: torch.as_tensor(value) for name, value in outputs.items()}, self.output).main
        return self.task.answers(main.numpy(), spatial_size(self.views), self.values)

    def score(self, predict: Predict) -> float:
        """Return the metric of a model."""
        return self.score_answers(self.answers(predict))

    def score_answers(self, answers: Array) -> float:
        """Return the metric of answers (N, ...)."""
        return self.task.score(answers, self.views.split.labels)

    def problem(self, predict: Predict) -> Problem | None:
        """Return what is wrong with the answers of a model, or None."""
        return find_problem(self.task, self.answers(predict), self.views.split.labels)


def scorer_of(settings: LearningSettings, split: Split) -> Scorer:
    """Return the scorer of a split, without augmentation."""
    views = plain_views(split, settings.data, settings.views)
    return Scorer(settings.task, views, settings.data.output, settings.interface.values)


def torch_predictor(model: nn.Module, precision: str) -> Predict:
    """Return a torch model as a function from inputs to float32 outputs, both on the CPU; `precision` can be bfloat16.

    It computes on the device on which its weights are.
    """
    device = next((one.device for one in chain(model.parameters(), model.buffers())), torch.device("cpu"))

    def predict(inputs: Tensors) -> Tensors:
        model.eval()
        with torch.no_grad(), autocast(device, precision):
            outputs = run(model, {name: value.to(device) for name, value in inputs.items()})
        return {name: value.float().cpu() for name, value in outputs.items()}

    return predict


def onnx_predictor(path: Path, interface: Interface) -> Predict:
    """Return an ONNX file as a function from inputs to outputs, run by ONNX Runtime; its inputs can be channels first or last.

    Raises ConfigError if the model does not take this data or does not return one value per class.
    """
    session = open_session(path)
    feeds = onnx_feeds(path, session, interface)
    names = [output.name for output in session.get_outputs()]
    _check_answer(path, session, interface)

    def predict(inputs: Tensors) -> Tensors:
        arrays = {feed.entry: feed.arrange(inputs[feed.input]) for feed in feeds}
        count = len(next(iter(arrays.values())))
        size = next((feed.batch for feed in feeds if feed.batch is not None), count)
        missing = -count % size  # a fixed batch is filled up with copies of the last sample
        filled = {name: np.concatenate([x, np.repeat(x[-1:], missing, 0)]) for name, x in arrays.items()}
        starts = range(0, count + missing, size)
        try:
            answers = [
                run_session(session, names, {name: x[i : i + size] for name, x in filled.items()}) for i in starts
            ]
        except RefusedError as error:
            raise ConfigError(
                f"teacher {path.name}: fails on a batch of {size} samples in ONNX Runtime: {error}; export it for batches of any size"
            ) from None
        columns = (np.concatenate(column)[:count] for column in zip(*answers, strict=True))
        return {name: torch.from_numpy(column).float() for name, column in zip(names, columns, strict=True)}

    return predict


class OnnxInputFeed(NamedTuple):
    """The mapping of a data input to an ONNX input: names, layout, and the fixed batch size or None."""

    input: str
    entry: str
    arrange: Callable[[Tensor], Array]
    batch: int | None


def onnx_feeds(path: Path, session: Any, interface: Interface) -> list[OnnxInputFeed]:
    """Map the inputs of an ONNX model to the inputs of the data, by name if there are several."""
    entries = {entry.name: entry for entry in session.get_inputs()}
    if len(entries) != len(interface.inputs):
        raise ConfigError(
            f"teacher {path.name}: has {len(entries)} inputs ({', '.join(entries)}); the data has {len(interface.inputs)}"
        )
    named = {one.name: one for one in interface.inputs}
    if len(entries) == 1:
        named = {next(iter(entries)): interface.first}
    feeds = []
    for name, entry in entries.items():
        if name not in named:
            raise ConfigError(f"teacher {path.name}: has an input '{name}'; the data has {', '.join(named)}")
        arrange = input_arrangement(path, entry.shape, entry.type, named[name])
        batch = entry.shape[0] if isinstance(entry.shape[0], int) else None
        feeds.append(OnnxInputFeed(named[name].name, name, arrange, batch))
    return feeds


def _check_answer(path: Path, session: Any, interface: Interface) -> None:
    outputs = {output.name: output.shape for output in session.get_outputs()}
    answer = outputs[main_name(tuple(outputs), interface.output, f"teacher {path.name}")]
    axes = 4 if find_task(interface.task).is_dense else 2
    if len(answer) != axes or (isinstance(answer[1], int) and answer[1] != interface.values):
        places = ", height, width" if axes == 4 else ""
        raise ConfigError(f"teacher {path.name}: outputs {answer}; expected logits (N, {interface.values}{places})")


def open_session(path: Path) -> Any:
    """Open a teacher's ONNX file on the CPU; raises ConfigError for an incomplete file, or with ONNX Runtime's reason."""
    try:
        check_onnx(path)
    except ConfigError as error:
        raise ConfigError(f"teacher {error}") from None
    try:
        return reference.open_session(path)
    except RefusedError as error:
        raise ConfigError(f"teacher {path.name}: ONNX Runtime cannot load it: {error}") from None


def input_arrangement(path: Path, shape: list[Any], dtype: str, one: InputRecord) -> Callable[[Tensor], Array]:
    """Return the function that converts a batch to the layout of an ONNX input of this shape and type."""
    sizes = [size if isinstance(size, int) else None for size in shape]
    first = kind_of(one).model_shape(one.shape)
    last = (*first[1:], first[0])
    if len(sizes) == len(first) + 1 and all(s in (None, want) for s, want in zip(sizes[1:], first, strict=True)):
        cast = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
        if dtype in cast:
            return lambda x: x.numpy().astype(cast[dtype], copy=False)
    fits = len(sizes) == len(last) + 1 and all(s in (None, want) for s, want in zip(sizes[1:], last, strict=True))
    if fits and dtype == "tensor(float)":
        return lambda x: np.ascontiguousarray(x.movedim(1, -1).numpy())
    raise ConfigError(
        f"teacher {path.name}: takes {dtype} of shape {shape}, but this data is float (N, {', '.join(map(str, first))})"
    )


def predict_all(predict: Predict, views: Views) -> dict[str, Array]:
    """Return all outputs (N, ...), float32, for every sample of a split, without augmentation."""
    places, batches = alike_batches(views)
    answers = [predict(inputs) for inputs in batches]
    return {name: np.concatenate([answer[name].numpy() for answer in answers])[places] for name in answers[0]}


def batches_of(views: Views, positions: Array | None = None, view: int = 0) -> Iterator[Tensors]:
    """Yield the inputs of samples at `positions` in a view, or of all samples, in batches that fit in memory."""
    places = np.arange(len(views.split)) if positions is None else positions
    size = batch_size(views)
    for start in range(0, len(places), size):
        block = places[start : start + size]
        yield views.batch(block, np.full_like(block, view))


def alike_batches(
    views: Views, positions: Array | None = None, view: int = 0
) -> tuple[Array | slice, Iterator[Tensors]]:
    """Return the samples of `batches_of` in batches of similar length, so that few tokens are padding, and their places there."""
    every = np.arange(len(views.split)) if positions is None else positions
    lengths = views.lengths(every)
    if lengths is None:
        return slice(None), batches_of(views, every, view)
    order = np.argsort(lengths, kind="stable")
    return np.argsort(order), batches_of(views, every[order], view)


def ask_in_batches(ask: Callable[[Tensors], Answer], views: Views, positions: Array, view: int) -> Answer:
    """Return a teacher's outputs for the samples at positions (B,) in a view, asked in batches that fit in memory."""
    places, batches = alike_batches(views, positions, view)
    answers = [ask(inputs) for inputs in batches]
    others = {name: torch.cat([answer.others[name] for answer in answers])[places] for name in answers[0].others}
    return Answer(torch.cat([answer.main for answer in answers])[places], others)


def batch_size(views: Views) -> int:
    """Return the number of samples that a model answers at once: BATCH, or fewer of large inputs."""
    values = sum(math.prod(one.shape[1:]) for one in views.split.inputs.values())
    most = TEXTS if any(one.varies for one in views.preprocess.values()) else BATCH
    return max(1, min(most, VALUES // values))


def spatial_size(views: Views) -> tuple[int, ...]:
    """Return the height and width of images, or the steps of signals, of the first input."""
    return tuple(next(iter(views.split.inputs.values())).shape[1:3])


def mean_predictor(
    asks: Sequence[Callable[[Tensors], Answer]], weights: Sequence[float]
) -> Callable[[Tensors], Answer]:
    """Return a function for the weighted mean of several teachers; weights are normalised to sum 1.

    Other outputs are averaged if every teacher has them in one shape.
    """
    if len(asks) == 1:
        return asks[0]
    shares = [weight / sum(weights) for weight in weights]

    def ask(inputs: Tensors) -> Answer:
        answers = [one(inputs) for one in asks]
        common = [name for name in answers[0].others if len({_shape_of(answer, name) for answer in answers}) == 1]
        others = {name: _mean([answer.others[name] for answer in answers], shares) for name in common}
        return Answer(_mean([answer.main for answer in answers], shares), others)

    return ask


def _shape_of(answer: Answer, name: str) -> torch.Size | None:
    """Return the shape of another output of a teacher, or None if it has none of this name."""
    return answer.others[name].shape if name in answer.others else None


def _mean(values: list[Tensor], shares: list[float]) -> Tensor:
    return torch.stack([share * value for share, value in zip(shares, values, strict=True)]).sum(0)
