from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgedistill.config.load import parse_config
from edgedistill.config.schema import Config
from edgedistill.distill.student import build_student
from edgedistill.distill.teacher import build_teacher, check_teachers, mean_predictor
from edgedistill.errors import ConfigError
from edgedistill.models.build import count_parameters
from edgedistill.records.stages import DataRecord

DATA = DataRecord(kind="image", dtype="uint8", shape=(8, 8), classes=tuple("abcdefghij"), vocabulary=None, train=100,
                  val=10, test=10, fingerprint="")  # fmt: skip
RESNET = {"model": "zoo:resnet20", "width": 0.5}


def config(teacher: Any, student: dict[str, Any] | None = None, folder: Path = Path(), **others: Any) -> Config:
    table = {
        "name": "t", "data": {"train": "a", "test": "b"}, "teacher": teacher,
        "student": student or {"model": "zoo:mlperf-resnet8"}, "target": [{"name": "pc", "kit": "ort"}],
    }  # fmt: skip
    return parse_config(table | others, folder, "t.toml")


def test_one_table_or_several() -> None:
    one, several = config(RESNET), config([RESNET | {"weight": 3}, {"model": "teacher.onnx"}])
    assert one.teachers == (one.teacher,)
    assert [teacher.model for teacher in several.teachers] == ["zoo:resnet20", "teacher.onnx"]
    assert several.teacher.weight == 3


@pytest.mark.parametrize(
    ("teacher", "student", "message"),
    [
        ({"modle": "x"}, None, r"unknown key 'teacher\.modle'; perhaps 'model'\?"),
        ([RESNET, {"modle": "x"}], None, r"unknown key 'teacher\.1\.modle'; perhaps 'model'\?"),
        ([], None, "teacher: tuple should have at least 1 item"),
        ([RESNET, RESNET | {"weight": 0}], None, r"teacher\.1\.weight: input should be greater than 0"),
        (RESNET, {"width": 0.5}, "student: takes either model"),
        (RESNET, {"model": "zoo:resnet20", "prune": 0.5}, "student: takes either model"),
        (RESNET, {"prune": 0.5, "depth": 0.5}, "student: prune takes the teacher's width and depth"),
        (RESNET, {"prune": 1.0}, r"student\.prune: input should be less than 1"),
        (
            {"model": "teacher.onnx"},
            {"prune": 0.5},
            r"student\.prune: needs a torch teacher, and teacher\.onnx is none",
        ),
    ],
)
def test_mistakes_are_named(teacher: Any, student: dict[str, Any] | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(teacher, student)


def test_the_features_of_several_teachers_are_refused() -> None:
    distill = {"loss": "rkd", "views": 0, "student_layers": ["blocks.2"], "teacher_layers": ["layer3"]}
    assert config([RESNET], distill=distill).distill.uses_features
    with pytest.raises(ConfigError, match="loss 'rkd' compares the layers of one teacher"):
        config([RESNET, RESNET], distill=distill)


def test_the_mean_of_logits_is_by_weight() -> None:
    x = torch.randn(4, 10, dtype=torch.float64)
    mean = mean_predictor([lambda x: x, lambda x: -x, lambda x: x.square()], [3.0, 1.0, 4.0])
    torch.testing.assert_close(mean(x), 3 / 8 * x - 1 / 8 * x + 4 / 8 * x.square())
    alone = mean_predictor([lambda x: 2 * x], [5.0])
    assert torch.equal(alone(x), 2 * x)


def test_equal_tables_are_teachers_of_other_first_weights() -> None:
    plan = config([RESNET, RESNET])
    first, second = (build_teacher(plan, DATA, number) for number in (0, 1))
    assert count_parameters(first) == count_parameters(second)
    assert not torch.equal(next(first.parameters()), next(second.parameters()))
    alone = build_teacher(config(RESNET), DATA)
    assert torch.equal(next(first.parameters()), next(alone.parameters()))


def test_files_are_checked_and_saved_logits_stand_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "logits.npy", np.zeros((100, 10), np.float32))
    (tmp_path / "x.onnx").write_bytes(b"garbage")
    logits = {"model": "logits.npy"}
    for teacher, message in (
        ([RESNET, logits], "saved logits are only taken alone"),
        ([RESNET, {"model": "none.onnx"}], r"none\.onnx: no such file"),
        ([RESNET, {"model": "x.onnx"}], r"x\.onnx: ONNX Runtime refuses it"),
        ({"model": "x.onnx", "depth": 2.0}, r"teacher\.depth: a teacher from \.onnx is what it is"),
        (logits | {"weights": "a.pt"}, r"teacher\.weights: a teacher from \.npy is what it is"),
        ([RESNET, {"model": "zoo:resnet21"}], r"perhaps 'resnet20'|perhaps 'resnet"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_teachers(config(teacher, folder=tmp_path), DATA, 100)


def test_depth_reaches_teacher_and_student_and_the_pruned_student_has_the_teachers() -> None:
    plan = config(RESNET | {"depth": 2.0}, {"model": "zoo:resnet20", "depth": 0.34})
    assert len(build_teacher(plan, DATA).get_submodule("layer1")) == 6
    assert len(build_student(plan, DATA).get_submodule("layer1")) == 1
    pruned = build_student(config(RESNET | {"depth": 2.0}, {"prune": 0.25}), DATA)
    assert [block.conv1.out_channels for block in pruned.get_submodule("layer3")] == [24] * 6
