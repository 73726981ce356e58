"""Read folders of WAV files as waveforms: CLASS/CLIP.wav, PCM of 8 to 32 bits, with the standard library."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgedistill.errors import ConfigError

Array = npt.NDArray[Any]


class Clip(NamedTuple):
    """The header of a WAV file: samples per second, channels, bytes per sample, and samples per channel."""

    rate: int
    channels: int
    width: int
    length: int


def wav_files(folder: Path) -> list[Path]:
    """Return the WAV files in the class folders of a folder."""
    return sorted(p for p in folder.glob("*/**/*") if p.suffix.lower() == ".wav" and p.is_file())


def read_header(file: Path) -> Clip:
    """Read the header of a WAV file; raises ConfigError for other files and for formats other than PCM."""
    with _opened(file) as clip:
        return Clip(clip.getframerate(), clip.getnchannels(), clip.getsampwidth(), clip.getnframes())


def read_clips(files: Sequence[Path], seconds: float | None) -> Array:
    """Read waveforms (N, T), int16, with averaged channels; clips are cut or zero-padded at the end to `seconds`.

    Raises ConfigError for clips of several rates and, without `seconds`, of several lengths.
    """
    first = read_header(files[0])
    length = first.length if seconds is None else round(seconds * first.rate)
    clips = np.zeros((len(files), length), np.int16)
    for row, file in zip(clips, files, strict=True):
        header = read_header(file)
        if header.rate != first.rate:
            raise ConfigError(
                f"data: {file.name} has {header.rate} samples per second, {files[0].name} has {first.rate}; resample them to one rate"
            )
        if seconds is None and header.length != length:
            raise ConfigError(
                f"data: {file.name} has {header.length} samples, {files[0].name} has {length}; set data.seconds to cut or pad all "
                f"clips, for example seconds = {max(header.length, length) / first.rate:.2g}"
            )
        samples = read_clip(file)[:length]
        row[: len(samples)] = samples
    return clips


def read_clip(file: Path) -> Array:
    """Read one waveform (T,), int16, with averaged channels."""
    with _opened(file) as clip:
        width, channels, data = clip.getsampwidth(), clip.getnchannels(), clip.readframes(clip.getnframes())
    samples = _as_int16(data, width).reshape(-1, channels)
    return samples[:, 0] if channels == 1 else samples.mean(axis=1).round().astype(np.int16)


def _as_int16(data: bytes, width: int) -> Array:
    """Convert PCM to int16: 8-bit samples are unsigned, and longer samples keep their highest 16 bits."""
    if width == 1:
        return (np.frombuffer(data, np.uint8).astype(np.int16) - 128) * 256
    raw = np.frombuffer(data, np.uint8).reshape(-1, width)
    return np.ascontiguousarray(raw[:, width - 2 :]).view("<i2")[:, 0].astype(np.int16)


def _opened(file: Path) -> wave.Wave_read:
    try:
        return wave.open(str(file), "rb")
    except (wave.Error, EOFError, OSError) as error:
        raise ConfigError(
            f"data: {file.parent.name}/{file.name} is not a WAV file of PCM samples: {error}; convert it, for example: "
            f"ffmpeg -i IN -c:a pcm_s16le {file.name}"
        ) from None
