"""A teacher that is loaded is examined: chance is an error that names the tested cause and the line that repairs it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

from edgedistill.distill.settings import declare_teacher
from edgedistill.distill.teacher import check_teacher, make_teachers
from edgedistill.errors import ConfigError
from edgedistill.records.base import FileRef
from edgedistill.stages.stage import Workspace
from edgedistill.tasks.table import find_task
from tests.support.learning import config_of, loaded, sources_of
from tests.support.listener import Listener
from tests.support.small_onnx import text_model

CODE = """
from torch import nn
def net(classes, channels, shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * shape[0] * shape[1], classes))
"""
NAMES = ("ant", "bee", "cat", "dog", "elk")
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, np.ndarray]]:
    """Return folders with colour images of five classes, and the mean image of each class, from 0 to 1, channels first.

    The classes differ in colour, or in brightness.
    """
    rng, labels, made = np.random.default_rng(0), np.arange(600) % 5, {}
    for name, colour, brightness in (("colour", 80, 0), ("brightness", 10, 90)):
        folder = tmp_path_factory.mktemp(name)
        red = rng.uniform(-colour, colour, (5, 6, 6))
        means = np.stack([128 + red, np.full_like(red, 128), 128 - red], -1)
        means += np.linspace(-brightness, brightness, 5)[:, None, None, None]
        images = np.clip(means[labels] + rng.normal(0, 20, (600, 6, 6, 3)), 0, 255).astype(np.uint8)
        np.savez(folder / "train.npz", inputs=images, labels=labels, classes=NAMES)
        np.savez(folder / "test.npz", inputs=images[:50], labels=labels[:50], classes=NAMES)
        (folder / "nets.py").write_text(CODE)
        made[name] = folder, (means / 255).transpose(0, 3, 1, 2).astype(np.float32)
    return made


def nearest_mean(means: np.ndarray, convert: Callable[[np.ndarray], np.ndarray], order: list[int]) -> Weights:
    """Return the weights that answer with the nearest mean image, for inputs as `convert` makes them from 0 to 1."""
    flat = convert(means).reshape(len(means), -1)[order]
    return {"1.weight": torch.from_numpy(flat.copy()), "1.bias": torch.from_numpy(-0.5 * (flat**2).sum(1))}


def normalised(x: np.ndarray, mean: list[float], std: list[float]) -> np.ndarray:
    return ((x - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))).astype(np.float32)


def examine(folder: Path, teacher: dict[str, Any], **data: Any) -> list[str]:
    """Run the teacher stage in a folder and return what it says."""
    config = config_of(folder, teacher=teacher, data={"train": "train.npz", "test": "test.npz", **data})
    record, said = loaded(config).record, Listener()
    settings = declare_teacher(sources_of(config, record))
    check_teacher(settings, 0, {"input": torch.rand(2, 3, 6, 6)})
    make_teachers(
        settings, Workspace(folder / "run", "key", said, lambda path: FileRef(path=path.name, sha256="", bytes=0))
    )
    return said.said


SAME = [0, 1, 2, 3, 4]
CASES: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray], list[int], str, dict[str, Any]]] = {
    "raw": ("brightness", lambda x: x * 255, SAME, "input values up to 255", {"std": [0.0039215686] * 3}),
    "bgr": ("colour", lambda x: x[:, ::-1], SAME, "BGR", {"channels": "bgr"}),
    "imagenet": (
        "brightness", lambda x: normalised(x, MEAN, STD), SAME, "the mean and std of ImageNet", {"mean": MEAN, "std": STD},
    ),
    "half": ("brightness", lambda x: (x - 0.5) / 0.5, SAME, "mean and std 0.5", {"mean": [0.5] * 3, "std": [0.5] * 3}),
    "shifted": (
        "colour", lambda x: x, [1, 2, 3, 4, 0], "classes shifted by -1", {"classes": ["bee", "cat", "dog", "elk", "ant"]},
    ),
    "permuted": (
        "colour", lambda x: x, [2, 4, 3, 0, 1], "another order of the classes",
        {"classes": ["cat", "elk", "dog", "ant", "bee"]},
    ),
    "raw bgr": (
        "colour", lambda x: x[:, ::-1] * 255, SAME, "input values up to 255 and BGR",
        {"std": [0.0039215686] * 3, "channels": "bgr"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_cause_is_tested_named_and_repaired_by_its_line(
    problems: dict[str, tuple[Path, np.ndarray]], case: str
) -> None:
    data, convert, order, words, keys = CASES[case]
    folder, means = problems[data]
    save_file(nearest_mean(means, convert, order), folder / f"{case}.safetensors")
    teacher = {"model": "nets:net", "weights": f"{case}.safetensors", "precision": "fp32"}
    if case == "imagenet":  # weak, but above chance
        (message,) = (line for line in examine(folder, teacher) if line.startswith("warning: teacher (nets:net): "))
        assert "would be clearly higher with another setting" in message
    else:
        with pytest.raises(ConfigError, match="no better than chance") as raised:
            examine(folder, teacher)
        message = str(raised.value)
    assert f"With {words} it is 100.00%: in [teacher], set " in message
    for key, value in keys.items():
        assert f"{key} = {json.dumps(value)}" in message
    said = examine(folder, teacher | keys)
    assert any("validation accuracy 100.00%" in line for line in said)
    assert not any("warning" in line for line in said)


def test_saved_outputs_are_scored_on_their_training_samples(problems: dict[str, tuple[Path, np.ndarray]]) -> None:
    folder, _ = problems["colour"]
    labels = np.load(folder / "train.npz")["labels"]
    right = np.eye(5, dtype=np.float32)[labels]
    np.save(folder / "right.npy", right)
    np.save(folder / "order.npy", right[:, [2, 4, 3, 0, 1]])
    np.save(folder / "more.npy", np.insert(right, 2, 0.5, 1))
    np.save(folder / "other.npy", right[np.random.default_rng(1).permutation(600)])
    np.save(folder / "nan.npy", np.where(np.arange(600)[:, None] == 7, np.nan, right))
    scored = "accuracy 100.00% on the training samples"
    assert examine(folder, {"model": "right.npy"}) == [f"teacher: right.npy, {scored}"]
    names = ["ant", "bee", "background", "cat", "dog", "elk"]
    assert examine(folder, {"model": "more.npy", "classes": names}) == [f"teacher: more.npy, {scored}"]
    for name, words in (
        ("order", r'in \[teacher\], set classes = \["cat", "elk", "dog", "ant", "bee"\]'),
        ("other", "No tested cause explains it; check that the weights, the classes and the data belong together"),
        ("nan", "gives NaN or infinity for 0.2% of 540 samples; check the weights"),
    ):
        with pytest.raises(ConfigError, match=words):
            examine(folder, {"model": f"{name}.npy"})


@pytest.mark.parametrize("keys", [
    ({"mean": [0.5]}, r"teacher\.mean: 1 values, but samples have 3 channel\(s\)"),
    ({"classes": ["ant", "bee", "cat", "dog", "elf"]}, r"teacher\.classes: has no class 'elk', which the data has; perhaps 'elf'"),
    ({"classes": ["ant", "ant", *NAMES[1:]]}, r"teacher\.classes: names 'ant' twice"),
    ({"model": "right.npy", "size": 8}, r"teacher\.size: saved outputs take no inputs"),
])  # fmt: skip
def test_keys_of_the_teachers_view_that_make_no_sense_are_refused(
    problems: dict[str, tuple[Path, np.ndarray]], keys: tuple[dict[str, Any], str]
) -> None:
    folder, _ = problems["colour"]
    np.save(folder / "right.npy", np.zeros((600, 5), np.float32))
    with pytest.raises(ConfigError, match=keys[1]):
        examine(folder, {"model": "nets:net"} | keys[0])


def test_the_order_of_values_and_of_labels_is_found() -> None:
    rng = np.random.default_rng(0)
    values, tags = rng.normal(size=(300, 3)), (rng.random((300, 3)) < 0.2).astype(float)
    for name, labels in (("regression", values), ("multi-label", tags)):
        assert find_task(name).match_outputs(labels[:, [2, 0, 1]], labels).tolist() == [1, 2, 0]


def test_an_onnx_file_for_one_sample_only_fails_in_words(problems: dict[str, tuple[Path, np.ndarray]]) -> None:
    folder, _ = problems["colour"]
    shape, dense = np.array([1, 108]), np.ones((108, 5), np.float32)
    graph = "(float[N, 3, 6, 6] x) => (float[M, 5] y) { f = Reshape(x, s) y = MatMul(f, w) }"
    onnx.save(text_model(graph, s=shape, w=dense), folder / "one.onnx")
    with pytest.raises(
        ConfigError, match=r"^teacher one\.onnx: fails on a batch of 2 samples in ONNX Runtime: .*; export it for"
    ):
        examine(folder, {"model": "one.onnx"})
