"""The kinds of input: their shapes, the meaning of their axes, and their layout in models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgedistill.errors import ConfigError
from edgedistill.records.stages import InputRecord, KindName

Array = npt.NDArray[Any]


FULL_SCALE: Final = {"uint8": 255.0, "int16": 32768.0}
"""The divisor of raw values by type: images are then in [0, 1], waveforms in [-1, 1); other types are not divided."""
LARGEST_TOKEN: Final = 9_999_999


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of input: a sample has axes of positions, such as height and width, and optional channels after them.

    `layouts` are the shapes of a data set, for messages. Models take inputs with `has_channels` channels first; `normalised`
    inputs are normalised by mean and deviation. Networks of `is_picture` inputs train faster in channels-last order; only
    `is_waveform` inputs can become log-mel pictures. The length of samples of a kind that `varies` is that of the longest in a
    batch.
    """

    name: KindName
    axis_names: tuple[str, ...]
    layouts: str
    has_channels: bool
    normalised: bool
    is_picture: bool = False
    is_waveform: bool = False
    varies: bool = False

    @property
    def axes(self) -> int:
        """The number of axes of positions."""
        return len(self.axis_names)

    def ranks(self) -> tuple[int, ...]:
        """Return the possible numbers of axes of a data set, including the axis of samples."""
        return (self.axes + 1, self.axes + 2) if self.has_channels else (self.axes + 1,)

    def is_full(self, shape: tuple[int, ...]) -> bool:
        """Return whether the shape of a sample includes the axis of channels, if its kind has channels."""
        return len(shape) == self.axes + self.has_channels

    def channels(self, shape: tuple[int, ...]) -> int:
        """Return the number of channels of a sample: 1 if the axis is missing."""
        if not self.has_channels:
            return shape[-1] if self.normalised else 1
        return shape[-1] if self.is_full(shape) else 1

    def spatial(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a sample without channels."""
        return shape[: self.axes]

    def model_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a sample in models: channels first."""
        return (self.channels(shape), *self.spatial(shape)) if self.has_channels else shape

    def check(self, where: str, inputs: Array) -> None:
        """Raise ConfigError for inputs that are not of this kind."""
        if inputs.ndim not in self.ranks():
            raise ConfigError(f"{where}: inputs have shape {inputs.shape}; {self.name} data is {self.layouts}")
        if self.has_channels or self.normalised:
            return
        if not np.issubdtype(inputs.dtype, np.integer) or inputs.min() < 0:
            raise ConfigError(f"{where}: tokens must be integers from 0 on")
        if inputs.max() > LARGEST_TOKEN:
            raise ConfigError(
                f"{where}: a token is {inputs.max()}, and a model has a row of weights for each number up to that; number the "
                "tokens that occur from 0 on"
            )


KINDS: Final[dict[KindName, Kind]] = {
    kind.name: kind
    for kind in (
        Kind(
            "image",
            ("height", "width"),
            "(N, H, W, C) or (N, H, W)",
            has_channels=True,
            normalised=True,
            is_picture=True,
        ),
        Kind(
            "signal",
            ("time",),
            "(N, T, C) or (N, T)",
            has_channels=True,
            normalised=True,
            is_waveform=True,
        ),
        Kind("tokens", ("position",), "(N, T)", has_channels=False, normalised=False),
        Kind("text", ("position",), "(N, T)", has_channels=False, normalised=False, varies=True),
        Kind("features", ("value",), "(N, D)", has_channels=False, normalised=True),
    )
}


def kind_of(record: InputRecord) -> Kind:
    """Return the kind of an input."""
    return KINDS[record.kind]


def guess_kind(inputs: Array) -> KindName:
    """Guess the kind of inputs from their shape and type; whole numbers (N, T) of which some are negative are no tokens."""
    if inputs.ndim == 4 or (inputs.ndim == 3 and inputs.dtype == np.uint8):
        return "image"
    if inputs.ndim == 2 and np.issubdtype(inputs.dtype, np.integer) and inputs.min(initial=0) >= 0:
        return "tokens"
    return "signal"
