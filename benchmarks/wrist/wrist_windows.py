"""Shoulder exercises by a watch: windows of 128 samples, accelerometer and gyroscope, 7 exercises (BSD).

Splits are by subject: 8, 9 and 10 are the test set, 6 and 7 validate, so that neither figure knows the person. The file is
looked for in the folder that EDGEDISTILL_DATA names, by default ../shared/data beside the repository.
"""

import os
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]


def windows(subjects):
    folder = Path(os.environ.get("EDGEDISTILL_DATA", REPOSITORY.parent / "shared" / "data"))
    with np.load(folder / "har" / "shoulder_watch_windows.npz") as archive:
        chosen = np.isin(archive["subject"], subjects)
        signals, labels = archive["x"][chosen].astype(np.float32), archive["y"][chosen].astype(np.int64)
        return signals, labels, tuple(map(str, archive["y_labels"]))


def train():
    return windows((1, 2, 3, 4, 5))


def val():
    return windows((6, 7))


def test():
    return windows((8, 9, 10))
