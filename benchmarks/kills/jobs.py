"""The jobs that are killed, as small as each task allows: a classifier, a detector, texts, sizes to search, and an ONNX file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "faults"))

from planted import network, save_job, save_network

from tests.support.square_finder import draw_squares, square_finder
from tests.support.text_runs import CLASSES, FLOAT, write_texts

DETECTOR: Final = """
name = "job"
[data]
task = "detection"
train = "train/boxes.json"
val = "val/boxes.json"
test = "val/boxes.json"
size = [64, 48]
augment = ["flip"]
[teacher]
model = "finder.onnx"
std = [0.00392156862745098, 0.00392156862745098, 0.00392156862745098]
[student]
model = "zoo:detector"
width = 0.25
[distill]
epochs = 3
optimizer = "adamw"
lr = 0.005
batch_size = 8
views = 2
hard_weight = 0.0
[quantize]
mode = "none"
[[target]]
name = "pc"
kit = "ort"
precisions = ["fp32"]
"""
SEARCH: Final = """
name = "job"
[data]
train = "edgedistill.data.digits:train"
test = "edgedistill.data.digits:test"
[teacher]
model = "zoo:mlperf-resnet8"
width = 0.25
epochs = 1
batch_size = 64
[student]
model = "zoo:mlperf-resnet8"
width = 0.25
[distill]
batch_size = 64
views = 1
[[target]]
name = "pc"
kit = "ort"
precisions = ["fp32"]
budget = { size_bytes = 45_000 }
"""


def classifier(folder: Path) -> None:
    save_job(
        folder,
        teacher={"weights": None, "epochs": 3},
        distill={"epochs": 4, "views": 2, "control": True},
        bench={"processes": 1, "seconds": 0.05},
    )
    _rename(folder / "edgedistill.toml", "faults")


def detector(folder: Path) -> None:
    for split, seed in (("train", 0), ("val", 1)):
        draw_squares(folder / split, 24, seed)
    onnx.save(square_finder("yolo"), folder / "finder.onnx")
    (folder / "edgedistill.toml").write_text(DETECTOR, encoding="utf-8")


def text(folder: Path) -> None:
    _rename(write_texts(folder, CLASSES, {"ort": FLOAT}), "texts").rename(folder / "edgedistill.toml")


def sizes(folder: Path) -> None:
    (folder / "edgedistill.toml").write_text(SEARCH, encoding="utf-8")


def model_file(folder: Path) -> None:
    save_network(folder, network())


def _rename(config: Path, name: str) -> Path:
    """Give a job the name "job"."""
    config.write_text(config.read_text(encoding="utf-8").replace(f'name = "{name}"', 'name = "job"'), encoding="utf-8")
    return config


JOBS: Final[dict[str, Callable[[Path], None]]] = {"classifier": classifier, "detector": detector, "text": text}
