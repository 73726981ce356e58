"""The test pictures on which models differ most, with what each answered: bounded in number and bytes.

Each picture is embedded once; boxes and masks are drawn over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from edgedistill.report.differences import Differences, Panel
from edgedistill.report.images import TINY, Inputs, picture_uri

MOST: Final = 8
BYTES: Final = 400_000
"""All pictures and masks together; base64 included."""


class Card(NamedTuple):
    """A test sample: its number, the data URI of its picture, if it has one, its size in pixels, and a panel for each model."""

    number: int
    picture: str | None
    width: int
    height: int
    panels: tuple[Panel, ...]

    @property
    def is_tiny(self) -> bool:
        """Whether the picture is drawn with hard edges."""
        return max(self.width, self.height) <= TINY

    @property
    def bytes(self) -> int:
        """The length of the embedded data."""
        return len(self.picture or "") + sum(len(one.mask or "") for one in self.panels)


def cards(differences: Differences, inputs: Inputs, names: Sequence[str]) -> tuple[Card, ...]:
    """Return a card for each of the samples on which models of one test set differ most, the largest difference first."""
    chosen, used = [], 0
    for number in differences.order()[:MOST].tolist():
        card = _card(number, inputs.picture(number), differences.panels(number, names))
        used += card.bytes
        if used > BYTES:
            break
        chosen.append(card)
    return tuple(chosen)


def _card(number: int, picture: np.ndarray | None, panels: tuple[Panel, ...]) -> Card:
    if picture is None:
        return Card(number, None, 0, 0, panels)
    height, width = picture.shape[:2]
    return Card(number, picture_uri(picture), width, height, panels)
