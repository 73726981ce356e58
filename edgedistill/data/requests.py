"""Read inputs for an ONNX model from an .npz file: one array per input, and optional labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import onnx

from edgedistill.data.sources import Array
from edgedistill.errors import ConfigError, nearest
from edgedistill.runtime.arrays import read_arrays

LARGEST = 1e18
"""The largest plausible size of a value: the square of a value above about 1.8e19 overflows float32."""

BOX_COLUMNS = 7


class Samples(NamedTuple):
    """Requests (R, *input shape) by input name, optional labels, and with labels of classes optional names of slices (R,), str.

    If requests differ in length, their array has the type object, shape (R,), and each element is the array of one request.

    Labels are classes (R,), boxes (R, M, 7): class, x1, y1, x2, y2 in pixels of the input, area, crowd; unused rows have class -1; or
    masks (R, H, W), uint8, with the class of each pixel of the input; 255 is void.
    """

    requests: dict[str, Array]
    labels: Array | None
    slices: Array | None = None

    @property
    def label_form(self) -> Literal["classes", "boxes", "masks"] | None:
        """What the labels are, or None without labels."""
        if self.labels is None:
            return None
        return "classes" if self.labels.ndim == 1 else "masks" if self.labels.dtype == np.uint8 else "boxes"

    @property
    def varies(self) -> bool:
        """Whether the requests have several lengths."""
        return any(values.dtype == object for values in self.requests.values())

    def first(self, count: int) -> dict[str, Array]:
        """Return the first `count` requests."""
        return {name: values[:count] for name, values in self.requests.items()}


def read_samples(path: Path, model: onnx.ModelProto) -> Samples:
    """Read samples for a model.

    The array of an input has the name of the input, or "input." and the name, or "inputs" if the model has one input; it has
    one sample per row (N, ...), or one request per row (R, 1, ...). "labels" are class numbers, boxes or masks, and "slices" name a part
    of the data for each sample, for example the camera or the light. "lengths" (N,) are the lengths of samples whose last axis is padded
    to that of the longest, for a model whose inputs vary in length.

    Raises:
        ConfigError: an array is missing, its type or rank differs from the input, a value is not finite or above 1e18, the
            numbers of samples differ, or there are slices without labels.
    """
    if path.suffix != ".npz":
        raise ConfigError(f"{path}: samples for a model are read from an .npz file")
    arrays = read_arrays(path, str(path))
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    names = ["inputs"] if len(inputs) == 1 else []
    requests = {value.name: _requests(path, arrays, value, names) for value in inputs}
    counts = {name: len(values) for name, values in requests.items()}
    labels = arrays.get("labels")
    if labels is not None:
        counts["labels"] = len(labels)
        _require_labels(path, labels)
    slices = _slices(path, arrays)
    if slices is not None:
        counts["slices"] = len(slices)
    if "lengths" in arrays and "lengths" not in requests:
        counts["lengths"] = len(arrays["lengths"])
    if len(set(counts.values())) > 1 or not all(counts.values()):
        raise ConfigError(f"{path}: every array needs the same number of samples, at least one; there are {counts}")
    return Samples(_unpadded(arrays, inputs, requests), labels, slices)


def _unpadded(
    arrays: dict[str, Array], inputs: Sequence[onnx.ValueInfoProto], requests: dict[str, Array]
) -> dict[str, Array]:
    """Return the requests at their own length, if the data has lengths and the last axis of each input varies."""
    lengths = arrays.get("lengths")
    axes = [value.type.tensor_type.shape.dim[-1:] for value in inputs]
    if lengths is None or not all(len(axis) and not axis[0].HasField("dim_value") for axis in axes):
        return requests
    found = {name: np.empty(len(values), object) for name, values in requests.items()}
    for name, values in requests.items():
        for row, (value, length) in enumerate(zip(values, lengths, strict=True)):
            found[name][row] = value[..., : int(length)]
    return found


def _require_labels(path: Path, labels: Array) -> None:
    """Raise ConfigError for labels that are neither class numbers, boxes nor masks."""
    are_classes = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
    are_boxes = labels.ndim == 3 and labels.shape[2] == BOX_COLUMNS and labels.dtype.kind == "f"
    are_masks = labels.ndim == 3 and labels.dtype == np.uint8
    if not (are_classes or are_boxes or are_masks):
        raise ConfigError(
            f"{path}: labels are {labels.dtype}{labels.shape}; expected class numbers (N,), boxes, float (N, M, {BOX_COLUMNS}): "
            "class, x1, y1, x2, y2, area, crowd, or masks, uint8 (N, H, W)"
        )


def _slices(path: Path, arrays: dict[str, Array]) -> Array | None:
    """Return the name of each sample's slice as text, or None if there are none."""
    slices = arrays.get("slices")
    if slices is None:
        return None
    if "labels" not in arrays:
        raise ConfigError(f"{path}: has slices but no labels; slices are compared by accuracy, so add 'labels'")
    if slices.ndim != 1 or slices.dtype.kind not in "Uiub":
        raise ConfigError(
            f"{path}: slices are {slices.dtype}{slices.shape}; expected one name or number for each sample (N,)"
        )
    return slices.astype(str)


def _requests(path: Path, arrays: dict[str, Array], value: onnx.ValueInfoProto, names: list[str]) -> Array:
    keys = [f"input.{value.name}", value.name, *names]
    array = next((arrays[key] for key in keys if key in arrays), None)
    if array is None:
        raise ConfigError(f"{path}: has no array '{keys[-1]}' for input '{value.name}'{nearest(value.name, arrays)}")
    kind = value.type.tensor_type
    dtype, rank = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type), len(kind.shape.dim)
    if array.dtype.kind != dtype.kind:
        raise ConfigError(
            f"{path}: samples for '{value.name}' are {array.dtype}, but the model takes {dtype}; "
            "store preprocessed samples in the model's type"
        )
    if array.ndim not in (rank, rank + 1) or array.ndim == 0:
        raise ConfigError(
            f"{path}: samples for '{value.name}' have shape {array.shape}; the input has {rank} dimensions; "
            f"store an array of {rank} dimensions (one sample per row) or {rank + 1} (one request per row)"
        )
    _require_plausible(path, value.name, array)
    return (array if array.ndim > rank else array[:, None]).astype(dtype)


def require_test_samples(test: tuple[Path, Samples], data: tuple[Path, Samples]) -> None:
    """Raise ConfigError for test samples that are those which the model is calibrated with, or of another size."""
    (path, tested), (other, calibrated) = test, data
    if path.resolve() == other.resolve():
        raise ConfigError(f"{path}: is the file of --data; give --test samples that the model is not calibrated with")
    for name, values in tested.requests.items():
        if values.shape[1:] != calibrated.requests[name].shape[1:]:
            raise ConfigError(
                f"{path}: samples for '{name}' have shape {values.shape[1:]}, those of {other} have shape "
                f"{calibrated.requests[name].shape[1:]}; store samples of the same size in both files"
            )


def _require_plausible(path: Path, name: str, array: Array) -> None:
    """Raise ConfigError for the first sample with NaN, infinity or a value that no measurement gives."""
    if array.dtype.kind != "f":
        return
    plausible = np.abs(array) <= array.dtype.type(min(LARGEST, float(np.finfo(array.dtype).max)))  # NaN compares false
    if plausible.all():
        return
    sample = int(np.argwhere(~plausible)[0][0])
    worst = float(array[sample][~plausible[sample]].flat[0])
    raise ConfigError(
        f"{path}: sample {sample} of input '{name}' has the value {worst:g}; values must be finite and at most "
        f"{LARGEST:g}: correct or remove this sample"
    )
