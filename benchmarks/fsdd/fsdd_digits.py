"""Free Spoken Digit Dataset: 3,000 digits of six speakers, raw waveforms of one second at 8 kHz (CC BY-SA 4.0).

The official test set is takes 0 to 4 of each speaker and digit. The file is looked for in the folder that
EDGEDISTILL_DATA names, by default ../shared/data beside the repository.
"""

import os
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LENGTH = 8000


def clips(*, official_test):
    folder = Path(os.environ.get("EDGEDISTILL_DATA", REPOSITORY.parent / "shared" / "data"))
    with np.load(folder / "fsdd" / "fsdd.npz") as archive:
        audio, offsets, digits, takes = (archive[name] for name in ("audio", "offsets", "digit", "index"))
    chosen = np.flatnonzero((takes < 5) == official_test)
    waveforms = np.zeros((len(chosen), LENGTH), np.int16)
    for row, clip in enumerate(chosen):
        samples = audio[offsets[clip] : offsets[clip + 1]]
        # In the middle: of the few clips that are longer, both ends are silence.
        start = (LENGTH - len(samples)) // 2
        waveforms[row, max(start, 0) : max(start, 0) + min(len(samples), LENGTH)] = samples[max(-start, 0) :][:LENGTH]
    return waveforms, digits[chosen].astype(np.int64), CLASSES


def train():
    return clips(official_test=False)


def test():
    return clips(official_test=True)
