"""Students pruned from their teacher, depth multipliers, and several teachers, through the command line on real digits."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from tests.support.command import edgedistill, start

pytestmark = pytest.mark.slow
CONFIG = """
name = "digits"
[data]
train = "edgedistill.data.digits:train"
test = "edgedistill.data.digits:test"
augment = ["crop:1"]
{teachers}
[student]
prune = 0.5
[distill]
epochs = 4
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
TEACHERS = """
[[teacher]]
model = "zoo:mlperf-resnet8"
depth = 2
width = 0.5
epochs = 4
batch_size = 32
engine = "torch"
[[teacher]]
model = "zoo:resnet20"
width = 0.5
depth = 0.34
epochs = 3
weight = 0.5
engine = "torch"
"""


def records(folder: Path) -> dict[str, dict]:
    stages = json.loads((folder / "runs" / "digits" / "manifest.json").read_text())["stages"]
    return {name: entry["record"] for name, entry in stages.items()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teachers")
    (folder / "edgedistill.toml").write_text(CONFIG.replace("{teachers}", TEACHERS))
    result = edgedistill("run", "edgedistill.toml", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "soft labels: mean of 2 teachers, validation accuracy" in result.stderr
    assert "student: pruned from 44,410 to 11,394 parameters" in result.stderr
    return folder


def test_two_teachers_are_made_recorded_and_averaged(finished: Path) -> None:
    made = records(finished)
    first, (second,) = made["teacher"], made["teacher"]["others"]
    assert (first["spec"], second["spec"]) == ("zoo:mlperf-resnet8", "zoo:resnet20")
    assert (first["file"]["path"], second["file"]["path"]) == (
        "teacher/model.safetensors",
        "teacher/2/model.safetensors",
    )
    assert (len(first["history"]), len(second["history"])) == (4, 3)
    soft = made["soft_labels"]
    assert soft["engine"] == "torch torch"
    assert soft["val_accuracy"] > min(first["val_accuracy"], second["val_accuracy"])
    run = finished / "runs" / "digits"
    hashes = {"teacher": first["file"]["sha256"], "teacher2": second["file"]["sha256"]}
    for name, count in (("teacher-fp32", 1), ("fp32", 2), ("int8", 2)):
        lineage = json.loads((run / "measurements" / f"local-ort-{name}.json").read_text())["model"]["lineage"]
        assert {k: v for k, v in lineage.items() if k.startswith("teacher")} == dict(list(hashes.items())[:count])
    page = (run / "report.html").read_text()
    assert "mean" in page
    for name, teacher in (("teacher", first), ("teacher 2", second)):  # the curve of each
        assert (
            f"{name}: {100 * teacher['history'][-1]['val_accuracy']:.1f} % after epoch {len(teacher['history'])}"
            in page
        )


def test_the_first_teacher_pruned_becomes_an_int8_student(finished: Path) -> None:
    made = records(finished)
    student = made["distill"]["student"]
    assert student["spec"] == "zoo:mlperf-resnet8 pruned by 0.5"
    assert (made["teacher"]["parameters"], student["parameters"]) == (44_410, 11_394)
    assert student["val_accuracy"] > 0.5
    assert made["quantize"]["val_accuracy"] > student["val_accuracy"] - 0.1
    models = {(model["name"], model["precision"]): model for model in made["export"]["models"]}
    assert set(models) == {("teacher", "fp32"), ("student", "fp32"), ("student", "int8")}
    assert models["student", "fp32"]["file"]["bytes"] < models["teacher", "fp32"]["file"]["bytes"] / 2
    assert models["student", "int8"]["parity"]["agreement"] > 0.97


def test_another_process_builds_the_pruned_student_again_from_the_run_folder(finished: Path) -> None:
    before = records(finished)["quantize"]
    result = edgedistill("quantize", "edgedistill.toml", "--from", "quantize", cwd=finished)
    assert result.returncode == 0, result.stderr
    again = records(finished)["quantize"]
    for record in (before, again):
        record["steps"][0].pop("seconds")
    assert again == before


def test_another_weight_keeps_the_teachers_and_changes_the_soft_labels(finished: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(finished, tmp_path / "copy"))
    labels = copied / "runs" / "digits" / "soft_labels" / "logits.npy"
    before = np.load(labels)
    result = edgedistill("run", "edgedistill.toml", "--set", "teacher.1.weight=5", "--until", "soft_labels", cwd=copied)
    assert result.returncode == 0, result.stderr
    assert "epoch" not in result.stderr
    assert records(copied)["teacher"] == records(finished)["teacher"]
    assert np.abs(np.load(labels) - before).max() > 0.5


def test_a_run_killed_in_its_second_teacher_goes_on_and_ends_bit_for_bit(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "edgedistill.toml").write_text((finished / "edgedistill.toml").read_text())
    teacher = tmp_path / "runs" / "digits" / "teacher"
    state = teacher / "2" / "resume.pt"
    for _ in range(5):  # on a busy machine, the training may have ended before this process sees its first state
        killed = start("teacher", "edgedistill.toml", cwd=tmp_path)
        while killed.is_running() and not state.exists():
            time.sleep(0.005)
        killed.kill()
        if state.exists():
            break
        shutil.rmtree(tmp_path / "runs")
    assert state.exists()
    result = edgedistill("teacher", "edgedistill.toml", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "teacher: epoch" not in result.stderr
    assert "teacher 2: epoch 3" in result.stderr
    assert not list(teacher.rglob("resume.pt"))
    for name in ("model.safetensors", "2/model.safetensors"):
        assert (teacher / name).read_bytes() == (finished / "runs" / "digits" / "teacher" / name).read_bytes()
