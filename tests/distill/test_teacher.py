from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from edgedistill.config.schema import Config
from edgedistill.distill.loading import Ask, build_student
from edgedistill.distill.predictors import Answer, mean_predictor
from edgedistill.distill.settings import TeacherSettings, declare_teacher
from edgedistill.distill.teacher import build_teacher, check_teacher
from edgedistill.errors import ConfigError
from edgedistill.graphs.read import weights_files
from edgedistill.kits.kits import find_kits
from edgedistill.models.build import count_parameters
from edgedistill.models.source import student_source, teacher_source
from edgedistill.pipeline.pipeline import Plan, run_pipeline
from edgedistill.runtime.files import sha256_of
from edgedistill.runtime.folder import Run
from tests.support.learning import config_of, data_of, sources_of
from tests.support.listener import Listener
from tests.support.small_onnx import text_model

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


def test_the_mean_of_other_outputs_is_of_those_that_all_teachers_have_in_one_shape() -> None:
    x = torch.ones(2, 3)
    one = lambda _: Answer(x, {"box": x, "mask": x, "vector": x})  # noqa: E731
    other = lambda _: Answer(3 * x, {"box": 5 * x, "vector": x[:, :2]})  # noqa: E731
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
    onnx.save(text_model("(float[N, 1, 8, 8] x) => (float[N, 1, 8, 8] y) { y = Relu(x) }"), tmp_path / "y.onnx")
    logits = {"model": "logits.npy"}
    for teacher, message in (
        ([RESNET, logits], "cannot be combined with other teachers"),
        ([RESNET, {"model": "none.onnx"}], r"none\.onnx: no such file"),
        ([RESNET, {"model": "x.onnx"}], r"x\.onnx: is not an ONNX model"),
        ({"model": "y.onnx", "depth": 2.0}, r"teacher\.depth: a teacher from \.onnx has a fixed size"),
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


ROWS = np.random.default_rng(0).normal(size=(400, 16)).astype(np.float32)
COLUMNS = np.random.default_rng(1).normal(size=(16, 4)).astype(np.float32)


def write_in_two_files(folder: Path, columns: np.ndarray) -> None:
    """Write teacher.onnx, a product with a matrix, and its matrix in teacher.onnx.data, as torch.onnx.export does."""
    (folder / "teacher.onnx.data").unlink(missing_ok=True)
    model = text_model("(float[N, 16] x) => (float[N, 4] y) { y = MatMul(x, w) }", w=columns)
    onnx.save(
        model, str(folder / "teacher.onnx"), save_as_external_data=True, location="teacher.onnx.data", size_threshold=0
    )


def two_files(folder: Path) -> Config:
    """Return a configuration for rows of numbers, whose teacher is the product with COLUMNS in two files."""
    (folder / "nets.py").write_text("from torch import nn\ndef net(classes): return nn.Linear(16, classes)\n")
    np.savez(folder / "rows.npz", inputs=ROWS, labels=(ROWS @ COLUMNS).argmax(1))
    write_in_two_files(folder, COLUMNS)
    return config_of(
        folder, data={"train": "rows.npz", "kind": "features"}, teacher={"model": "teacher.onnx"},
        student={"model": "nets:net"}, distill={"views": 1}, target=[{"name": "pc", "kit": "ort"}],
    )  # fmt: skip


def test_a_teacher_in_two_onnx_files_is_kept_as_one_and_runs_again_when_either_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEDISTILL_CACHE", str(tmp_path / "cache"))
    plan, kept = two_files(tmp_path), tmp_path / "run" / "teacher" / "teacher.onnx"
    largest = []
    for columns in (COLUMNS, 2 * COLUMNS):
        write_in_two_files(tmp_path, columns)
        run_pipeline(plan, Run(tmp_path / "run"), find_kits(()), Listener(), Plan("soft_labels"))
        assert weights_files(kept) == ()
        assert np.array_equal(onnx.numpy_helper.to_array(onnx.load(kept).graph.initializer[0]), columns)
        largest.append(np.load(tmp_path / "run" / "soft_labels" / "logits.npy").astype(np.float32).max())
    assert largest[1] == pytest.approx(2 * largest[0], rel=0.01)


def test_the_hash_of_one_onnx_file_is_that_of_its_content_and_the_space_counts_both_files(tmp_path: Path) -> None:
    plan = two_files(tmp_path)
    both = teacher_source(plan, 0, sha256_of).file
    assert both is not None
    assert both.size_bytes == (tmp_path / "teacher.onnx").stat().st_size + COLUMNS.nbytes
    onnx.save(onnx.load(tmp_path / "teacher.onnx"), tmp_path / "teacher.onnx")
    alone = teacher_source(plan, 0, sha256_of).file
    assert alone is not None
    assert alone.sha256 == sha256_of(tmp_path / "teacher.onnx") != both.sha256
    assert alone.size_bytes == (tmp_path / "teacher.onnx").stat().st_size


def test_weights_outside_the_teacher_s_folder_and_teachers_that_no_onnx_file_holds_are_refused(tmp_path: Path) -> None:
    plan = two_files(tmp_path)
    model = onnx.load(tmp_path / "teacher.onnx", load_external_data=False)
    place = next(entry for entry in model.graph.initializer[0].external_data if entry.key == "location")
    place.value = "../teacher.onnx.data"
    onnx.save(model, tmp_path / "teacher.onnx")
    with pytest.raises(ConfigError, match=r"teacher\.model: .* is outside the folder of the model"):
        teacher_source(plan, 0, sha256_of)
    write_in_two_files(tmp_path, COLUMNS)
    with (tmp_path / "teacher.onnx.data").open("r+b") as file:
        file.truncate(3 * 10**9)  # a file with a hole, which takes no space
    found = declare_teacher(sources_of(plan, data_of("features", (16,), 4, train=400), hash_file=lambda _: ""))
    with pytest.raises(ConfigError, match=r"teacher\.onnx and its weights files have 3\.0 GB, but .* at most 2\.1 GB"):
        check_teacher(found, 0, {"input": torch.rand(2, 16)})
