import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import r2_score

from edgedistill.data.dataset import Dataset
from edgedistill.errors import ConfigError
from edgedistill.tasks.table import find_task
from tests.support.command import edgedistill
from tests.support.learning import checked, config_of, loaded

r2, cosine = (find_task(name).score for name in ("regression", "embedding"))

CONFIG = """
name = "values"
[data]
train = "train.npz"
test = "test.npz"
task = "TASK"
augment = []
mean = [0.3]
std = [0.37]
[teacher]
model = "zoo:resnet20"
width = 0.5
epochs = 6
optimizer = "adamw"
lr = 0.005
batch_size = 64
[student]
model = "zoo:mlperf-resnet8"
width = 0.5
[distill]
loss = "mse"
epochs = 6
optimizer = "adamw"
lr = 0.005
batch_size = 64
views = 1
control = true
[quantize]
mode = "ptq"
[[target]]
name = "pc"
kit = "ort"
[bench]
processes = 1
seconds = 0.1
"""


def centroids(images: np.ndarray) -> np.ndarray:
    """Where the ink of a picture is: row and column in pixels from the middle."""
    places = np.arange(8) - 3.5
    ink = images.sum((1, 2))
    return np.stack([(images.sum(2) * places).sum(1) / ink, (images.sum(1) * places).sum(1) / ink], 1)


def write_digits(folder: Path, task: str) -> None:
    images = load_digits().images
    if task == "regression":
        labels = centroids(images).astype(np.float32)
    else:
        labels = PCA(6, random_state=0).fit_transform(images.reshape(len(images), -1)).astype(np.float32) / 10
    pixels = (images * 255 / 16).round().astype(np.uint8)
    np.savez(folder / "train.npz", inputs=pixels[:1400], labels=labels[:1400])
    np.savez(folder / "test.npz", inputs=pixels[1400:], labels=labels[1400:])
    (folder / "edgedistill.toml").write_text(CONFIG.replace("TASK", task))


@pytest.mark.parametrize(
    ("task", "metric", "heading"),
    [
        pytest.param("regression", "r2", "R² %", marks=pytest.mark.slow),
        pytest.param("embedding", "cosine", "cos. %", marks=pytest.mark.slow),
    ],
)
def test_a_run_on_values_is_measured_by_its_own_metric(tmp_path: Path, task: str, metric: str, heading: str) -> None:
    write_digits(tmp_path, task)
    result = edgedistill("run", "edgedistill.toml", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert heading in result.stdout
    run = tmp_path / "runs" / "values"
    measured = {f.stem: json.loads(f.read_text()) for f in (run / "measurements").glob("*.json")}
    assert len(measured) == 3
    with np.load(run / "onnx" / "io.npz") as recorded:
        labels, expected = recorded["labels"], recorded["expected.student-fp32.logits"][:, 0]
    score = {"r2": r2, "cosine": cosine}[metric]
    for name, measurement in measured.items():
        found = measurement["accuracy"]
        assert (found["metric"], found["n"]) == (metric, 397)
        assert found["ci95"][0] <= found["value"] <= found["ci95"][1]
        assert found["value"] > 0.5, name
        assert measurement["parity"]["agreement"] > 0.99
    got = measured["local-ort-fp32"]["accuracy"]["value"]
    assert got == pytest.approx(score(expected, labels), abs=1e-4)
    page = (run / "report.html").read_text()
    assert ("R², %" if metric == "r2" else "Cosine, %") in page
    assert "Accuracy, %" not in page


def test_metrics_are_those_of_their_definitions() -> None:
    rng = np.random.default_rng(0)
    wanted = rng.normal(size=(200, 3)) * [1, 5, 0.1] + [0, 9, -2]
    got = wanted + rng.normal(size=(200, 3)) * [0.5, 1, 0.2]
    assert r2(got, wanted) == pytest.approx(r2_score(wanted, got))
    constant = np.ones((5, 1))
    assert (r2(constant, constant), r2(constant + 1, constant)) == (1, 0)
    assert cosine(np.array([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]]), np.array([[6.0, 8.0], [1.0, 0.0], [1.0, 1.0]])) == (
        pytest.approx((1 + 0 + 0) / 3)
    )
    logits = rng.normal(size=(50, 4))
    assert find_task("classification").agreement(logits, np.roll(logits, 1, 0)) < 0.6
    assert find_task("regression").agreement(got, wanted) == r2(got, wanted)


def data_of(folder: Path, labels: object, **data: object) -> Dataset:
    np.savez(folder / "d.npz", inputs=np.eye(20, 64, dtype=np.uint8).reshape(20, 8, 8), labels=np.asarray(labels))
    table = {"train": "d.npz", "test": "d.npz"} | data
    return loaded(config_of(folder, data=table, distill={"loss": "mse"}))


def test_values_become_rows_of_float32(tmp_path: Path) -> None:
    data = data_of(tmp_path, np.arange(20), task="regression")
    assert data.train.labels.shape == (18, 1)
    assert data.train.labels.dtype == np.float32
    assert data.record.classes == ("0",)
    assert data_of(tmp_path, np.arange(40).reshape(20, 2), task="regression", classes=["x", "y"]).record.classes == (
        "x",
        "y",
    )


@pytest.mark.parametrize(
    ("labels", "data", "message"),
    [
        (
            np.full(20, np.nan),
            {"task": "regression"},
            r"data\.train: labels are float64\(20,\); expected finite numbers",
        ),
        (np.zeros((20, 2, 2)), {"task": "regression"}, r"expected finite numbers \(N,\) or \(N, D\)"),
        (["a"] * 20, {"task": "regression"}, "expected finite numbers"),
        (
            np.arange(40).reshape(20, 2),
            {"task": "regression", "classes": ["x"]},
            r"data\.classes: 1 names, but labels have 2 value",
        ),
        (np.arange(20), {"task": "embedding"}, r"an embedding needs vectors \(N, D\)"),
        (np.linspace(0, 1, 20), {}, "data.task = 'regression' if they are values"),
        (np.zeros((20, 2)), {}, "or data.task = 'regression' or 'multi-label' if each sample has several"),
    ],
)
def test_labels_that_do_not_fit_the_task_are_refused(tmp_path: Path, labels: object, data: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        data_of(tmp_path, labels, **data)


def test_a_loss_for_classes_is_refused_for_values(tmp_path: Path) -> None:
    data = {"train": "d.npz", "test": "d.npz", "task": "regression"}
    config = config_of(tmp_path, data=data, distill={"loss": "dkd"}, target=[{"name": "pc", "kit": "ort"}])
    with pytest.raises(
        ConfigError, match=r"'dkd' does not fit data\.task 'regression'; set loss = 'mse' or 'cosine' or 'hint'"
    ):
        checked(config)
