"""Data without labels: an embedding's student learns from its teacher alone, and is held against it to the end."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from edgedistill.config.load import parse_config
from edgedistill.errors import ConfigError
from edgedistill.models.build import build_model
from edgedistill.tasks.table import find_task
from tests.support.command import edgedistill
from tests.support.learning import checked, interface, loaded
from tests.support.learning import model as named

cosine = find_task("embedding").score

DIMENSIONS = 12
CONFIG = """
name = "embedding"
[data]
train = "train.npz"
test = "test.npz"
task = "embedding"
dimensions = 12
mean = [0.3]
std = [0.37]
augment = ["crop:1", "mixup:0.4"]
[teacher]
model = "zoo:resnet20"
width = 0.5
weights = "teacher.safetensors"
engine = "torch"
[student]
model = "zoo:mlperf-resnet8"
width = 0.5
[distill]
loss = "cosine"
hard_weight = 0
epochs = 8
optimizer = "adamw"
lr = 0.01
batch_size = 64
views = 2
[quantize]
mode = "ptq"
[[target]]
name = "pc"
kit = "ort"
[bench]
processes = 1
seconds = 0.1
"""


def teacher() -> torch.nn.Module:
    """Build a network with weights of no training: its embeddings are as good a target as any."""
    model = build_model(named("zoo:resnet20", 0.5), interface("image", (8, 8), DIMENSIONS), 3)
    model.linear.weight.data *= 3
    model.linear.bias.data.zero_()
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("unlabelled")
    images = (load_digits().images * 255 / 16).round().astype(np.uint8)
    np.savez(found / "train.npz", inputs=images[:1400])
    np.savez(found / "test.npz", inputs=images[1400:])
    save_file({k: v.contiguous() for k, v in teacher().state_dict().items()}, found / "teacher.safetensors")
    (found / "edgedistill.toml").write_text(CONFIG)
    return found


@pytest.fixture(scope="module")
def result(folder: Path) -> subprocess.CompletedProcess[str]:
    found = edgedistill("run", "edgedistill.toml", cwd=folder)
    assert found.returncode == 0, found.stderr
    return found


@pytest.mark.slow
def test_a_student_is_distilled_measured_and_reported_without_a_label(
    folder: Path, result: subprocess.CompletedProcess[str]
) -> None:
    assert "not validated: the data has no labels" in result.stderr
    assert "the data has no labels; students are compared with the teacher's outputs" in result.stderr
    run = folder / "runs" / "embedding"
    stages = json.loads((run / "manifest.json").read_text())["stages"]
    records = {name: entry["record"] for name, entry in stages.items()}
    assert records["data"]["labelled"] is False
    assert records["teacher"]["val_accuracy"] is None
    assert records["soft_labels"]["targets"]["path"] == "soft_labels/targets.npz"
    with np.load(run / "soft_labels" / "targets.npz") as kept, np.load(run / "onnx" / "io.npz") as recorded:
        assert {name: kept[name].shape for name in kept.files} == {"val": (140, 12), "test": (397, 12)}
        np.testing.assert_array_equal(recorded["labels"], kept["test"])
        np.testing.assert_allclose(recorded["expected.teacher-fp32.logits"][:, 0], kept["test"], atol=1e-5)
        student = cosine(recorded["expected.student-fp32.logits"][:, 0], kept["test"])
    measured = {f.stem: json.loads(f.read_text())["accuracy"] for f in (run / "measurements").glob("*.json")}
    assert {found["metric"] for found in measured.values()} == {"cosine"}
    assert measured["local-ort-teacher-fp32"]["value"] == pytest.approx(1, abs=1e-6)
    assert measured["local-ort-fp32"]["value"] == pytest.approx(student, abs=1e-5)
    assert 0.6 < student < 1
    assert records["distill"]["student"]["val_accuracy"] == pytest.approx(student, abs=0.1)
    page = (run / "report.html").read_text()
    assert "no labels" in page
    assert "Accuracy" not in page
    assert "accura" not in result.stdout.replace("budget.accuracy_drop", "")
    again = edgedistill("run", "edgedistill.toml", cwd=folder)
    assert (again.returncode, again.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.usefixtures("result")
def test_an_onnx_teacher_that_is_asked_online_is_held_to_the_same(folder: Path) -> None:
    shutil.copy(folder / "runs" / "embedding" / "onnx" / "teacher-fp32.onnx", folder / "teacher.onnx")
    named = '"zoo:resnet20"\nwidth = 0.5\nweights = "teacher.safetensors"\nengine = "torch"'
    text = CONFIG.replace(named, '"teacher.onnx"').replace("views = 2", "views = 0").replace('"cosine"', '"mse"')
    (folder / "onnx.toml").write_text(text)
    result = edgedistill("run", "onnx.toml", "--until", "export", "--run-dir", "runs/onnx", cwd=folder)
    assert result.returncode == 0, result.stderr
    by_onnx, by_torch = (
        np.load(folder / "runs" / name / "soft_labels" / "targets.npz") for name in ("onnx", "embedding")
    )
    for split in ("val", "test"):
        np.testing.assert_allclose(by_onnx[split], by_torch[split], atol=1e-4)


def table_of(**changes: object) -> dict:
    table = {
        "name": "t", "data": {"train": "d.npz", "test": "d.npz", "task": "embedding", "dimensions": 4},
        "teacher": {"model": "zoo:resnet20", "weights": "w.safetensors"}, "student": {"model": "zoo:mlperf-resnet8"},
        "distill": {"loss": "mse", "hard_weight": 0}, "target": [{"name": "pc", "kit": "openvino"}],
    }  # fmt: skip
    for path, value in changes.items():
        section, _, key = path.partition("__")
        if value is None:
            del table[section][key]
        else:
            table[section][key] = value
    return table


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distill__hard_weight": 0.1}, r"distill\.hard_weight: is 0\.1, but the data has no labels; set it to 0"),
        (
            {"distill__control": True},
            r"distill\.control: a control learns from labels alone",
        ),
        ({"data__dimensions": None}, r"data\.dimensions: required for data without labels"),
        ({"teacher__weights": None}, r"teacher\.weights: the data has no labels to train zoo:resnet20 on"),
        ({"teacher__model": "t.npy"}, r"teacher\.model: t\.npy only holds outputs for training samples"),
        ({"data__test": "labelled.npz"}, r"data\.train: has no labels, but data\.test has"),
        ({"data__train": "labelled.npz"}, r"data\.test: has no labels, but data\.train has"),
        (
            {"data__train": "labelled.npz", "data__test": "labelled.npz"},
            r"data\.dimensions: only applies to data without labels; this data has labels",
        ),
        (
            {"data__task": "classification", "data__dimensions": None, "distill__loss": "kd"},
            r"data\.train: has no labels \(no array 'labels'\), but task 'classification' needs labels; only task 'embedding'",
        ),
        (
            {"data__task": "regression"},
            r"data\.dimensions: only applies to data without labels, but task 'regression' needs labels",
        ),
        ({"data__classes": ["a"]}, r"data\.classes: 1 names, but data\.dimensions is 4"),
        ({"data__dimensions": 1}, r"data\.dimensions: .* greater than or equal to 2"),
    ],
)
def test_what_needs_labels_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    inputs = np.eye(20, 64, dtype=np.uint8).reshape(20, 8, 8)
    np.savez(tmp_path / "d.npz", inputs=inputs)
    np.savez(tmp_path / "labelled.npz", inputs=inputs, labels=np.zeros((20, 4)))
    with pytest.raises(ConfigError, match=message):
        checked(parse_config(table_of(**changes), tmp_path, "test.toml"))


def test_a_function_may_give_no_labels(tmp_path: Path) -> None:
    (tmp_path / "unlabelled_source.py").write_text(
        "import numpy as np\ndef load(): return np.eye(20, 64).reshape(20, 8, 8), None\n"
    )
    name = "unlabelled_source:load"
    data = loaded(parse_config(table_of(data__train=name, data__test=name), tmp_path, "test.toml"))
    assert (data.record.labelled, data.record.classes, data.train.labels.shape) == (False, tuple("0123"), (18, 0))


def test_a_teacher_of_other_dimensions_is_named(folder: Path) -> None:
    settings = ("--set", "data.dimensions=11", "--run-dir", "runs/eleven")
    result = edgedistill("run", "edgedistill.toml", *settings, cwd=folder)
    assert result.returncode == 2
    assert "teacher.safetensors: 'linear.weight' is (12, 32), the model's is (11, 32)" in result.stderr
