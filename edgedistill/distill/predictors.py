"""Running a model over a split: batched, without gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgedistill.data.sources import Array
from edgedistill.data.views import Views
from edgedistill.distill.training import bf16_wanted
from edgedistill.errors import ConfigError
from edgedistill.records.stages import DataRecord

Predict = Callable[[Tensor], Tensor]
BATCH = 256


def torch_predictor(model: nn.Module, precision: str) -> Predict:
    """Return a function from model inputs to float32 logits; computes in bfloat16 when `precision` says so."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    bf16 = bf16_wanted(precision)

    def predict(inputs: Tensor) -> Tensor:
        model.eval()
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits: Tensor = model(inputs.to(device))
        return logits.float().cpu()

    return predict


def onnx_predictor(path: Path, data: DataRecord) -> Predict:
    """Return the same for an ONNX file run by ONNX Runtime, whose input is float (or tokens), channels first or last.

    Raises ConfigError when the model does not take this data or does not give one logit per class.
    """
    session = open_session(path)
    entries = session.get_inputs()
    if len(entries) != 1:
        raise ConfigError(f"teacher {path.name}: has {len(entries)} inputs; a teacher takes one")
    name, shape = entries[0].name, entries[0].shape
    arrange = input_arrangement(path, shape, entries[0].type, data)

    def predict(inputs: Tensor) -> Tensor:
        arrays = arrange(inputs)
        size = shape[0] if isinstance(shape[0], int) else len(arrays)
        missing = -len(arrays) % size  # a fixed batch is filled up with copies of the last sample
        filled = np.concatenate([arrays, np.repeat(arrays[-1:], missing, 0)])
        answers = [session.run(None, {name: block})[0] for block in np.split(filled, len(filled) // size)]
        return torch.from_numpy(np.concatenate(answers)[: len(arrays)]).float()

    answer = session.get_outputs()[0].shape
    if len(answer) != 2 or (isinstance(answer[1], int) and answer[1] != len(data.classes)):
        raise ConfigError(f"teacher {path.name}: gives {answer}; expected logits (N, {len(data.classes)})")
    return predict


def open_session(path: Path) -> Any:
    """Open an ONNX model on the CPU; raises ConfigError with ONNX Runtime's own reason."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    known = (errors.Fail, errors.InvalidGraph, errors.InvalidProtobuf, errors.NotImplemented, errors.InvalidArgument,
             errors.NoSuchFile, errors.RuntimeException)  # fmt: skip
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except known as error:
        raise ConfigError(f"teacher {path.name}: ONNX Runtime refuses it: {str(error).splitlines()[0]}") from None


def input_arrangement(path: Path, shape: list[Any], dtype: str, data: DataRecord) -> Callable[[Tensor], Array]:
    """Return how a batch of model inputs is laid out for an ONNX input of this shape and type."""
    sizes = [size if isinstance(size, int) else None for size in shape]
    first = _channels_first(data)
    last = (*first[1:], first[0])
    if len(sizes) == len(first) + 1 and all(s in (None, want) for s, want in zip(sizes[1:], first, strict=True)):
        cast = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
        if dtype in cast:
            return lambda x: x.numpy().astype(cast[dtype], copy=False)
    fits = len(sizes) == len(last) + 1 and all(s in (None, want) for s, want in zip(sizes[1:], last, strict=True))
    if fits and dtype == "tensor(float)":
        return lambda x: np.ascontiguousarray(x.movedim(1, -1).numpy())
    raise ConfigError(
        f"teacher {path.name}: takes {dtype} of shape {shape}; this data gives float (N, {', '.join(map(str, first))})"
    )


def _channels_first(data: DataRecord) -> tuple[int, ...]:
    spatial = {"image": 2, "signal": 1, "tokens": 1}[data.kind]
    if data.kind == "tokens":
        return data.shape
    channels = data.shape[-1] if len(data.shape) > spatial else 1
    return (channels, *data.shape[:spatial])


def predict_split(predict: Predict, views: Views) -> Array:
    """Return the logits (N, classes), float32, of every sample of a split in its plain view."""
    positions = np.arange(len(views.split))
    plain = np.zeros_like(positions)
    blocks = [positions[i : i + BATCH] for i in range(0, len(positions), BATCH)]
    return np.concatenate([predict(views.batch(block, plain[: len(block)])).numpy() for block in blocks])
