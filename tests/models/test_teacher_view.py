"""A teacher with its own view: what it is given, in which order its classes come back, and in an exported file."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgedistill.data.settings import Normalization
from edgedistill.errors import ConfigError
from edgedistill.graphs.columns import select_columns
from edgedistill.graphs.run import run_onnx
from edgedistill.models.teacher_view import TeacherView, check_view
from tests.support.learning import config_of, interface
from tests.support.small_onnx import text_model

DATA = Normalization(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
FACE = interface("image", (4, 4, 3), 3).model_copy(update={"classes": ("ant", "bee", "cat")})


def shaped(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).reshape(1, 3, 1, 1)


def test_the_teacher_gets_the_same_sample_as_its_own_preprocessing_makes_it() -> None:
    raw = torch.rand(2, 3, 4, 4)
    student = (raw - shaped(DATA.mean)) / shaped(DATA.std)
    view = TeacherView(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), channels="bgr", size=8, data=DATA)
    (seen,) = view.inputs({"input": student}).values()
    own = (raw.flip(1) - shaped((0.4, 0.5, 0.6))) / shaped((0.2, 0.3, 0.4))
    own = nn.functional.interpolate(own, (8, 8), mode="bilinear")
    torch.testing.assert_close(seen, own)
    mixed = (0.3 * student[:1]) + (0.7 * student[1:])  # as mixup does, after the student's normalization
    (seen_mixed,) = view.inputs({"input": mixed}).values()
    torch.testing.assert_close(seen_mixed, 0.3 * own[:1] + 0.7 * own[1:])
    only_std = TeacherView(std=(1.0, 1.0, 1.0), data=DATA)
    torch.testing.assert_close(only_std.inputs({"input": student})["input"], raw - shaped(DATA.mean))


@pytest.mark.slow
@pytest.mark.parametrize(("size", "shape"), [(8, (8, 8, 3)), ((12, 8), (8, 12, 3))])
def test_hooks_keep_names_and_are_exported(size: int | tuple[int, int], shape: tuple[int, ...]) -> None:
    view = TeacherView(size=size, resize="letterbox", channels="bgr", classes=("cat", "none", "ant", "bee"), data=DATA)
    assert view.interface(FACE).values == 4
    assert view.interface(FACE).first.shape == shape
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 4))
    x, names = torch.rand(2, 3, 4, 4), list(plain.state_dict())
    expected = plain(view.inputs({"input": x})["input"])[:, [2, 3, 0]]
    view.attach(plain, FACE)
    assert list(plain.state_dict()) == names
    torch.testing.assert_close(plain(x), expected)
    torch.testing.assert_close(torch.export.export(plain, (x,)).module()(x), expected)


def test_the_columns_of_a_file_are_reordered_under_the_same_name() -> None:
    model = text_model("(float[1, 4] x) => (float[1, 4] y) { a = Neg(x) y = Relu(a) }")
    select_columns(model, "y", [2, 0, 3])
    x = -np.arange(4, dtype=np.float32)[None]
    assert [one.name for one in model.graph.output] == ["y"]
    np.testing.assert_array_equal(run_onnx(model.SerializeToString(), {"x": x[:, None]})["y"].ravel(), [2, 0, 3])


@pytest.mark.parametrize(
    ("view", "kind", "message"),
    [
        (TeacherView(size=8), "signal", r"^teacher\.size: only applies to images, but the data is signal"),
        (TeacherView(mean=(0.0,)), "tokens", r"^teacher\.mean: tokens are not normalised"),
        (TeacherView(channels="bgr"), "image", r"^teacher\.channels: only applies to colour images"),
        (TeacherView(std=(1.0,), data=DATA), "image", r"^data\.mean: 3 values, but samples have 1 channel\(s\)"),
    ],
)
def test_keys_that_do_not_fit_the_data_are_refused(view: TeacherView, kind: str, message: str) -> None:
    shapes = {"signal": (16, 1), "tokens": (16,), "image": (4, 4, 1)}
    with pytest.raises(ConfigError, match=message):
        check_view(view, interface(kind, shapes[kind], vocabulary=9 if kind == "tokens" else None), has_inputs=True)


def test_a_pruned_student_sees_what_its_teacher_sees(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"student\.prune: .* its teacher cannot have teacher\.std; move the key to \[data\]"
    ):
        config_of(tmp_path, teacher={"model": "zoo:resnet20", "std": [0.5]}, student={"prune": 0.5})
