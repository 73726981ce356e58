"""Errors of a model's outputs, channel by channel: what one channel lost does not show in a sum over all channels.

The error of an output or a channel is the squared error over the variance: 0 for equal values, 1 for a constant at the mean.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import numpy as np
import onnx

from edgedistill.data.sources import Array
from edgedistill.errors import ParityError
from edgedistill.export.file_records import SHOWN, OutputError, largest, part_loss, worst_output
from edgedistill.export.parity import LARGEST, comparable_values, squared_error
from edgedistill.graphs.index import Index
from edgedistill.graphs.operators import RESHAPES
from edgedistill.statistics import ClassDrop

LOST: Final = 0.5
"""The error from which a channel has lost what it is for."""
MOST_CHANNELS: Final = 4096
"""The largest number of channels that are told apart."""
STILL: Final = 1e-4
"""A channel whose standard deviation is below this fraction of its largest magnitude does not vary."""
LEAST_PROBABILITY: Final = 0.05
"""A probability that varies by less than this decides nothing; its channel is not judged."""
PROBABILITIES: Final = frozenset({"HardSigmoid", "Sigmoid", "Softmax"})
CLASSES: Final = frozenset({"LogSoftmax", "Softmax"})
"""Operators whose result has a score for each of several classes, of which one is right."""


def output_error(mine: Array, wanted: Array, *, probabilities: bool = False) -> OutputError:
    """Compare an output (R, *shape) of a model with the original model's, and find the channel with the largest error.

    A channel that does not vary is not judged, nor a probability that varies little; integers and empty outputs have no channels.
    """
    error, axis = squared_error(mine, wanted), channel_axis(wanted.shape)
    if wanted.dtype.kind != "f" or not wanted.size:
        return OutputError(error=error, axis=axis, channels=1)
    ours, theirs = (_by_channel(one, axis) for one in comparable_values(mine, wanted))
    spread = theirs.std(1)
    judged = spread > STILL * np.abs(theirs).max(1)
    if probabilities:
        judged &= np.ptp(theirs, 1) >= LEAST_PROBABILITY
    wrong = ((ours - theirs) ** 2).mean(1)
    errors = np.nan_to_num(np.where(judged, wrong / np.where(judged, spread**2, 1), 0), nan=LARGEST)
    worst = int(errors.argmax())
    return OutputError(
        error=error, axis=axis, channels=len(errors), channel=worst, channel_error=float(errors[worst]),
        constant=bool(judged[worst] and np.ptp(ours[worst]) == 0), lost=int((errors >= LOST).sum()),
    )  # fmt: skip


def require_kept(name: str, outputs: dict[str, OutputError], layer: str | None, sensitivity: dict[str, float]) -> None:
    """Raise ParityError if a channel of an output lost what it is for.

    Args:
        name: the name of the file.
        outputs: the errors of the outputs to judge, by name.
        layer: the layer nearest before the output with the largest error of a channel, to skip if no ranking is known.
        sensitivity: the error with only one layer in int8, for each layer, the largest first.
    """
    lost = {output: found for output, found in outputs.items() if found.lost}
    if not lost:
        return
    output = worst_output(lost)
    found, rank = lost[output], largest(sensitivity)
    alone = [name for name, error in sensitivity.items() if error >= LOST][:SHOWN] or ([layer] if layer else [])
    skip = f"leave in float what loses it with {' '.join(f'--skip {one}' for one in alone)}, or " if alone else ""
    raise ParityError(
        f"{name}: int8 loses {found.where(output)}: {found.loss()}"
        f"{f'; {found.lost} channels of this output are lost' if found.lost > 1 else ''}"
        f"{f'; largest errors with a single layer in int8: {rank}' if rank else ''}"
        f"; the file is not written: {skip}write it all the same with --force"
    )


def require_part(name: str, part: str, worst: ClassDrop | None, limit: float | None) -> None:
    """Raise ParityError if the worst `part` ("class" or "slice") of a file certainly lost more than `limit` points of accuracy.

    Few samples make an interval wide, and then nothing is certain.
    """
    if worst is not None and limit is not None and worst.ci95_points[0] > limit:
        raise ParityError(
            f"{name}: int8 loses more than {limit:g} points of {part} {worst.name}: {part_loss(worst)}; the file is not written: "
            "leave sensitive layers in float with --skip NODE, raise --max-class-drop, or write it all the same with --force"
        )


def channel_axis(shape: tuple[int, ...]) -> int:
    """Return the axis of the channels in an output of `shape`, (R, *the output's shape), as an axis of the output.

    It is the last axis of up to two dimensions, the shorter axis of three, axis 1 of more (NCHW), and the last one of NHWC.
    """
    output = shape[1:]
    last = max(len(output) - 1, 0)
    if len(output) < 3 or (len(output) == 3 and output[2] <= output[1]):
        return last
    is_nhwc = len(output) == 4 and output[1] == output[2] != output[3]
    return last if is_nhwc else 1


def _by_channel(array: Array, axis: int) -> Array:
    """Return an array (R, *shape) as (channels, values); as one channel if there are too many."""
    if array.ndim == 1 or array.shape[axis + 1] > MOST_CHANNELS:
        return array.reshape(1, -1)
    return np.moveaxis(array, axis + 1, 0).reshape(array.shape[axis + 1], -1)


def has_row(shape: tuple[int, ...]) -> bool:
    """Return whether an output of `shape`, (R, *the output's shape), is one row of several values."""
    return len(shape) == 3 and shape[1] == 1 and shape[2] > 1


def outputs_of(model: onnx.ModelProto, operators: Collection[str]) -> frozenset[str]:
    """Return the names of a model's outputs that are results of such operators, reshaped or not."""
    index, found = Index.of(model.graph), set[str]()
    for output in model.graph.output:
        node = index.producer.get(output.name)
        while node is not None and node.op_type in RESHAPES:
            node = index.producer.get(node.input[0])
        if node is not None and node.op_type in operators:
            found.add(output.name)
    return frozenset(found)


def layer_before(model: onnx.ModelProto, output: str, layers: Collection[str]) -> str | None:
    """Return the layer nearest before an output, by the name of its node, or None."""
    index, names, seen = Index.of(model.graph), [output], {output}
    for name in names:
        node = index.producer.get(name)
        if node is not None and node.name in layers:
            return node.name
        following = [] if node is None else [entry for entry in node.input if entry and entry not in seen]
        names += following
        seen.update(following)
    return None
