from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgedistill.distill.fine_tuning import fine_tuning
from edgedistill.errors import ConfigError
from edgedistill.models.build import build_model
from edgedistill.models.interface import Interface
from edgedistill.models.model_file import ModelFile
from edgedistill.models.source import StudentSource
from edgedistill.models.start import Purpose, Start
from edgedistill.models.transfer import find_head, load_start
from tests.support.learning import interface
from tests.support.learning import model as named

TEN = interface("image", (8, 8, 1), 10).model_copy(update={"classes": tuple("abcdefghij")})
THREE = interface("image", (8, 8, 1), 3).model_copy(update={"classes": ("cat", "dog", "emu")})
CODE = """
from torch import nn

def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

def two_heads(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Linear(16, 4 * classes), nn.Linear(4 * classes, classes))
"""


def started(text: str, folder: Path, file: Path | None = None, **start: Any) -> StudentSource:
    (folder / "own_student.py").write_text(CODE)
    weights = None if file is None else ModelFile(sha256="", name=file.name, path=file)
    return StudentSource(
        model=named(text, folder=folder), prune=None, teacher=None, start=Start(weights=weights, **start)
    )


def saved(source: StudentSource, data: Interface, path: Path) -> nn.Module:
    assert source.model is not None
    earlier = build_model(source.model, data, 5)
    torch.save(earlier.state_dict(), path)
    return earlier


@pytest.mark.parametrize(
    ("text", "head"),
    [
        ("zoo:mlperf-resnet8", ("fc.weight", "fc.bias")),
        ("zoo:ds-cnn", ("fc.weight", "fc.bias")),
        ("own_student:two_heads", ("3.weight", "3.bias", "4.weight", "4.bias")),
        ("own_student:fixed", ()),
    ],
)
def test_the_head_is_what_depends_on_the_number_of_classes(tmp_path: Path, text: str, head: tuple[str, ...]) -> None:
    assert find_head(started(text, tmp_path), THREE) == head


def test_the_head_of_a_detector_has_the_layers_of_the_classes() -> None:
    data = interface("image", (64, 64, 3), 2, task="detection")
    source = StudentSource(model=named("zoo:detector", 0.25), prune=None, teacher=None)
    assert source.model is not None
    head, weights = find_head(source, data), build_model(source.model, data, 0).state_dict()
    assert head
    assert all(weights[name].shape[0] == 2 for name in head)


def test_a_student_starts_with_all_but_a_head_of_another_size(tmp_path: Path) -> None:
    source = started("zoo:mlperf-resnet8", tmp_path, tmp_path / "ten.pt")
    earlier = saved(source, TEN, tmp_path / "ten.pt")
    assert source.model is not None
    student, fresh = (build_model(source.model, THREE, 0) for _ in range(2))
    (note,) = load_start(student, source, THREE)
    assert note == (
        "ten.pt: weights ten.pt: head left out and trained anew: 'fc.weight', which is (10, 64) in the file and (3, 64) in the model, "
        "'fc.bias', which is (10,) in the file and (3,) in the model"
    )
    for name, value in student.state_dict().items():
        torch.testing.assert_close(value, (fresh if name.startswith("fc.") else earlier).state_dict()[name])


@pytest.mark.parametrize(
    ("purpose", "kept"),
    [
        (Purpose(task="classification", classes=("cat", "dog", "emu")), "the head is kept"),
        (Purpose(task="classification", classes=("one", "two", "six")), "because it is for the classes one, two, six:"),
        (Purpose(task="multi-label", classes=("cat", "dog", "emu")), "because it is for task multi-label:"),
        (None, ""),
    ],
)
def test_a_head_of_the_right_size_is_kept_for_the_same_classes_only(
    tmp_path: Path, purpose: Purpose | None, kept: str
) -> None:
    source = started("own_student:two_heads", tmp_path, tmp_path / "three.pt", purpose=purpose)
    earlier = saved(source, THREE, tmp_path / "three.pt")
    assert source.model is not None
    student = build_model(source.model, THREE, 0)
    notes = load_start(student, source, THREE)
    assert kept in "".join(notes)
    is_kept = purpose is None or (purpose.classes == THREE.classes and purpose.task == "classification")
    assert torch.equal(student.state_dict()["4.weight"], earlier.state_dict()["4.weight"]) == is_kept
    assert torch.equal(student.state_dict()["1.weight"], earlier.state_dict()["1.weight"])


