"""CamVid-JPEG road scenes in tiles, each with what is in it: several labels for a sample, made from a data set of masks.

A frame of 480x360 pixels is cut into six tiles of 160x180, each shrunk to 42x48. A label is given where its class covers at
least 1 % of the tile by the mask; void (11) counts as nothing. Frames are split as published: 367, 101 and 233, so tiles of
one frame are in one split. The folder is looked for in the one that EDGEDISTILL_DATA names, by default ../shared/data beside
the repository. (Brostow et al. 2009; pictures re-encoded as JPEG.)
"""

import os
from pathlib import Path

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "cyclist",
)  # fmt: skip
COLUMNS, ROWS = 3, 2
SIZE = (42, 48)  # width, height
SHARE = 0.01


def tiles(split):
    folder = (
        Path(os.environ.get("EDGEDISTILL_DATA", REPOSITORY.parent / "shared" / "data"))
        / "segmentation"
        / "camvid"
        / split
    )
    inputs, labels = [], []
    for file in sorted((folder / "images").iterdir()):
        image = Image.open(file).convert("RGB")
        mask = np.asarray(Image.open(next((folder / "masks").glob(f"{file.stem}*"))))
        width, height = image.width // COLUMNS, image.height // ROWS
        for place in range(COLUMNS * ROWS):
            left, top = place % COLUMNS * width, place // COLUMNS * height
            tile = image.crop((left, top, left + width, top + height))
            inputs.append(np.asarray(tile.resize(SIZE, Image.Resampling.BOX)))
            counts = np.bincount(mask[top : top + height, left : left + width].ravel(), minlength=12)[:11]
            labels.append(counts >= SHARE * width * height)
    return np.stack(inputs), np.stack(labels).astype(np.int64), CLASSES


def train():
    return tiles("train")


def val():
    return tiles("val")


def test():
    return tiles("test")
