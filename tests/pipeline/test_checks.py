"""The checks before the first stage: one call finds all that is wrong."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedistill.errors import ConfigError, DeviceError
from edgedistill.pipeline.checks import CHECKS, LEARNING
from edgedistill.pipeline.run_checks import Check, Examined, examine
from edgedistill.records.finding import Finding
from edgedistill.records.stage_names import BENCH, COMPILE, EXPORT, SOFT_LABELS, STAGE_NAMES
from edgedistill.stages.stage import Sources
from tests.support.command import REPOSITORY, environment
from tests.support.learning import config_of, sources_of

ALL = frozenset(STAGE_NAMES)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images of ten classes, and a student of three."""
    monkeypatch.delenv("EDGEDISTILL_ANDROID", raising=False)
    rng = np.random.default_rng(0)
    for name, count in (("train", 100), ("test", 20)):
        np.savez(
            tmp_path / f"{name}.npz",
            inputs=rng.integers(0, 256, (count, 8, 8), np.uint8),
            labels=np.arange(count) % 10,
        )
    (tmp_path / "three_classes.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))\n"
    )
    return tmp_path


def examined(folder: Path, stages: frozenset[str] = ALL, **tables: Any) -> Examined:
    return examine(CHECKS, sources_of(config_of(folder, **tables)), stages)


def errors(found: Examined) -> list[str]:
    return [f"{one.subject}: {one.text}" for one in found.findings if one.severity == "error"]


PHONES = [
    {"name": "pc", "kit": "openvino"},
    {"name": "typo", "kit": "orrt"},
    {"name": "phone", "kit": "ort", "device": "adb://none"},
    {"name": "same-phone", "kit": "openvino", "device": "adb://none"},
    {"name": "half", "kit": "ort", "device": "ssh://nobody.invalid", "precisions": ["fp16"]},
]


def test_one_call_finds_what_is_wrong_with_data_models_loss_and_targets(folder: Path) -> None:
    found = examined(
        folder, data={"train": "train.npz", "test": "test.npz", "mean": [0.1, 0.2], "augment": ["shift:2"]},
        teacher=[{"model": "zoo:resnet20", "weights": "none.pt"}, {"model": "zoo:resnet20", "weights": "two.pt"}],
        student={"model": "three_classes:build"}, distill={"loss": "losses:own"}, export={"bake": ["scores"], "opset": 12},
        target=PHONES,
    )  # fmt: skip
    expected = (
        "target 'typo': unknown kit 'orrt'", "target 'half': kit 'ort' has no precision 'fp16'", "export.opset: opset 12",
        "data.mean: 2 values", "data.augment: 'shift' only applies", "teacher.weights: none.pt", "teacher.weights: two.pt",
        "student.model: three_classes:build outputs (2, 3)", "distill.loss: 'losses:own': no module 'losses'",
        "targets 'phone', 'same-phone': adb://none: ",
    )  # fmt: skip
    told = errors(found)
    assert len(told) == len(expected), told
    for start in expected:
        assert sum(one.startswith(start) for one in told) == 1, (start, told)
    with pytest.raises(ConfigError):
        found.require()


@pytest.mark.parametrize("other", ["ssh://board?python=/opt/new/bin/python3", "ssh://BOARD"])
def test_two_targets_whose_files_have_the_same_names_are_refused(folder: Path, other: str) -> None:
    targets = [{"name": "old", "kit": "ort", "device": "ssh://board"}, {"name": "new", "kit": "ort", "device": other}]
    (told,) = errors(examined(folder, frozenset({EXPORT}), target=targets))
    assert told == (
        "target 'new': its files have the same names as those of target 'old', because files are named by kit and host; move one of the "
        "two targets to a second configuration"
    )
    targets[1]["kit"] = "openvino"
    assert errors(examined(folder, frozenset({EXPORT}), target=targets)) == []


def test_missing_data_hides_no_other_error(folder: Path) -> None:
    data = {"train": "none.npz", "test": "neither.npz"}
    told = errors(examined(folder, data=data, teacher={"model": "none.onnx"}, student={"model": "own:net"}))
    assert [one.partition(":")[0] for one in told] == ["data", "data", "teacher.model", "student.model"]


def test_a_device_that_does_not_answer_is_asked_only_before_the_stages_that_need_it(folder: Path) -> None:
    phones = [PHONES[2], PHONES[3]]
    assert examined(folder, ALL - {COMPILE, BENCH, "report"}, target=phones).error is None
    found = examined(folder, frozenset({BENCH}), target=phones)
    (told,) = errors(found)
    assert told.endswith("to train now and measure later: --until export")
    with pytest.raises(DeviceError):
        found.require()


def test_models_are_tried_on_samples_that_differ(folder: Path) -> None:
    with np.load(folder / "train.npz") as train:
        inputs, labels = train["inputs"], train["labels"]
    inputs[:40] = 0
    np.savez(folder / "train.npz", inputs=inputs, labels=labels)
    assert errors(examined(folder, LEARNING)) == []