def test_weights_of_another_model_are_refused_with_the_first_names(tmp_path: Path) -> None:
    saved(started("zoo:ds-cnn", tmp_path), THREE, tmp_path / "other.pt")
    source = started("zoo:mlperf-resnet8", tmp_path, tmp_path / "other.pt")
    assert source.model is not None
    with pytest.raises(
        ConfigError, match=r"student\.weights: other\.pt: weights other\.pt: has no '[\w.]+'; has no '[\w.]+'; "
    ):
        load_start(build_model(source.model, THREE, 0), source, THREE)
    fixed = started("own_student:fixed", tmp_path, tmp_path / "ten.pt")
    torch.save({"1.weight": torch.zeros(10, 64), "1.bias": torch.zeros(10)}, tmp_path / "ten.pt")
    assert fixed.model is not None
    with pytest.raises(ConfigError, match=r"no weight of student\.model depends on the number of classes \(3\)"):
        load_start(build_model(fixed.model, THREE, 0), fixed, THREE)


def frozen_of(source: StudentSource) -> set[str]:
    assert source.model is not None
    student = build_model(source.model, THREE, 0)
    tuning = fine_tuning(student, source, THREE)
    assert tuning is not None
    held = {id(one) for one in tuning.frozen}
    return {name for name, one in student.named_parameters() if id(one) in held}


def test_what_is_frozen_is_named_by_module_weight_or_pattern(tmp_path: Path) -> None:
    everything = {"1.weight", "1.bias", "2.weight", "2.bias"}
    for freeze, expected in (
        ("backbone", everything),
        (("1",), {"1.weight", "1.bias"}),
        (("1.bias", "2"), {"1.bias", "2.weight", "2.bias"}),
        (("[12]",), everything),
        (("*.bias",), {"1.bias", "2.bias", "3.bias", "4.bias"}),
    ):
        assert frozen_of(started("own_student:two_heads", tmp_path, freeze=freeze)) == expected


@pytest.mark.parametrize(
    ("text", "start", "message"),
    [
        ("zoo:mlperf-resnet8", {"freeze": ("fcc",)}, r"student\.freeze: no module or weight .* 'fcc'; perhaps 'fc'"),
        ("zoo:mlperf-resnet8", {"freeze": ("*",)}, "covers all weights"),
        ("own_student:fixed", {"freeze": "backbone"}, "cannot find its head; list the modules to freeze"),
        ("own_student:fixed", {"lr_scale": 0.1}, "remove lr_scale"),
    ],
)
def test_what_cannot_be_frozen_is_refused(tmp_path: Path, text: str, start: dict[str, Any], message: str) -> None:
    source = started(text, tmp_path, **start)
    assert source.model is not None
    with pytest.raises(ConfigError, match=message):
        fine_tuning(build_model(source.model, THREE, 0), source, THREE)


def test_norms_are_frozen_with_their_weights(tmp_path: Path) -> None:
    source = started("own_student:two_heads", tmp_path, freeze=("2",), freeze_epochs=1)
    assert source.model is not None
    student = build_model(source.model, THREE, 0)
    tuning = fine_tuning(student, source, THREE)
    assert tuning is not None
    norm = student.get_submodule("2")
    states = []
    for epoch in range(2):
        student.train()
        tuning.apply(epoch)
        states.append((norm.training, [one.requires_grad for one in norm.parameters()]))
    assert states == [(False, [False, False]), (True, [True, True])]
