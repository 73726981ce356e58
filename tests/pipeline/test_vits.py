"""Vision transformers of Hugging Face folders through the whole job: two teachers that see images in different ways, one student."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from edgedistill.config.vit import read_vit_config
from edgedistill.models.vit import Vit
from edgedistill.models.weights import load_weights
from tests.support.command import edgedistill
from tests.support.encoders import DEIT, write_vit

pytestmark = pytest.mark.slow
CONFIG = """
name = "vits"
[data]
train = "train.npz"
val = "val.npz"
test = "val.npz"
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
[[teacher]]
model = "hf:vit"
engine = "torch"
precision = "fp32"    # processors with AMX would compute in bfloat16
[[teacher]]
model = "hf:deit"
mean = [0.1, 0.2, 0.3]
weight = 3
engine = "torch"
precision = "fp32"
[student]
layers = 1
[distill]
epochs = 1
batch_size = 32
optimizer = "adamw"
lr = 1e-5
[quantize]
mode = "ptq"
[[target]]
name = "pc"
kit = "ort"
"""
CLASSES = ("bee", "cat", "ant")
VIT = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "size": {"height": 12, "width": 12}}
DEIT_OWN = {"image_mean": [0.0, 0.0, 0.0], "image_std": [0.5, 0.4, 0.3], "size": 8}


def answers(folder: Path, side: int, seen: Tensor, order: list[int]) -> Tensor:
    """Return the logits of a folder for images, in the order of the data's classes."""
    config = read_vit_config(folder)
    model = Vit(config, (side, side), len(config.labels)).eval()
    load_weights(model, folder / "model.safetensors")
    with torch.no_grad():
        return model(seen)[:, order]


def normalised(x: Tensor, mean: list[float], std: list[float]) -> Tensor:
    return (x - torch.tensor(mean).reshape(1, 3, 1, 1)) / torch.tensor(std).reshape(1, 3, 1, 1)


def expected(folder: Path, pictures: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return the logits of both teachers, from what each folder says of its images."""
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255
    larger = functional.interpolate(normalised(x, VIT["image_mean"], VIT["image_std"]), (12, 12), mode="bilinear")
    own = normalised(x, [0.1, 0.2, 0.3], DEIT_OWN["image_std"])
    return answers(folder / "vit", 12, larger, [1, 2, 0]), answers(folder / "deit", 8, own, [2, 0, 1])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on pictures that the teachers label, so that what they answer is right."""
    folder = tmp_path_factory.mktemp("vits")
    write_vit(folder / "vit")
    write_vit(folder / "deit", **DEIT | {"id2label": {"0": "cat", "1": "ant", "2": "bee"}})
    for name, table in (("vit", VIT), ("deit", DEIT_OWN)):
        (folder / name / "preprocessor_config.json").write_text(json.dumps(table))
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (240, 2, 2, 3)).repeat(4, 1).repeat(4, 2)
    pictures = np.clip(base + rng.integers(-20, 20, base.shape), 0, 255).astype(np.uint8)
    first, second = expected(folder, pictures)
    for name, head, logits, order in (
        ("vit", "classifier", first, [2, 0, 1]), ("deit", "cls_classifier", second, [1, 2, 0])
    ):  # fmt: skip
        state = load_file(folder / name / "model.safetensors")
        state[f"{head}.bias"] -= logits.mean(0)[order] * (2 if name == "deit" else 1)
        save_file(state, folder / name / "model.safetensors")
    first, second = expected(folder, pictures)
    labels = (0.25 * first + 0.75 * second).argmax(1).numpy()
    for name, rows in (("train", slice(0, 160)), ("val", slice(160, None))):
        np.savez(folder / f"{name}.npz", inputs=pictures[rows], labels=labels[rows], classes=np.array(CLASSES))
    (folder / "run.toml").write_text(CONFIG)
    done = edgedistill("export", "run.toml", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_each_teacher_sees_images_as_its_folder_says(finished: Path) -> None:
    run = finished / "runs" / "vits"
    with np.load(finished / "train.npz") as file:
        first, second = expected(finished, file["inputs"])
    (logits,) = np.load(run / "soft_labels" / "logits.npy").astype(np.float32)
    np.testing.assert_allclose(logits, 0.25 * first + 0.75 * second, rtol=0, atol=2e-3)


def test_each_teacher_has_a_cache_which_another_weight_takes_again(finished: Path) -> None:
    with np.load(finished / "train.npz") as file:
        first, second = expected(finished, file["inputs"])
    kept = {path.parent.name: np.load(path)[0] for path in (finished / "cache" / "soft_labels").glob("*/logits.npy")}
    assert len(kept) == 3
    for own in (first, second):
        assert sum(np.allclose(one, own, rtol=0, atol=2e-3) for one in kept.values()) == 1
    changed = ("--set", "teacher.1.weight=1", "--run-dir", "even", "--until", "soft_labels")
    done = edgedistill("run", "run.toml", *changed, cwd=finished)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("soft labels: taken from the cache") == 2
    mean = np.load(finished / "even" / "soft_labels" / "logits.npy")[0]
    np.testing.assert_allclose(mean, (first + second) / 2, rtol=0, atol=2e-3)


def test_the_student_keeps_a_layer_of_the_first_teacher_and_is_exported_in_int8(finished: Path) -> None:
    run = finished / "runs" / "vits"
    kept, made = load_file(finished / "vit" / "model.safetensors"), load_file(run / "student" / "model.safetensors")
    name = "encoder.layer.0.attention.output.dense.weight"
    torch.testing.assert_close(made[name], kept[f"vit.{name}"], rtol=0, atol=1e-3)
    torch.testing.assert_close(made["classifier.weight"], kept["classifier.weight"][[1, 2, 0]], rtol=0, atol=1e-3)
    assert not any(".layer.1." in key for key in made)
    models = json.loads((run / "manifest.json").read_text())["stages"]["export"]["record"]["models"]
    assert [(model["name"], model["precision"]) for model in models] == [
        ("teacher", "fp32"), ("student", "fp32"), ("student", "int8"),
    ]  # fmt: skip
    assert all(model["parity"]["agreement"] > 0.95 for model in models)
