"""From a raw batch, as the user's data has it, to what a model takes; the same module trains and is baked into ONNX."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgedistill.config import DataConfig
from edgedistill.data.dataset import channels_of
from edgedistill.records import DataRecord


class Preprocess(nn.Module):
    """Channels first, uint8 divided by 255, then (x - mean) / std.

    Images (B, H, W[, C]) become float32 (B, C, H, W), signals (B, T[, C]) become (B, C, T); tokens become int64.
    """

    def __init__(self, data: DataRecord, config: DataConfig) -> None:
        super().__init__()
        self.kind = data.kind
        self.full_rank = len(data.shape) + 1 == {"image": 4, "signal": 3, "tokens": 2}[data.kind]
        channels = channels_of(data.kind, data.shape)
        unit = 255.0 if data.dtype == "uint8" else 1.0
        mean = torch.tensor(config.mean or (0.0,) * channels) * unit
        std = torch.tensor(config.std or (1.0,) * channels) * unit
        shape = (1, channels) + (1,) * {"image": 2, "signal": 1, "tokens": 0}[data.kind]
        self.register_buffer("mean", mean.reshape(shape), persistent=False)
        self.register_buffer("std", std.reshape(shape), persistent=False)

    def forward(self, raw: Tensor) -> Tensor:
        """Prepare a raw batch."""
        if self.kind == "tokens":
            return raw.to(torch.int64)
        x = raw if self.full_rank else raw.unsqueeze(-1)
        x = x.movedim(-1, 1).to(torch.float32)
        return (x - self.get_buffer("mean")) / self.get_buffer("std")
