"""CIFAR-10-JPEG: all of CIFAR-10, JPEG-compressed at quality 75. Published CIFAR-10 accuracies do not transfer to it.

The packed file is looked for in the folder that EDGEDISTILL_DATA names, by default ../shared/data beside the repository.
"""

import functools
import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@functools.cache
def packed():
    folder = Path(os.environ.get("EDGEDISTILL_DATA", REPOSITORY.parent / "shared" / "data"))
    return np.load(folder / "cifar10" / "cifar10_jpeg_packed.npz")


def decode(part):
    archive = packed()
    header = archive["prefix"].tobytes()
    tails, offsets = archive[f"{part}_data"].tobytes(), archive[f"{part}_off"]
    images = np.empty((len(offsets) - 1, 32, 32, 3), np.uint8)
    for i in range(len(images)):
        images[i] = Image.open(io.BytesIO(header + tails[offsets[i] : offsets[i + 1]])).convert("RGB")
    return images, archive[f"{part}_y"].astype(np.int64), CLASSES


def train():
    return decode("train")


def test():
    return decode("test")
