"""Log-mel spectrograms with operations that every ONNX engine supports: convolution, matrix product and logarithm."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgedistill.config.data import MelConfig
from edgedistill.data.sources import Array
from edgedistill.errors import ConfigError

# 1e-6 is 102 dB below full scale for a window of 256: near the noise of 16 bits, and representable in float16.
FLOOR = 1e-6


class LogMel(nn.Module):
    """The Fourier transform as a strided convolution, then power, triangular mel filters, and ln(energy + 1e-6).

    Windows are periodic Hann windows. There is no padding, so a spectrogram has `frames_of` rows.
    """

    def __init__(self, mel: MelConfig) -> None:
        super().__init__()
        self.hop, self.lines = mel.hop, mel.window // 2 + 1
        self.register_buffer("basis", torch.from_numpy(fourier_basis(mel.window)).unsqueeze(1), persistent=False)
        self.register_buffer("filters", torch.from_numpy(mel_filters(mel)), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Map waveforms (B, 1, T) in [-1, 1) to spectrograms (B, 1, frames, bins)."""
        spectrum = functional.conv1d(waveform, self.get_buffer("basis"), stride=self.hop)
        real, imaginary = spectrum[:, : self.lines], spectrum[:, self.lines :]
        energy = torch.matmul(self.get_buffer("filters"), real * real + imaginary * imaginary)
        return torch.log(energy + FLOOR).transpose(1, 2).unsqueeze(1)


def frames_of(length: int, mel: MelConfig) -> int:
    """Return the number of whole windows in a waveform of this many samples."""
    return max(0, 1 + (length - mel.window) // mel.hop)


def fourier_basis(window: int) -> Array:
    """Return the real and then the imaginary rows (2 * (window // 2 + 1), window) of a Hann-windowed Fourier transform."""
    time = np.arange(window)
    angle = 2 * np.pi * np.outer(np.arange(window // 2 + 1), time) / window
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * time / window)
    return (np.concatenate([np.cos(angle), -np.sin(angle)]) * hann).astype(np.float32)


def mel_filters(mel: MelConfig) -> Array:
    """Return filters (bins, window // 2 + 1): triangles in hertz with a peak of 1, centred evenly on HTK's mel scale.

    mel(f) = 2595 * log10(1 + f / 700) (The HTK Book 3.4, section 5.4). Raises ConfigError for a filter
    without a line of the spectrum.
    """
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in (mel.low_hz, mel.top_hz))
    edges = 700 * (10 ** (np.linspace(low, high, mel.bins + 2) / 2595) - 1)
    lines = np.arange(mel.window // 2 + 1) * mel.rate / mel.window
    below, centre, above = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    filters = np.maximum(0, np.minimum((lines - below) / (centre - below), (above - lines) / (above - centre)))
    empty = np.flatnonzero(filters.max(1) == 0)
    if len(empty):
        raise ConfigError(
            f"data.mel: {len(empty)} of {mel.bins} filters, from {edges[empty[0]]:.0f} Hz on, fall between the lines of "
            f"the spectrum, {mel.rate / mel.window:.1f} Hz apart; take fewer bins, a longer window_ms or a higher low_hz"
        )
    return filters.astype(np.float32)
