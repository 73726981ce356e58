"""Fashion-MNIST (Xiao et al. 2017) as pictures that a network for CIFAR-10 takes: 32x32, with the grey level in three channels.

The files are those of Debian's package dataset-fashion-mnist, or in the folder that FASHION_MNIST names.
"""

import functools
import gzip
import os
from pathlib import Path

import numpy as np

CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
FOLDER = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))


def read(name, header):
    return np.frombuffer(gzip.decompress((FOLDER / name).read_bytes()), np.uint8, offset=header)


@functools.cache
def split(part):
    images = read(f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    return np.repeat(padded[..., None], 3, 3), read(f"{part}-labels-idx1-ubyte.gz", 8).astype(np.int64)


def few(each):
    """Return `each` pictures of each class: the first ones of a fixed order, so that 50 labels include those of 10."""
    images, labels = split("train")
    order = np.random.default_rng(0).permutation(len(labels))
    kept = np.concatenate([order[labels[order] == kind][:each] for kind in range(len(CLASSES))])
    return images[kept], labels[kept], CLASSES


def ten():
    return few(10)


def fifty():
    return few(50)


def hundred():
    return few(100)


def test():
    """Return 5,000 of the test pictures."""
    images, labels = split("t10k")
    return images[:5_000], labels[:5_000], CLASSES
