"""A user's module of two inputs and two outputs through the whole job, on every kit that runs here."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.support.command import edgedistill

NETWORKS = """
import numpy as np
import torch
from torch import nn


def samples(seed, count):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    images = rng.integers(0, 60, (count, 8, 8, 3)).astype(np.uint8)
    for image, label in zip(images, labels):
        image[label // 2 * 4 : label // 2 * 4 + 4, :, label % 2] += 120
    return {"image": images, "sensor": (rng.normal(size=(count, 5)) + labels[:, None]).astype(np.float32)}, labels


def train():
    return samples(0, 400)


def test():
    return samples(1, 100)


class Network(nn.Module):
    def __init__(self, classes, inputs, width, answer):
        super().__init__()
        channels, values = inputs["image"][0], inputs["sensor"][0]
        self.pictures = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1), nn.ReLU()
        )
        self.values = nn.Sequential(nn.Linear(values, width), nn.ReLU())
        self.head, self.side, self.answer = nn.Linear(2 * width, classes), nn.Linear(2 * width, 6), answer

    def forward(self, image, sensor):
        both = torch.cat([self.pictures(image).mean((2, 3)), self.values(sensor)], 1)
        return self.answer(self.head(both), self.side(both))


def keyed(logits, side):
    return {"logits": logits, "embedding": side}


def swapped(logits, side):
    return side, logits


def big(classes, inputs):
    return Network(classes, inputs, 32, keyed)


def small(classes, inputs):
    return Network(classes, inputs, 16, keyed)


def big_tuple(classes, inputs):
    return Network(classes, inputs, 32, swapped)


def small_tuple(classes, inputs):
    return Network(classes, inputs, 16, swapped)


def other_order(classes, inputs):
    class Swapped(Network):
        def forward(self, sensor, image):
            return super().forward(image, sensor)

    return Swapped(classes, inputs, 16, keyed)


def lonely(classes, inputs):
    return Network(classes, inputs, 16, lambda logits, side: {"logits": logits, "mask": side})
"""
CONFIG = """
name = "two"
[data]
train = "networks:train"
test = "networks:test"
augment = ["flip"]
[data.inputs.image]
mean = [0.3, 0.3, 0.1]
std = [0.2, 0.2, 0.2]
[data.inputs.sensor]
kind = "features"
[teacher]
model = "networks:big"
epochs = 20
batch_size = 40
optimizer = "adamw"
engine = "torch"
[student]
model = "networks:small"
[distill]
epochs = 15
batch_size = 40
optimizer = "adamw"
lr = 0.003
views = 2
[quantize]
mode = "ptq"
[export]
bake = ["normalize"]
[bench]
processes = 1
seconds = 0.1
"""


def written(folder: Path, kits: tuple[str, ...] = ("ort",)) -> Path:
    targets = "".join(f'[[target]]\nname = "pc-{kit}"\nkit = "{kit}"\n' for kit in kits)
    (folder / "networks.py").write_text(NETWORKS)
    (folder / "edgedistill.toml").write_text(CONFIG + targets)
    return folder


@pytest.mark.parametrize(
    ("kits", "settings", "outputs", "judged"),
    [
        (("ort",), (), ["logits", "embedding"], "logits"),
        pytest.param(("openvino",), (), ["logits", "embedding"], "logits", marks=pytest.mark.slow),
        pytest.param(
            ("openvino", "ort"), ("teacher.model=networks:big_tuple", "student.model=networks:small_tuple", "data.output=output_1"),
            ["output_0", "output_1"], "output_1", marks=pytest.mark.slow,
        ),
    ],
    ids=["dictionary", "dictionary on OpenVINO", "tuple"],
)  # fmt: skip
def test_two_inputs_and_two_outputs_are_distilled_quantized_exported_and_measured(
    tmp_path: Path, kits: tuple[str, ...], settings: tuple[str, ...], outputs: list[str], judged: str
) -> None:
    changes = [part for setting in settings for part in ("--set", setting)]
    result = edgedistill("run", "edgedistill.toml", *changes, cwd=written(tmp_path, kits))
    assert result.returncode == 0, result.stderr
    run = tmp_path / "runs" / "two"
    stages = json.loads((run / "manifest.json").read_text())["stages"]
    assert [one["name"] for one in stages["data"]["record"]["inputs"]] == ["image", "sensor"]
    (other,) = set(outputs) - {judged}
    kept = stages["soft_labels"]["record"]["outputs"][other]["path"]
    assert np.load(run / kept).shape == (2, 400 - 40, 6)  # views, samples without those of validation, values
    for model in stages["export"]["record"]["models"]:
        graph = onnx.load(str(run / model["file"]["path"])).graph
        assert [value.name for value in graph.input] == ["image", "sensor"]
        assert [value.name for value in graph.output] == outputs
        assert (model["output"], set(model["parity"]["outputs"])) == (judged, set(outputs))
    for kit in kits:
        for name in ("teacher-fp32", "fp32", "int8"):
            measured = json.loads((run / "measurements" / f"local-{kit}-{name}.json").read_text())
            assert set(measured["parity"]["outputs"]) == set(outputs)
            assert measured["parity"]["agreement"] > 0.9
            assert measured["accuracy"]["value"] > 0.6
    if "ort" in kits:
        int8 = json.loads((run / "measurements" / "local-ort-int8.json").read_text())
        assert int8["precision"]["executed"] == {"int8": 5}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("student.model=networks:other_order", "takes (sensor, image), but the data's inputs are (image, sensor)"),
        ("student.model=networks:lonely", "the teacher has no output 'mask' for the student to learn from"),
        ("data.output=scores", "has no output 'scores'; it has: logits, embedding"),
        ("data.inputs.sound.kind=signal", "data.inputs.sound: the data has no such input; it has: image, sensor"),
        ("data.mean=[0.5]", "kind, mean and std belong in [data.inputs.NAME]"),
        ("student.model=zoo:resnet20", "takes one input, but the data has 2 (image, sensor)"),
        ("distill.other_outputs=['depth']", "the student has no other output 'depth'; it has: embedding"),
    ],
)
def test_what_does_not_fit_several_tensors_is_refused_before_anything_is_written(
    tmp_path: Path, setting: str, message: str
) -> None:
    result = edgedistill("run", "edgedistill.toml", "--set", setting, cwd=written(tmp_path))
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert not (tmp_path / "runs").exists()
