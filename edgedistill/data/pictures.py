"""Pictures with boxes or masks as inputs for an ONNX model of any origin: the preprocessing that the model was trained with, and its labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import numpy as np
import onnx
from pydantic import Field, ValidationError

from edgedistill.config.data import ResizeRule
from edgedistill.data.dense import holds_masks
from edgedistill.data.geometry import Resizing
from edgedistill.data.kinds import FULL_SCALE
from edgedistill.data.reading import Reading
from edgedistill.data.requests import Samples
from edgedistill.data.sources import SINGLE, load_source
from edgedistill.errors import ConfigError, nearest
from edgedistill.records.base import Record
from edgedistill.runtime.progress import QUIET, Reporter

COLOURS: Final = 3
LISTED: Final = 10
"""The class names in a message."""


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


READ: Final[dict[str, Callable[[str], Any]]] = {"mean": _numbers, "std": _numbers, "padding": int, "void": int}
"""How the values of keys are read that are no words."""


class PictureView(Record):
    """How pictures become the input of a model.

    `resize`, `padding` and `void` are as in [data], and `mean`, `std` and `channels` as in [teacher]: `mean` and `std` are those of values
    from 0 to 1, so that std = 1/255 keeps values from 0 to 255.
    """

    resize: ResizeRule = "letterbox"
    padding: int = 114
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: Literal["rgb", "bgr"] = "rgb"
    void: Annotated[int, Field(ge=0, le=255)] = 255


class Pictures(NamedTuple):
    """Samples for a model with boxes or masks as labels, the names of their classes if known, and remarks on the classes left out."""

    samples: Samples
    classes: tuple[str, ...]
    remarks: tuple[str, ...]


def parse_view(texts: Sequence[str]) -> PictureView:
    """Return the view in texts such as "mean=0.5,0.5,0.5"; raises ConfigError for an unknown key or value."""
    table: dict[str, Any] = {}
    for text in texts:
        key, _, value = text.partition("=")
        if key not in PictureView.model_fields:
            raise ConfigError(f"--view {text}: no key '{key}'{nearest(key, PictureView.model_fields)}")
        try:
            table[key] = READ.get(key, str)(value)
            PictureView.model_validate(table)
        except (ValidationError, ValueError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise ConfigError(f"--view {text}: {reason}") from None
    return PictureView.model_validate(table)


def read_pictures(
    path: Path, model: onnx.ModelProto, view: PictureView, names: Sequence[str], report: Reporter = QUIET
) -> Pictures:
    """Read pictures with boxes or masks, in the formats of [data], for a model of classes with `names`, by default all those of the data.

    Classes of boxes that the model does not have are left out; the classes of masks are those of the model, in its order. Raises ConfigError for data that cannot be read, without a common class, or
    for a model that does not take one picture.
    """
    entry, height, width, is_last = _picture_input(model)
    resizing = Resizing(width, height, view.resize, view.padding)
    masked = holds_masks(path)
    task = "segmentation" if masked else "detection"
    reading = Reading(task=task, split="test", resizing=resizing, void=view.void)
    own = load_source(str(path.resolve()), path.parent, reading, report)
    classes = own.classes or ()
    requests = _requests(np.ascontiguousarray(own.inputs[SINGLE]), entry, view, is_last=is_last)
    if masked:
        return Pictures(Samples(requests, own.labels), tuple(names) or classes, ())
    kept = tuple(name for name in classes if name in names) if names else classes
    if not kept:
        raise ConfigError(
            f"{path}: none of its classes ({_listed(classes)}) is a class of the model ({_listed(names)}); give the names of the "
            "model's classes, in its order, with --classes FILE"
        )
    dropped = [name for name in classes if name not in kept]
    remarks = (
        f"{len(dropped)} classes of {path.name} are not classes of the model, and are left out: {_listed(dropped)}",
    )
    labels = _renumbered(own.labels, [kept.index(name) if name in kept else -1 for name in classes])
    return Pictures(Samples(requests, labels), kept, remarks if dropped else ())


def _requests(
    pixels: np.ndarray, entry: onnx.ValueInfoProto, view: PictureView, *, is_last: bool
) -> dict[str, np.ndarray]:
    """Return pictures (N, H, W, 3), uint8, as requests (N, 1, ...) of a model's input."""
    x = pixels.astype(np.float32) if entry.type.tensor_type.elem_type == onnx.TensorProto.FLOAT else pixels
    x = _normalised(x[..., ::-1] if view.channels == "bgr" else x, view)
    return {entry.name: np.ascontiguousarray(x if is_last else np.moveaxis(x, -1, 1))[:, None]}


def _picture_input(model: onnx.ModelProto) -> tuple[onnx.ValueInfoProto, int, int, bool]:
    """Return a model's only input, its height and width, and whether its channels are last."""
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    shapes = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in inputs]
    if len(inputs) == 1 and len(shapes[0]) == 4 and shapes[0][0] in (0, 1):
        _, *sides = shapes[0]
        for is_last, (channels, height, width) in ((False, sides), (True, [sides[2], *sides[:2]])):
            if channels == COLOURS and height > 0 and width > 0:
                return inputs[0], height, width, is_last
    shown = ", ".join(f"{value.name} {shape}" for value, shape in zip(inputs, shapes, strict=True))
    raise ConfigError(
        f"the model takes {shown}, with 0 for a side of any size; pictures need one input of shape [1, 3, height, width] or [1, "
        "height, width, 3]; fix the sides with --shape"
    )


def _normalised(x: np.ndarray, view: PictureView) -> np.ndarray:
    """Return pictures (N, H, W, 3), 0 to 255, as (x / 255 - mean) / std; integers stay as they are."""
    if x.dtype != np.float32:
        if view.mean is not None or view.std is not None:
            raise ConfigError("--view: the model takes integers, which are not normalised; remove mean and std")
        return x
    mean, std = (np.array(one or default, np.float32) for one, default in ((view.mean, (0.0,)), (view.std, (1.0,))))
    if not (len(mean) in (1, COLOURS) and len(std) in (1, COLOURS) and (std > 0).all()):
        raise ConfigError("--view: mean and std have one value or three, and std is above 0")
    found: np.ndarray = (x / np.float32(FULL_SCALE["uint8"]) - mean) / std
    return found


def _renumbered(labels: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    """Return labels (N, M, 7) with other class numbers; boxes of number -1 are unused rows."""
    kinds = labels[..., 0].astype(int)
    found = labels.copy()
    found[..., 0] = np.where(kinds >= 0, np.array([*numbers, -1])[kinds], -1)
    return found


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
