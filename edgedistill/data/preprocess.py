"""From a raw batch, as the user's data has it, to what a model takes; the same modules train and are baked into ONNX."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgedistill.config.schema import MelConfig
from edgedistill.data.kinds import kind_of
from edgedistill.data.mel import LogMel
from edgedistill.data.settings import Normalization, ViewSettings
from edgedistill.records.stages import DataRecord, InputRecord

FULL_SCALE: Final = {"uint8": 255.0, "int16": 32768.0}
"""What raw values are divided by, so that pictures are in [0, 1] and waveforms in [-1, 1); other types are left as given."""


class Preprocess(nn.Module):
    """One input: channels first, divided by full scale, waveforms to log-mel pictures if asked for, then (x - mean) / std.

    Images (B, H, W[, C]) become float32 (B, C, H, W), signals (B, T[, C]) become (B, C, T) or, with `mel`, pictures
    (B, 1, frames, bins); features (B, D) become float32, and tokens int64.
    """

    def __init__(self, record: InputRecord, normalization: Normalization, mel: MelConfig | None = None) -> None:
        super().__init__()
        kind = kind_of(record)
        self.is_number, self.has_channels = not kind.normalised, kind.has_channels
        self.full_rank = kind.is_full(record.shape)
        self.mel = None if mel is None else LogMel(mel)
        self.scale = FULL_SCALE.get(record.dtype, 1.0)
        channels = kind.channels(record.shape)
        # Where nothing lies between the two divisions they are one, and the raw values are compared with a raw mean.
        unit = self.scale if self.mel is None else 1.0
        mean, std = normalization.mean, normalization.std
        self.changes_values = unit != 1.0 or mean is not None or std is not None
        self.register_buffer("mean", torch.tensor(mean or (0.0,) * channels) * unit, persistent=False)
        self.register_buffer("factor", 1 / (torch.tensor(std or (1.0,) * channels) * unit), persistent=False)

    def forward(self, raw: Tensor) -> Tensor:
        """Prepare a raw batch."""
        if self.is_number:
            return raw.to(torch.int64)
        x = raw.to(torch.float32)  # first, for a uint8 input of a network can be nothing but cast in TensorRT
        if self.has_channels:
            x = (x if self.full_rank else x.unsqueeze(-1)).movedim(-1, 1)
        if self.mel is not None:
            x = self.mel(x / self.scale)
        if not self.changes_values:
            return x
        # As batch norm, which is one operator in ONNX: ONNX Runtime moves a subtraction and a division to where channels
        # are last, and they take a seventh of the time of an int8 ResNet-8 there.
        mean = self.get_buffer("mean")
        return functional.batch_norm(x, mean, torch.ones_like(mean), self.get_buffer("factor"), eps=0.0)


def preprocessors(record: DataRecord, views: ViewSettings) -> dict[str, Preprocess]:
    """Return the module of each input."""
    return {one.name: Preprocess(one, views.inputs.get(one.name, Normalization()), views.mel) for one in record.inputs}
