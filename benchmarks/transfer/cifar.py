"""1,000 training pictures of each class of CIFAR-10-JPEG, for the run that students start from."""

import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "cifar10"))
import cifar10_jpeg

EACH = 1_000


def train():
    images, labels, classes = cifar10_jpeg.train()
    kept = np.concatenate([np.flatnonzero(labels == kind)[:EACH] for kind in range(len(classes))])
    return images[kept], labels[kept], classes


def test():
    images, labels, classes = cifar10_jpeg.test()
    return images[:2_000], labels[:2_000], classes
