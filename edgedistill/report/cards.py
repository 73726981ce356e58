"""The test samples on which models differ most, with what each answered: bounded in number and bytes.

Each picture is embedded once in the page; boxes and masks are drawn over it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from edgedistill.report.differences import Differences, Panel
from edgedistill.report.images import TINY, Inputs, picture_uri

FIRST: Final = 8
"""Samples of the first target."""
LATER: Final = 4
"""Samples of each other target, whose models answer almost the same."""
BYTES: Final = 400_000
"""All pictures and masks of a page together; base64 included."""


class Card(NamedTuple):
    """A test sample: its number, its text, or the data URI of its picture and its size in pixels, and a panel for each model.

    `picture` is None, and `is_repeated` is true, if another card of the page has the picture.
    """

    number: int
    picture: str | None
    width: int
    height: int
    panels: tuple[Panel, ...]
    text: str | None = None
    is_repeated: bool = False

    @property
    def is_tiny(self) -> bool:
        """Whether the picture is drawn with hard edges."""
        return max(self.width, self.height) <= TINY

    @property
    def bytes(self) -> int:
        """The length of the embedded data."""
        return len(self.picture or "") + sum(len(one.mask or "") for one in self.panels)


class Limits(NamedTuple):
    """At most this many cards and bytes, and the cards by number whose pictures the page has already."""

    most: int
    bytes: int
    shown: Mapping[int, Card]


def cards(differences: Differences, inputs: Inputs, names: Sequence[str], limits: Limits) -> tuple[Card, ...]:
    """Return a card for each of the samples on which models of one test set differ most, the largest difference first."""
    chosen, used = [], 0
    for number in differences.order()[: limits.most].tolist():
        card = _card(number, inputs, differences.panels(number, names), limits.shown)
        used += card.bytes
        if used > limits.bytes:
            break
        chosen.append(card)
    return tuple(chosen)


def _card(number: int, inputs: Inputs, panels: tuple[Panel, ...], shown: Mapping[int, Card]) -> Card:
    if number in shown:
        return shown[number]._replace(picture=None, panels=panels, is_repeated=True)
    picture = inputs.picture(number)
    if picture is None:
        return Card(number, None, 0, 0, panels, inputs.text(number))
    height, width = picture.shape[:2]
    return Card(number, picture_uri(picture), width, height, panels)
