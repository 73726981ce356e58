from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgedistill.config.schema import Config
from edgedistill.distill.loading import Ask, build_student
from edgedistill.distill.predictors import Answer, mean_predictor
from edgedistill.distill.settings import TeacherSettings, declare_teacher
from edgedistill.distill.teacher import build_teacher, check_teacher
from edgedistill.errors import ConfigError
from edgedistill.models.build import count_parameters
from edgedistill.models.source import student_source
from edgedistill.runtime.files import sha256_of
from tests.support.learning import config_of, data_of, sources_of

DATA = data_of("image", (8, 8), tuple("abcdefghij"), dtype="uint8", train=100)
RESNET = {"model": "zoo:resnet20", "width": 0.5}


def config(teacher: Any, student: dict[str, Any] | None = None, folder: Path = Path(), **others: Any) -> Config:
    table = {
        "data": {"train": "a.npz", "test": "a.npz"}, "teacher": teacher,
        "student": student or {"model": "zoo:mlperf-resnet8"},
    }  # fmt: skip
    return config_of(folder, **table | others)


def settings(config: Config) -> TeacherSettings:
    """Declare teachers for images of 8 x 8 in ten classes, of which there are a hundred."""
    if not (config.folder / "a.npz").exists():
        np.savez(
            config.folder / "a.npz",
            inputs=np.eye(100, 64, dtype=np.uint8).reshape(-1, 8, 8),
            labels=np.arange(100) % 10,
        )
    return declare_teacher(sources_of(config, DATA))


def teacher_of(config: Config, number: int = 0) -> nn.Module:
    return build_teacher(settings(config), number)


def check_all(config: Config) -> None:
    found = settings(config)
    for number in range(len(found.teachers)):
        check_teacher(found, number, {"input": torch.rand(2, 1, 8, 8)})


def student_of(config: Config) -> nn.Module:
    found = settings(config)
    return build_student(student_source(config, sha256_of), found.interface, found.seed)


def test_one_table_or_several() -> None:
    one, several = config(RESNET), config([RESNET | {"weight": 3}, {"model": "teacher.onnx"}])
    assert one.teachers == (one.teacher,)
    assert [teacher.model.text for teacher in several.teachers] == ["zoo:resnet20", "teacher.onnx"]
    assert several.teacher.weight == 3


@pytest.mark.parametrize(
    ("teacher", "student", "message"),
    [
        ({"modle": "x"}, None, r"unknown key 'teacher\.modle'; perhaps 'model'\?"),
        ([RESNET, {"modle": "x"}], None, r"unknown key 'teacher\.1\.modle'; perhaps 'model'\?"),
        ([], None, "teacher: tuple should have at least 1 item"),
        ([RESNET, RESNET | {"weight": 0}], None, r"teacher\.1\.weight: input should be greater than 0"),
        (RESNET, {"width": 0.5}, "student: set one of model"),
        (RESNET, {"model": "zoo:resnet20", "prune": 0.5}, "student: set one of model"),
        (RESNET, {"prune": 0.5, "depth": 0.5}, "student: prune takes the teacher's width and depth"),
        (RESNET, {"layers": 3, "width": 2.0}, "student: layers takes a width up to 1, and no depth"),
        (RESNET, {"prune": 1.0}, r"student\.prune: input should be less than 1"),
        (
            {"model": "teacher.onnx"},
            {"prune": 0.5},
            r"student\.prune: needs a torch teacher, but teacher\.onnx is not a torch model",
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

    def ask(change: Callable[[Tensor], Tensor]) -> Ask:
        return lambda inputs: Answer(change(inputs["input"]), {})

    mean = mean_predictor([ask(lambda x: x), ask(lambda x: -x), ask(lambda x: x.square())], [3.0, 1.0, 4.0])
    torch.testing.assert_close(mean({"input": x}).main, 3 / 8 * x - 1 / 8 * x + 4 / 8 * x.square())
    alone = mean_predictor([ask(lambda x: 2 * x)], [5.0])
    assert torch.equal(alone({"input": x}).main, 2 * x)


def test_the_mean_of_other_outputs_is_of_those_that_all_teachers_have() -> None:
    x = torch.ones(2, 3)
    one = lambda _: Answer(x, {"box": x, "mask": x})  # noqa: E731
    other = lambda _: Answer(3 * x, {"box": 5 * x})  # noqa: E731
    answer = mean_predictor([one, other], [1.0, 3.0])({})
    assert torch.equal(answer.main, 2.5 * x)
    assert list(answer.others) == ["box"]
    assert torch.equal(answer.others["box"], 4 * x)


def test_equal_tables_are_teachers_of_other_first_weights(tmp_path: Path) -> None:
    plan = config([RESNET, RESNET], folder=tmp_path)
    first, second = (teacher_of(plan, number) for number in (0, 1))
    assert count_parameters(first) == count_parameters(second)
    assert not torch.equal(next(first.parameters()), next(second.parameters()))
    alone = teacher_of(config(RESNET, folder=tmp_path))
    assert torch.equal(next(first.parameters()), next(alone.parameters()))


def test_files_are_checked_and_saved_logits_stand_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "logits.npy", np.zeros((100, 10), np.float32))
    (tmp_path / "x.onnx").write_bytes(b"garbage")
    logits = {"model": "logits.npy"}
    for teacher, message in (
        ([RESNET, logits], "cannot be combined with other teachers"),
        ([RESNET, {"model": "none.onnx"}], r"none\.onnx: no such file"),
        ([RESNET, {"model": "x.onnx"}], r"x\.onnx: is not an ONNX model"),
        ({"model": "x.onnx", "depth": 2.0}, r"teacher\.depth: a teacher from \.onnx has a fixed size"),
        (logits | {"weights": "a.pt"}, r"teacher\.weights: a teacher from \.npy has its own weights"),
        ([RESNET, {"model": "zoo:resnet21"}], r"perhaps 'resnet20'|perhaps 'resnet"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_all(config(teacher, folder=tmp_path))


def test_depth_reaches_teacher_and_student_and_the_pruned_student_has_the_teachers(tmp_path: Path) -> None:
    plan = config(RESNET | {"depth": 2.0}, {"model": "zoo:resnet20", "depth": 0.34}, tmp_path)
    assert len(teacher_of(plan).get_submodule("layer1")) == 6
    assert len(student_of(plan).get_submodule("layer1")) == 1
    pruned = student_of(config(RESNET | {"depth": 2.0}, {"prune": 0.25}, tmp_path))
    assert [block.conv1.out_channels for block in pruned.get_submodule("layer3")] == [24] * 6