def test_a_check_runs_unless_one_that_it_needs_found_an_error(folder: Path) -> None:
    def odd(sources: Sources) -> Iterator[Finding]:
        yield Finding(severity="warning", subject=sources.config.name, text="odd")
        raise ConfigError("a.b: wrong\nthis text has no subject")

    checks = (
        Check("first", odd, ALL),
        Check("second", odd, ALL, needs=("first",)),
        Check("third", lambda _: [], ALL, needs=("second",)),
        Check("again", odd, ALL, error=DeviceError),
        Check("later", odd, frozenset({BENCH})),
    )
    found = examine(checks, sources_of(config_of(folder)), ALL - {BENCH})
    assert [str(one) for one in found.findings] == [
        "error: a.b: wrong",
        "error: first: this text has no subject",
        "error: again: this text has no subject",
        "warning: test: odd",
    ]
    assert found.error is ConfigError


def test_a_teacher_without_weight_in_the_loss_is_a_warning(folder: Path) -> None:
    check = [one for one in CHECKS if one.name == "weight of the teacher"]

    def said(weight: float) -> list[str]:
        found = examine(check, sources_of(config_of(folder, distill={"hard_weight": weight})), ALL)
        return [str(one).partition(",")[0] for one in found.findings]

    assert said(1.0) == ["warning: distill.hard_weight: is 1"]
    assert said(0.9) == []


NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(x.flatten(1))

class Branching(Net):
    def forward(self, x):
        return super().forward(x) if x.mean() < 1e9 else super().forward(-x)

class Inverting(Net):
    def forward(self, x):
        return super().forward(x) + torch.linalg.svd(x)[1].sum((1, 2))[:, None]
"""


def test_models_that_torch_cannot_export_and_layers_to_skip_that_do_not_exist_are_found(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "own_nets.py").write_text(NETS)
    teacher, student = {"model": "own_nets:Inverting"}, {"model": "own_nets:Branching"}
    inverting, branching, captured = errors(examined(folder, teacher=teacher, student=student))
    assert inverting.startswith("teacher.model: Inverting cannot be exported to ONNX (No ONNX function found for ")
    assert branching.startswith(
        "student.model: Branching cannot be exported to ONNX (Could not guard on data-dependent "
    )
    assert (
        "own_nets.py, line 15: return super().forward(x) if x.mean() < 1e9 else super().forward(-x)); write"
        in branching
    )
    assert captured.startswith("quantize: Branching cannot be captured by torch.export (")
    assert "\n" not in inverting + branching + captured
    assert capfd.readouterr() == ("", "")
    assert errors(examined(folder, ALL - {"quantize", "export"}, teacher=teacher, student=student)) == []
    plan = {"student": {"model": "own_nets:Net"}, "quantize": {"skip": ["haed"]}}
    assert errors(examined(folder, **plan)) == ["quantize: there is no layer 'haed' to keep in float; perhaps 'head'?"]
    assert errors(examined(folder, quantize={"skip": ["stem"]})) == [], "a model of the zoo"


@pytest.mark.parametrize(
    ("model", "engine", "train", "expected"),
    [
        ("zoo:resnet20", "openvino", "train.npz", None),
        ("zoo:resnet20", "auto", "train.tsv", None),
        ("zoo:resnet20", "openvino", "train.tsv", "is 'openvino', but texts vary in length, which only torch is used for; remove the key"),
        ("big.onnx", "auto", "train.npz", None),
        ("big.onnx", "torch", "train.npz", "is 'torch', but ONNX Runtime runs big.onnx; remove the key"),
        ("logits.npy", "openvino", "train.npz", "is 'openvino', but nothing runs logits.npy; remove the key"),
    ],
)  # fmt: skip
def test_an_engine_that_cannot_run_a_teacher_is_found_before_the_training(
    folder: Path, model: str, engine: str, train: str, expected: str | None
) -> None:
    config = config_of(
        folder,
        data={"train": train, "test": train} | ({"text": "t"} if train.endswith(".tsv") else {}),
        teacher={"model": model, "engine": engine},
    )
    checks = [check for check in CHECKS if check.name == "engine"]
    told = errors(examine(checks, sources_of(config), frozenset({SOFT_LABELS})))
    assert told == ([] if expected is None else [f"teacher.engine: {expected}"])


WITHOUT_OPENVINO = """
import sys
class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name == "openvino" else self.finder.find_spec(name, path, target)
sys.meta_path[:] = map(Hiding, sys.meta_path)
"""
"""A sitecustomize for an interpreter that has no OpenVINO."""


def test_an_engine_that_is_not_installed_is_found_before_the_training(folder: Path) -> None:
    (folder / "sitecustomize.py").write_text(WITHOUT_OPENVINO)
    (folder / "edgedistill.toml").write_text(
        'name = "a"\n[data]\ntrain = "train.npz"\ntest = "test.npz"\n[teacher]\nmodel = "zoo:resnet20"\nengine = "openvino"\n'
        '[student]\nmodel = "zoo:mlperf-resnet8"\n[[target]]\nname = "pc"\nkit = "ort"\n'
    )
    command = [sys.executable, "-m", "edgedistill", "run", ".", "--until", "soft_labels"]
    paths = os.pathsep.join([str(folder), str(REPOSITORY)])
    ran = subprocess.run(
        command, cwd=folder, env=environment(folder, PYTHONPATH=paths), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert (
        "edgedistill: teacher.engine: is 'openvino', which is not installed; run: pip install 'edgedistill[openvino]', or remove the key"
        in ran.stderr
    )
    assert not (folder / "runs").exists()
