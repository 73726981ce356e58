"""Read folders of WAV files as waveforms: CLASS/CLIP.wav, PCM of 8 to 32 bits, with the standard library."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgedistill.data.files import Broken, names_in, read_each
from edgedistill.errors import ConfigError

Array = npt.NDArray[Any]
ERRORS: Final = (wave.Error, EOFError, OSError, RuntimeError)  # wave raises the last for chunks out of their places
"""What reading a file that is not a WAV file of PCM samples raises."""


class Clip(NamedTuple):
    """The header of a WAV file: samples per second, channels, bytes per sample, and samples per channel."""

    rate: int
    channels: int
    width: int
    length: int


def wav_files(folder: Path, *, in_classes: bool = True) -> list[Path]:
    """Return the WAV files in the class folders of a folder, or all WAV files below it."""
    return [folder / name for name in names_in(folder, {".wav"}) if "/" in name or not in_classes]


def clip_headers(files: Sequence[Path], broken: Broken) -> list[Clip]:
    """Read the headers of WAV files; files that are not WAV files of PCM samples are put into `broken`."""
    return [header for _, header in read_each(read_header, files, broken, ERRORS)]


def rate_of_clips(files: Sequence[Path]) -> int | None:
    """Return the samples per second of the first readable WAV file, or None if there is none."""
    return next((header.rate for _, header in read_each(read_header, files, {}, ERRORS)), None)


def read_clips(files: Sequence[Path], seconds: float | None, broken: Broken) -> Array:
    """Read waveforms (N, T), int16, with averaged channels; clips are cut or zero-padded at the end to `seconds`.

    Unreadable files are put into `broken`. Raises ConfigError for clips of several rates and, without `seconds`, of several
    lengths.
    """
    headers = dict(read_each(read_header, files, broken, ERRORS))
    if not headers:
        return np.empty(0, np.int16)
    first, header = next(iter(headers.items()))
    length = header.length if seconds is None else round(seconds * header.rate)
    _check_alike(headers, first, length=length if seconds is None else None)
    clips, count = np.zeros((len(headers), length), np.int16), 0
    for _, samples in read_each(read_clip, headers, broken, ERRORS):
        clips[count, : len(samples)] = samples[:length]
        count += 1
    return clips[:count]


def _check_alike(headers: dict[Path, Clip], first: Path, *, length: int | None) -> None:
    """Raise ConfigError for the first clip with another rate than the file `first`, or with another length."""
    rate = headers[first].rate
    for file, header in headers.items():
        if header.rate != rate:
            raise ConfigError(
                f"data: {file.name} has {header.rate} samples per second, {first.name} has {rate}; resample them to one rate"
            )
        if length is not None and header.length != length:
            raise ConfigError(
                f"data: {file.name} has {header.length} samples, {first.name} has {length}; set data.seconds to cut or pad all "
                f"clips, for example seconds = {max(header.length, length) / rate:.2g}"
            )


def read_header(file: Path) -> Clip:
    """Read the header of a WAV file; raises one of ERRORS for other files and for formats other than PCM."""
    with wave.open(str(file), "rb") as clip:
        return Clip(clip.getframerate(), clip.getnchannels(), clip.getsampwidth(), clip.getnframes())


def read_clip(file: Path) -> Array:
    """Read one waveform (T,), int16, with averaged channels; raises one of ERRORS for a file that is not readable."""
    with wave.open(str(file), "rb") as clip:
        width, channels, count = clip.getsampwidth(), clip.getnchannels(), clip.getnframes()
        data = clip.readframes(count)
    if len(data) != count * channels * width:
        raise EOFError(f"it ends after {len(data) // (channels * width):,} of {count:,} samples")
    samples = _as_int16(data, width).reshape(-1, channels)
    return samples[:, 0] if channels == 1 else samples.mean(axis=1).round().astype(np.int16)


def _as_int16(data: bytes, width: int) -> Array:
    """Convert PCM to int16: 8-bit samples are unsigned, and longer samples keep their highest 16 bits."""
    if width == 1:
        return (np.frombuffer(data, np.uint8).astype(np.int16) - 128) * 256
    raw = np.frombuffer(data, np.uint8).reshape(-1, width)
    return np.ascontiguousarray(raw[:, width - 2 :]).view("<i2")[:, 0].astype(np.int16)
