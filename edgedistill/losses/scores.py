"""Scores that are made part of an exported file."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Sigmoid(nn.Module):
    """The sigmoid, as (1 + tanh(x / 2)) / 2.

    ONNX Runtime joins a dense layer with a Sigmoid behind it, and then runs the layer in float though it is quantized.
    """

    def forward(self, logits: Tensor) -> Tensor:
        """Map logits to probabilities."""
        return 0.5 * (1 + torch.tanh(0.5 * logits))
