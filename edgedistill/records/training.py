"""What a training was: its epochs, and the model that it kept."""

from __future__ import annotations

from typing import Literal

from edgedistill.records.base import FileRef, Record


class Epoch(Record):
    """One epoch of a training history; `lr` is the learning rate of the last step."""

    epoch: int
    loss: float
    lr: float
    val_accuracy: float
    seconds: float


class TrainedModel(Record):
    """A trained or loaded model: its file, and its metric on the validation split."""

    spec: str
    form: Literal["torch", "onnx", "logits"]
    file: FileRef
    parameters: int | None
    val_accuracy: float | None
    history: tuple[Epoch, ...] = ()
    parent: str | None = None
