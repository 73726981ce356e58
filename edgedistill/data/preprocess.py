"""From a raw batch, as the user's data has it, to what a model takes; the same module trains and is baked into ONNX."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgedistill.config.schema import DataConfig
from edgedistill.data.dataset import channels_of
from edgedistill.data.mel import LogMel, frames_of
from edgedistill.records.stages import DataRecord

FULL_SCALE: Final = {"uint8": 255.0, "int16": 32768.0}
"""What raw values are divided by, so that pictures are in [0, 1] and waveforms in [-1, 1); other types are left as given."""


class Preprocess(nn.Module):
    """Channels first, divided by full scale, waveforms to log-mel pictures if asked for, then (x - mean) / std.

    Images (B, H, W[, C]) become float32 (B, C, H, W), signals (B, T[, C]) become (B, C, T) or, with `mel`, pictures
    (B, 1, frames, bins); tokens become int64.
    """

    def __init__(self, data: DataRecord, config: DataConfig) -> None:
        super().__init__()
        self.kind = data.kind
        self.full_rank = len(data.shape) + 1 == {"image": 4, "signal": 3, "tokens": 2}[data.kind]
        self.mel = None if config.mel is None else LogMel(config.mel)
        self.scale = FULL_SCALE.get(data.dtype, 1.0)
        channels = channels_of(data.kind, data.shape)
        # Where nothing lies between the two divisions they are one, and the raw values are compared with a raw mean.
        unit = self.scale if self.mel is None else 1.0
        self.changes_values = unit != 1.0 or config.mean is not None or config.std is not None
        self.register_buffer("mean", torch.tensor(config.mean or (0.0,) * channels) * unit, persistent=False)
        self.register_buffer("factor", 1 / (torch.tensor(config.std or (1.0,) * channels) * unit), persistent=False)

    def forward(self, raw: Tensor) -> Tensor:
        """Prepare a raw batch."""
        if self.kind == "tokens":
            return raw.to(torch.int64)
        x = raw.to(torch.float32)  # first, for a uint8 input of a network can be nothing but cast in TensorRT
        x = (x if self.full_rank else x.unsqueeze(-1)).movedim(-1, 1)
        if self.mel is not None:
            x = self.mel(x / self.scale)
        if not self.changes_values:
            return x
        # As batch norm, which is one operator in ONNX: ONNX Runtime moves a subtraction and a division to where channels
        # are last, and they take a seventh of the time of an int8 ResNet-8 there.
        mean = self.get_buffer("mean")
        return functional.batch_norm(x, mean, torch.ones_like(mean), self.get_buffer("factor"), eps=0.0)


def model_input(data: DataRecord, config: DataConfig) -> DataRecord:
    """Describe what models take, channels last: the data itself, or the log-mel pictures of its waveforms."""
    if config.mel is None:
        return data
    shape = (frames_of(data.shape[0], config.mel), config.mel.bins, 1)
    return data.model_copy(update={"kind": "image", "dtype": "float32", "shape": shape})
