"""Several labels for a sample, through the whole job: what is true of a handwritten digit."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from tests.support.command import edgedistill

FACTS = """
import numpy as np
from edgedistill.data import digits

NAMES = ("even", "above four", "prime", "round")


def facts(samples):
    images, labels = samples
    columns = (labels % 2 == 0, labels > 4, np.isin(labels, (2, 3, 5, 7)), np.isin(labels, (0, 6, 8, 9)))
    return images, np.stack(columns, 1).astype(np.int64), NAMES


def train():
    return facts(digits.train())


def test():
    return facts(digits.test())
"""
CONFIG = """
name = "facts"
[data]
train = "facts:train"
test = "facts:test"
task = "multi-label"
mean = [0.3]
std = [0.4]
[teacher]
model = "zoo:mlperf-resnet8"
width = 0.5
epochs = 4
batch_size = 32
engine = "torch"
[student]
model = "zoo:mlperf-resnet8"
width = 0.5
[distill]
epochs = 4
batch_size = 32
views = 1
control = true
[quantize]
mode = "ptq"
[export]
bake = ["normalize", "scores"]
[[target]]
name = "pc"
kit = "{kit}"
[bench]
processes = 1
seconds = 0.1
"""


@pytest.mark.slow
@pytest.mark.parametrize("kit", ["ort", "openvino"])
def test_labels_that_do_not_exclude_each_other_are_distilled_quantized_and_measured(tmp_path: Path, kit: str) -> None:
    (tmp_path / "facts.py").write_text(FACTS)
    (tmp_path / "edgedistill.toml").write_text(CONFIG.replace("{kit}", kit))
    result = edgedistill("run", "edgedistill.toml", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "mAP %" in result.stdout
    run = tmp_path / "runs" / "facts"
    stages = json.loads((run / "manifest.json").read_text())["stages"]
    assert stages["data"]["record"]["classes"] == ["even", "above four", "prime", "round"]
    with np.load(run / "onnx" / "io.npz") as io:
        labels, scores = io["labels"], io["expected.student-fp32.scores"][:, 0]
    assert ((scores >= 0) & (scores <= 1)).all()
    assert labels.shape == scores.shape == (360, 4)
    wanted = average_precision_score(labels, scores)
    measured = json.loads((run / "measurements" / f"local-{kit}-fp32.json").read_text())
    accuracy = measured["accuracy"]
    assert (accuracy["metric"], accuracy["n"]) == ("mean_ap", 360)
    assert accuracy["value"] == pytest.approx(wanted, abs=1e-3)
    assert accuracy["ci95"][0] < wanted < accuracy["ci95"][1]
    assert measured["parity"]["agreement"] > 0.99
    int8 = json.loads((run / "measurements" / f"local-{kit}-int8.json").read_text())
    assert int8["accuracy"]["value"] > wanted - 0.05
    page = (run / "report.html").read_text()
    assert "mean AP" in page
    assert re.search("Distillation (gained|did not).* points of mean AP on the test set", page)
    assert "4 labels" in page


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("distill.loss=dkd", "distill.loss: 'dkd' does not fit data.task 'multi-label'; set loss = 'kd' or 'mse'"),
        (
            "distill.label_smoothing=0.1",
            "label_smoothing: only applies to classification, but data.task is 'multi-label'",
        ),
        ("data.task=multilabel", "data.task: no task 'multilabel'; perhaps 'multi-label'?"),
        ("data.task=classification", "or data.task = 'regression' or 'multi-label' if each sample has several"),
    ],
)
def test_what_does_not_fit_the_task_is_refused_before_anything_is_written(
    tmp_path: Path, setting: str, message: str
) -> None:
    (tmp_path / "facts.py").write_text(FACTS)
    (tmp_path / "edgedistill.toml").write_text(CONFIG.replace("{kit}", "ort"))
    result = edgedistill("run", "edgedistill.toml", "--set", setting, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert not (tmp_path / "runs").exists()
