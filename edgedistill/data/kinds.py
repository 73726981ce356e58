"""What an input is: which shapes it has, which of its axes are which, and how a model takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgedistill.errors import ConfigError
from edgedistill.records.stages import InputRecord, KindName

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of input: a sample has axes to index, such as height and width, and perhaps channels behind them.

    `layouts` are the shapes of a data set, for messages; `has_channels` tells whether models take channels first;
    `normalised` whether mean and deviation are taken off.
    """

    name: KindName
    axis_names: tuple[str, ...]
    layouts: str
    has_channels: bool
    normalised: bool
    word: str

    @property
    def axes(self) -> int:
        """The number of axes to index."""
        return len(self.axis_names)

    def ranks(self) -> tuple[int, ...]:
        """Return how many axes a data set of this kind may have, samples included."""
        return (self.axes + 1, self.axes + 2) if self.has_channels else (self.axes + 1,)

    def is_full(self, shape: tuple[int, ...]) -> bool:
        """Tell whether a sample's shape has all its axes; where channels are left out there is one."""
        return len(shape) == self.axes + self.has_channels

    def channels(self, shape: tuple[int, ...]) -> int:
        """Return the number of channels of a sample: 1 where the axis is left out."""
        if not self.has_channels:
            return shape[-1] if self.normalised else 1
        return shape[-1] if self.is_full(shape) else 1

    def spatial(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the sizes of a sample without its channels."""
        return shape[: self.axes]

    def model_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return a sample's shape as models take it: channels first."""
        return (self.channels(shape), *self.spatial(shape)) if self.has_channels else shape

    def check(self, where: str, inputs: Array) -> None:
        """Raise ConfigError for inputs that are not of this kind."""
        if inputs.ndim not in self.ranks():
            raise ConfigError(f"{where}: inputs have shape {inputs.shape}; {self.name} data is {self.layouts}")
        if self.name == "tokens" and (not np.issubdtype(inputs.dtype, np.integer) or inputs.min() < 0):
            raise ConfigError(f"{where}: tokens must be integers from 0 on")


KINDS: Final[dict[KindName, Kind]] = {
    kind.name: kind
    for kind in (
        Kind(
            "image", ("height", "width"), "(N, H, W, C) or (N, H, W)", has_channels=True, normalised=True, word="images"
        ),
        Kind("signal", ("time",), "(N, T, C) or (N, T)", has_channels=True, normalised=True, word="signals"),
        Kind("tokens", ("position",), "(N, T)", has_channels=False, normalised=False, word="tokens"),
        Kind("features", ("value",), "(N, D)", has_channels=False, normalised=True, word="features"),
    )
}


def kind_of(record: InputRecord) -> Kind:
    """Return the kind of an input."""
    return KINDS[record.kind]


def guess_kind(inputs: Array) -> KindName:
    """Return what inputs are taken for where the configuration does not name their kind."""
    if inputs.ndim == 4 or (inputs.ndim == 3 and inputs.dtype == np.uint8):
        return "image"
    if inputs.ndim == 2 and np.issubdtype(inputs.dtype, np.integer):
        return "tokens"
    return "signal"
