"""The data of the demo: pictures of 32x32 pixels, each with a handwritten digit among pieces of other digits.

The digits are scikit-learn's: 1,797 of 8x8 pixels (Alpaydin and Kaynak 1998). Each digit stands in one picture, enlarged, at a random place,
with three pieces of digits of the same split and some noise. Only some of the training pictures have labels, as in most projects.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.random import Generator
from PIL import Image
from sklearn.model_selection import train_test_split

from edgedistill.data.digits import all_digits
from edgedistill.data.sources import Array

SIDE: Final = 32
LABELLED: Final = 500
TEST: Final = 600
PIECES: Final = 3
NOISE: Final = 12
"""The standard deviation of the noise, of 255 grey levels."""


def labelled() -> tuple[Array, Array]:
    """Return 500 pictures (N, 32, 32) uint8 and the digit in each."""
    digits, labels = _splits()[0]
    return _pictures(digits, seed=0), labels


def unlabelled() -> tuple[Array, None]:
    """Return 697 other pictures (N, 32, 32) uint8, without labels."""
    return _pictures(_splits()[1][0], seed=1), None


def test() -> tuple[Array, Array]:
    """Return 600 other pictures (N, 32, 32) uint8 and the digit in each."""
    digits, labels = _splits()[2]
    return _pictures(digits, seed=2), labels


def _splits() -> list[tuple[Array, Array]]:
    """Return the digits (N, 8, 8) uint8 and their labels: those with labels, those without, and those of the test set."""
    first, test_digits, first_labels, test_labels = _split(*all_digits(), TEST)
    without, known, without_labels, known_labels = _split(first, first_labels, LABELLED)
    return [(known, known_labels), (without, without_labels), (test_digits, test_labels)]


def _split(digits: Array, labels: Array, size: int) -> tuple[Array, Array, Array, Array]:
    first, second, first_labels, second_labels = train_test_split(
        digits, labels, test_size=size, stratify=labels, random_state=0
    )
    return first, second, first_labels, second_labels


def _pictures(digits: Array, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    return np.stack([_picture(digit, digits, rng) for digit in digits])


def _picture(digit: Array, others: Array, rng: Generator) -> Array:
    """Return a picture of a digit, with pieces of others and noise."""
    picture = np.zeros((SIDE, SIDE), np.float32)
    for _ in range(PIECES):
        height, width = rng.integers(4, 7, 2)
        top, left = rng.integers(0, 8, 2)
        other = _enlarged(others[rng.integers(len(others))], 14)
        _put(picture, other[top : top + height, left : left + width], rng)
    _put(picture, _enlarged(digit, int(rng.integers(14, 23))), rng)
    return np.clip(picture + rng.normal(0, NOISE, picture.shape), 0, 255).astype(np.uint8)


def _enlarged(digit: Array, side: int) -> Array:
    return np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC), np.float32)


def _put(picture: Array, part: Array, rng: Generator) -> None:
    """Draw a part at a random place of a picture, which changes; the brighter pixel of both stays."""
    top, left = (int(rng.integers(0, SIDE - size + 1)) for size in part.shape)
    place = picture[top : top + part.shape[0], left : left + part.shape[1]]
    np.maximum(place, part, out=place)
