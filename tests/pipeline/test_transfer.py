"""A student that starts from an earlier run: on real digits, whose classes get other names."""

import json
from pathlib import Path

import pytest

from edgedistill.errors import ConfigError
from edgedistill.models.source import student_source
from edgedistill.models.start import find_differences
from edgedistill.records.stages import DataRecord
from edgedistill.report.report import render_report
from edgedistill.runtime.files import sha256_of
from edgedistill.runtime.folder import Run, require_record
from tests.support.command import edgedistill
from tests.support.learning import config_of, data_of
from tests.support.runs import as_written, stages

CONFIG = """
name = "words"
[data]
train = "edgedistill.data.digits:train"
test = "edgedistill.data.digits:test"
classes = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
mean = [0.5]
std = [0.4]
[teacher]
model = "zoo:mlperf-resnet8"
width = 0.5
weights = "runs/digits/teacher/model.safetensors"
engine = "torch"
[student]
model = "zoo:mlperf-resnet8"
width = 0.25
weights = "runs/digits"
freeze = "backbone"
freeze_epochs = 1
lr_scale = 0.5
[distill]
epochs = 2
views = 1
batch_size = 64
control = true
[quantize]
mode = "none"
[[target]]
name = "pc"
kit = "ort"
precisions = ["fp32"]
"""
STUDENT = {"model": "zoo:mlperf-resnet8", "width": 0.25, "weights": "runs/digits"}


@pytest.mark.slow
def test_a_student_starts_from_an_earlier_run_and_the_report_has_what_that_was_worth(copied: Path) -> None:
    (copied / "words.toml").write_text(CONFIG)
    done = edgedistill("run", "words.toml", "--until", "export", cwd=copied)
    assert done.returncode == 0, done.stderr
    assert (
        "warning: student.weights: runs/digits was trained with data.mean = [0.3], and this run has data.mean = [0.5]"
        in done.stderr
    )
    left_out = "head left out and trained anew, because it is for the classes 0, 1, 2, \u2026: 'fc.weight' (10, 16), 'fc.bias' (10,)"
    for name in ("student", "control"):
        assert f"{name}: starts with runs/digits: weights model.safetensors: {left_out}" in done.stderr
    assert "student from scratch: starts" not in done.stderr
    made = stages(copied / "runs" / "words")
    assert made["distill"]["record"]["start"] == "runs/digits"
    assert made["distill"]["record"]["scratch"]["file"]["path"] == "student/scratch.safetensors"
    weights = made["distill"]["config"]["student"]["start"]["weights"]
    assert weights["sha256"] == stages(copied / "runs" / "digits")["distill"]["record"]["student"]["file"]["sha256"]
    (score,) = made["export"]["record"]["scores"]
    for other, gain in (("control", "over_control"), ("scratch", "over_scratch")):
        assert score[gain]["points"] == pytest.approx(100 * (score["student"] - score[other]))
        assert score[gain]["ci95_points"][0] < score[gain]["points"] < score[gain]["ci95_points"][1]
        assert score[gain]["n"] == 360
    for text in (done.stdout, render_report(copied / "runs" / "words")):
        assert "The start from runs/digits " in text
        assert "on the test set over the same student from scratch, with the teacher (95\u00a0% interval" in text
    again = edgedistill("run", "words.toml", "--until", "export", "--dry-run", "--json", cwd=copied)
    assert all(step["cached"] for step in json.loads(again.stdout)["stages"]), again.stdout


def test_the_weights_of_a_run_are_part_of_the_student(copied: Path) -> None:
    config = config_of(copied, student=STUDENT)
    source = student_source(config, sha256_of)
    assert source.weights is not None
    assert source.weights.sha256 == sha256_of(copied / "runs" / "digits" / "student" / "model.safetensors")
    assert source.start is not None
    assert source.start.purpose is not None
    assert source.start.purpose.classes == tuple("0123456789")
    plain = student_source(config_of(copied, student=STUDENT | {"weights": None}), sha256_of)
    assert plain.start is None
    assert "start" not in plain.model_dump()


def test_a_folder_without_a_finished_student_is_refused(copied: Path) -> None:
    run = copied / "runs" / "digits"

    def declare(**keys: object) -> None:
        student_source(config_of(copied, student=STUDENT | keys), sha256_of)

    with pytest.raises(ConfigError, match=r"student\.weights: runs/none: no such file \(looked for .*none\)"):
        declare(weights="runs/none")
    with pytest.raises(ConfigError, match=r"student\.weights: runs: not a run folder: it has no manifest\.json"):
        declare(weights="runs")
    with (run / "student" / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(
        ConfigError,
        match="missing, or changed since stage 'distill' made it; make it again: edgedistill run CONFIG --from distill",
    ):
        declare()
    manifest = json.loads((run / "manifest.json").read_text())
    whole = manifest["stages"].pop("distill")
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="this run has no student yet"):
        declare()
    whole["config"]["student"]["model"] = None
    as_written(run, lambda table: table["stages"].update(distill=whole))
    with pytest.raises(ConfigError, match=r"its student is zoo:mlperf-resnet8, a part of its teacher"):
        declare()


def test_inputs_that_differ_from_those_of_the_earlier_run_are_named_with_both_values(finished: Path) -> None:
    from edgedistill.data.settings import view_settings

    folder = finished / "runs" / "digits"
    earlier = require_record(Run(folder), DataRecord)

    def texts(data: DataRecord, **keys: object) -> list[str]:
        config = config_of(finished, data={"train": "train.npz", **keys})
        return [one.text for one in find_differences(folder, "runs/digits", data, view_settings(config))]

    assert texts(earlier, mean=[0.3], std=[0.4]) == []
    before, end = "runs/digits was trained with", ": the weights were not trained on such inputs"
    assert texts(earlier, std=[0.4]) == [f"{before} data.mean = [0.3], and this run has data.mean = [0.0]{end}"]
    other = data_of("image", (16, 8, 1))
    assert texts(other, mean=[0.3], std=[0.4]) == [
        f"{before} inputs of shape (8, 8), and this run has inputs of shape (16, 8, 1){end}",
        f"{before} uint8 inputs, and this run has float32 inputs, and only uint8 inputs are divided by 255{end}",
    ]


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"prune": 0.5, "weights": "a.pt"}, r"student: weights belong to a model; set model"),
        (
            {"model": "zoo:resnet20", "freeze": "backbone"},
            r"student: freeze only applies to a student that starts with weights",
        ),
        (
            {"model": "zoo:resnet20", "lr_scale": 0.1},
            r"student: lr_scale only applies to a student that starts with weights",
        ),
        (
            {"model": "zoo:resnet20", "weights": "a.pt", "freeze_epochs": 2},
            r"student: freeze_epochs only applies with freeze",
        ),
        (
            {"model": "zoo:resnet20", "weights": "a.pt", "lr_scale": 0.0},
            r"student\.lr_scale: input should be greater than 0",
        ),
    ],
)
def test_keys_of_a_start_need_weights(tmp_path: Path, student: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(tmp_path, student=student)
