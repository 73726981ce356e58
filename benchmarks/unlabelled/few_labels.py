"""CIFAR-10-JPEG with the labels of 500 pictures of each class; the other 45,000 training pictures have none."""

import functools
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "cifar10"))
import cifar10_jpeg

EACH = 500


@functools.cache
def parts():
    """Return the pictures, the labels, and which pictures keep their labels: a fixed choice of EACH of each class."""
    images, labels, _ = cifar10_jpeg.train()
    order = np.random.default_rng(0).permutation(len(labels))
    kept = np.concatenate([order[labels[order] == kind][:EACH] for kind in range(10)])
    return images, labels, np.isin(np.arange(len(labels)), kept)


def few():
    images, labels, kept = parts()
    return images[kept], labels[kept], cifar10_jpeg.CLASSES


def others():
    images, _, kept = parts()
    return images[~kept], None


def whole():
    return cifar10_jpeg.train()


def test():
    return cifar10_jpeg.test()
