"""What a user can get wrong: one clear message, exit 2, nothing written."""

import re
from pathlib import Path

import numpy as np
import pytest

from edgedistill.errors import ConfigError
from edgedistill.pipeline.pipeline import STAGES, Plan
from edgedistill.records.stage_names import STAGE_NAMES
from edgedistill.records.stages import STAGE_RECORDS
from tests.support.command import edgedistill

GOOD = """
name = "wrong"
[data]
train = "train.npz"
test = "test.npz"
[teacher]
model = "zoo:resnet20"
[student]
model = "zoo:mlperf-resnet8"
[[target]]
name = "pc"
kit = "ort"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, count in (("train", 100), ("test", 20)):
        inputs = rng.integers(0, 256, (count, 8, 8), np.uint8)
        np.savez(tmp_path / f"{name}.npz", inputs=inputs, labels=np.arange(count) % 10)
        np.savez(tmp_path / f"{name}_shape.npz", inputs=inputs[:, :, :7], labels=np.arange(count) % 10)
        np.savez(tmp_path / f"{name}_count.npz", inputs=inputs, labels=np.arange(count - 1) % 10)
        np.savez(tmp_path / f"{name}_range.npz", inputs=inputs, labels=np.arange(count) % 11)
    np.save(tmp_path / "logits.npy", np.zeros((3, 10), np.float32))
    (tmp_path / "not.onnx").write_bytes(b"\x00\x01garbage")
    (tmp_path / "empty").mkdir()
    (tmp_path / "nets_for_errors.py").write_text(
        "from torch import nn\n"
        "def flat(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(7, classes))\n"
        "def many():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))\n"
    )
    return tmp_path


CASES = {
    "a misspelt key": ("test =", "tset =", r"unknown key 'data\.tset'; perhaps 'test'\?"),
    "a misspelt table": ("[student]", "[studnet]", r"unknown key 'studnet'; perhaps 'student'\?"),
    "a missing file": ('"train.npz"', '"trane.npz"', r"trane\.npz: no such file"),
    "a wrong shape": ('"test.npz"', '"test_shape.npz"', r"samples are uint8\(8, 7\)"),
    "too few labels": ('"train.npz"', '"train_count.npz"', r"100 inputs but labels of shape \(99,\)"),
    "labels out of range": ('"test.npz"', '"test_range.npz"', r"label 10 \(sample 10\) is out of range"),
    "an unknown kit": ('"ort"', '"ortt"', r"unknown kit 'ortt'; perhaps 'ort'\?"),
    "an empty folder": ('"train.npz"', '"empty"', r"folder empty holds no images"),
    "an unknown model": ("zoo:mlperf-resnet8", "zoo:mlperf-resnet9", r"perhaps 'mlperf-resnet8'\?"),
    "a model of other data": ("zoo:mlperf-resnet8", "zoo:cnn1d", r"takes signal data; this is image data"),
    "a model that does not take the data": ("zoo:mlperf-resnet8", "nets_for_errors:flat", r"does not take a batch of shape"),
    "a model of other classes": ("zoo:mlperf-resnet8", "nets_for_errors:many", r"outputs \(2, 3\); expected logits of shape \(2, 10\)"),
    "an unknown precision": ('kit = "ort"', 'kit = "ort"\nprecisions = ["fp16"]', r"has no precision 'fp16'"),
    "an unknown device": ('kit = "ort"', 'kit = "ort"\ndevice = "moon"', r"device 'moon'"),
    "missing weights": ('"zoo:resnet20"', '"zoo:resnet20"\nweights = "none.pt"', r"none\.pt: no such file"),
    "a broken ONNX teacher": ('"zoo:resnet20"', '"not.onnx"', r"not\.onnx: is not an ONNX model"),
    "logits of other data": ('"zoo:resnet20"', '"logits.npy"', r"has shape \(3, 10\); expected \(100, 10\)"),
    "an augmentation of other data": ("[teacher]", 'augment = ["shift:3"]\n[teacher]', r"'shift' only applies to signal data"),
    "int8 without quantization": ("[teacher]", '[quantize]\nmode = "none"\n[teacher]', r"includes int8, but quantize\.mode"),
    "calibration on nothing": ("[teacher]", "[quantize]\nsamples = 0\n[teacher]", r"quantize\.samples: input should be greater"),
    "an opset that no exporter writes": ("[teacher]", "[export]\nopset = 12\n[teacher]", r"opset 12"),
    "an opset above a kit's ceiling": ("[teacher]", "[export]\nopset = 23\n[teacher]", r"opset 23.*kit 'ort', which supports at most opset 20"),
    "a value out of bounds": ("[teacher]", "[distill]\nepochs = 0\n[teacher]", r"distill\.epochs: input should be greater"),
    "no target": ('[[target]]\nname = "pc"\nkit = "ort"', "", r"no \[\[target\]\]"),
    "broken TOML": ("[data]", "[data", r"not valid TOML"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_message_and_nothing_is_written(folder: Path, case: str) -> None:
    old, new, message = CASES[case]
    assert GOOD.count(old) == 1
    (folder / "config.toml").write_text(GOOD.replace(old, new))
    before = sorted(folder.rglob("*"))
    result = edgedistill("run", "config.toml", cwd=folder)
    assert result.returncode == 2, result.stderr
    assert re.search(message, result.stderr), result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert result.stdout == ""
    assert [p for p in sorted(folder.rglob("*")) if "__pycache__" not in p.parts] == before


def test_mistakes_on_the_command_line(folder: Path) -> None:
    (folder / "config.toml").write_text(GOOD)
    for arguments, message in (
        (("run", "none.toml"), "no such file"),
        (("run", "empty"), "empty/edgedistill.toml: no such file; 'edgedistill init' writes one"),
        (("run", "config.toml", "--set", "distill.epoch=3"), "perhaps 'epochs'"),
        (("run", "config.toml", "--set", "distill"), "write KEY=VALUE"),
        (("run", "config.toml", "--from", "distil"), "--from: unknown stage 'distil'; perhaps 'distill'?"),
        (("teacher", "config.toml", "--from", "bench"), "'bench' comes after 'teacher'"),
        (("run", "config.toml", "--until", "tomorrow"), "--until: unknown stage 'tomorrow'; choose one of: data"),
        (("rum", "config.toml"), "No such command 'rum'"),
        (("bench", "not.onnx"), "--target"),
        (("bench", "not.onnx", "--target", "orb"), "perhaps 'ort'"),
        (("bench", "not.onnx", "--target", "ort"), "not an ONNX model"),
        (("bench", "none.onnx", "--target", "ort"), "No such file"),
        (
            ("bench", "config.toml", "--target", "ort"),
            "--target only applies to .onnx files; add a [[target]] to config.toml instead",
        ),
        (("compare", "nowhere"), "no such run folder or measurement file"),
    ):
        result = edgedistill(*arguments, cwd=folder)
        assert result.returncode == 2, (arguments, result.stderr)
        assert message in result.stderr, (arguments, result.stderr)
        assert "Traceback" not in result.stderr
    assert not (folder / "runs").exists()


def test_an_unfinished_manifest_is_not_overwritten(folder: Path) -> None:
    (folder / "config.toml").write_text(GOOD)
    (folder / "runs" / "wrong").mkdir(parents=True)
    (folder / "runs" / "wrong" / "manifest.json").write_text("{")
    result = edgedistill("run", "config.toml", cwd=folder)
    assert result.returncode == 2
    assert "not JSON" in result.stderr
    assert (folder / "runs" / "wrong" / "manifest.json").read_text() == "{"


def test_the_stages_stand_in_the_order_of_their_names() -> None:
    assert tuple(stage.name for stage in STAGES) == STAGE_NAMES
    assert tuple(kind.stage for kind in STAGE_RECORDS) == STAGE_NAMES


@pytest.mark.parametrize("plan", [{"until": "student"}, {"until": "distil"}, {"start": "exprot"}])
def test_a_stage_that_does_not_exist_is_refused_from_python_too(plan: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"there is no stage '.*'; (perhaps|choose one of)"):
        Plan(**plan)
