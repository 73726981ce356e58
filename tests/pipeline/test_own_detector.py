"""A detector of the user's own, by the protocol in docs/boxes-and-masks.md: from pictures with boxes to exported files."""

from pathlib import Path

import onnx
import pytest

from tests.support.command import edgedistill
from tests.support.runs import stages
from tests.support.square_finder import draw_squares

MODULE = """
import torch
from torch import nn


def block(channels, out):
    return nn.Sequential(nn.Conv2d(channels, out, 3, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


class Detector(nn.Module):
    def __init__(self, classes, channels, size):
        super().__init__()
        self.stem = nn.Sequential(block(channels, size), block(size, size))
        self.levels = nn.ModuleList([block(size, size) for _ in range(3)])
        self.classes = nn.ModuleList([nn.Conv2d(size, classes, 1) for _ in range(3)])
        self.boxes = nn.ModuleList([nn.Conv2d(size, 32, 1) for _ in range(3)])

    def forward(self, x):
        x, classes, boxes = self.stem(x), [], []
        for level, kinds, sides in zip(self.levels, self.classes, self.boxes):
            x = level(x)
            classes.append(kinds(x).flatten(2).transpose(1, 2))
            boxes.append(sides(x).flatten(2).transpose(1, 2))
        return {"classes": torch.cat(classes, 1), "boxes": torch.cat(boxes, 1)}


class Unnamed(Detector):
    def forward(self, x):
        return super().forward(x)["classes"]


class WithoutCell(Detector):
    def forward(self, x):
        return {name: values[:, 1:] for name, values in super().forward(x).items()}


def large(classes, channels):
    return Detector(classes, channels, 24)


def small(classes, channels):
    return Detector(classes, channels, 12)


def unnamed(classes, channels):
    return Unnamed(classes, channels, 12)


def without_cell(classes, channels):
    return WithoutCell(classes, channels, 12)
"""
CONFIG = """
name = "own"
[data]
task = "detection"
train = "train/boxes.json"
val = "val/boxes.json"
test = "test/boxes.json"
size = [64, 48]
[teacher]
model = "finder:large"
epochs = 1
batch_size = 8
[student]
model = "finder:small"
[distill]
epochs = 1
batch_size = 8
views = 2
[quantize]
mode = "ptq"
[[target]]
name = "pc"
kit = "ort"
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    for seed, (split, count) in enumerate({"train": 24, "val": 8, "test": 8}.items()):
        draw_squares(tmp_path / split, count, seed)
    (tmp_path / "finder.py").write_text(MODULE)
    (tmp_path / "edgedistill.toml").write_text(CONFIG)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("unnamed", "the model has no output 'classes'; it has: logits; it must return 'classes' of shape (2, 64, 2) and "),
        ("without_cell", "outputs (2, 63, 34); expected 'classes' of shape (2, 64, 2) and 'boxes' of shape (2, 64, 32): 64 cells"),
    ],
)  # fmt: skip
def test_outputs_that_are_not_those_of_all_cells_are_refused_with_what_is_expected(
    job: Path, model: str, said: str
) -> None:
    done = edgedistill("run", "edgedistill.toml", "--set", f"teacher.model=finder:{model}", cwd=job)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr


@pytest.mark.slow
def test_a_module_of_the_user_teaches_learns_and_is_exported(job: Path) -> None:
    done = edgedistill("run", "edgedistill.toml", "--until", "export", cwd=job)
    assert done.returncode == 0, done.stderr
    run = job / "runs" / "own"
    assert stages(run)["distill"]["record"]["student"]["parameters"] > 0
    model = onnx.load(run / "onnx" / "student-fp32.onnx")
    assert [one.name for one in model.graph.output] == ["scores", "boxes"]
