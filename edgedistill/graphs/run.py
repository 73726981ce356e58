"""Run an ONNX model with the reference engine, on one CPU thread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgedistill.errors import ConfigError
from edgedistill.graphs.reference import Reference

Arrays = dict[str, NDArray[np.generic]]
Requests = Mapping[str, NDArray[np.generic] | Sequence[NDArray[np.generic]]]
"""For each input R requests: an array (R, *the input's shape), or a list of arrays where shapes vary."""


class ShapeError(ConfigError):
    """An output of a model changes its shape from request to request."""


def run_onnx(model: Path | bytes, requests: Requests, *, optimise: bool = False) -> Arrays:
    """Return each output of a model for R requests, stacked as (R, *output shape).

    Args:
        model: the file or its content.
        requests: for each input, an array of shape (R, *the input's shape), or a list of arrays.
        optimise: let ONNX Runtime rewrite the graph; otherwise each node is computed as written in the file.

    Raises:
        ConfigError: ONNX Runtime refuses the model or a request, the shape of an output changes, or the inputs have different
            numbers of requests.
    """
    return stacked(list(run_each(model, requests, optimise=optimise)))


def stacked(answers: Sequence[Arrays]) -> Arrays:
    """Return the outputs of R requests as arrays (R, *output shape); raises ShapeError for an output whose shape changes."""
    for name in answers[0]:
        shapes = sorted({answer[name].shape for answer in answers})
        if len(shapes) > 1:
            raise ShapeError(
                f"the shape of output '{name}' changes from request to request ({shapes[0]}, {shapes[1]}); export the model with "
                "outputs of fixed shapes"
            )
    return {name: np.stack([answer[name] for answer in answers]) for name in answers[0]}


def run_each(model: Path | bytes, requests: Requests, *, optimise: bool = False) -> Iterator[Arrays]:
    """Yield the outputs of a model for each request; parameters and errors are those of `run_onnx`."""
    reference = Reference(model, optimise=optimise, threads=1)
    counts = {name: len(values) for name, values in requests.items()}
    if len(set(counts.values())) != 1 or not all(counts.values()):
        raise ConfigError(f"every input needs the same number of requests, at least one; there are {counts}")
    for request in range(next(iter(counts.values()))):
        yield reference.run({name: values[request] for name, values in requests.items()})


def recorded(requests: Requests) -> dict[str, NDArray[np.generic]]:
    """Return requests as arrays for a file: those of several lengths are padded with 0, and `lengths` (R,) has their lengths."""
    first = next(iter(requests.values()))
    if isinstance(first, np.ndarray) and first.dtype != object:
        return {f"input.{name}": np.asarray(values) for name, values in requests.items()}
    lengths = np.array([values.shape[-1] for values in first])
    padded = {
        f"input.{name}": np.stack([_padded(one, lengths.max()) for one in values]) for name, values in requests.items()
    }
    return padded | {"lengths": lengths}


def _padded(values: NDArray[np.generic], length: int) -> NDArray[np.generic]:
    return np.pad(values, [*[(0, 0)] * (values.ndim - 1), (0, length - values.shape[-1])])
