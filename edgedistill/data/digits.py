"""A small set of pictures for a first try: scikit-learn's bundled handwritten digits (Alpaydin and Kaynak 1998), 8x8 grey levels from 0 to 16."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from edgedistill.data.sources import Array


def train() -> tuple[Array, Array]:
    """Return 1,437 images (N, 8, 8) uint8 and their labels."""
    return _split(0)


def test() -> tuple[Array, Array]:
    """Return 360 other images (N, 8, 8) uint8 and their labels."""
    return _split(1)


def all_digits() -> tuple[Array, Array]:
    """Return all 1,797 images (N, 8, 8) uint8, from 0 to 255, and their labels."""
    digits = load_digits()
    return (digits.images * 255 / 16).round().astype(np.uint8), digits.target


def _split(part: int) -> tuple[Array, Array]:
    images, labels = all_digits()
    parts = train_test_split(images, labels, test_size=360, stratify=labels, random_state=0)
    return parts[part], parts[2 + part]
