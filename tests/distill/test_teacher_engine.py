from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgedistill.config.training import TeacherConfig
from edgedistill.distill.predictors import torch_predictor
from edgedistill.distill.teacher_engine import choose_engine, openvino_predictor
from edgedistill.errors import ConfigError
from edgedistill.models.build import build_model
from edgedistill.records.stages import DataRecord
from edgedistill.runtime.progress import Reporter

QUIET = Reporter(quiet=True)
IMAGES = DataRecord(kind="image", dtype="uint8", shape=(32, 32, 3), classes=tuple("abcdefghij"), vocabulary=None,
                    train=1, val=1, test=1, fingerprint="")  # fmt: skip


def test_openvino_answers_as_torch_does_for_any_batch() -> None:
    model = build_model("zoo:resnet20", IMAGES, 1.0, Path(), 0).eval()
    images = torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(
        memory_format=torch.channels_last
    )
    predict = openvino_predictor(model, images, "fp32")
    expected = torch_predictor(model, "fp32")(images)
    torch.testing.assert_close(predict(images), expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(predict(images[:7]), expected[:7], rtol=1e-4, atol=1e-3)


def test_the_choice_is_one_of_the_two_and_says_so() -> None:
    said: list[str] = []

    class Listener(Reporter):
        def line(self, text: str) -> None:
            said.append(text)

    model = build_model("zoo:resnet20", IMAGES, 1.0, Path(), 0).eval()
    engine = choose_engine(TeacherConfig(model="m"), model, torch.randn(64, 3, 32, 32), Listener())
    assert f"teacher runs in {engine}; samples per second: torch" in said[0]


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :10] if float(x.sum()) > 0 else x.flatten(1)[:, 10:20]


def test_a_model_that_cannot_be_captured_runs_in_torch_unless_openvino_was_asked_for() -> None:
    sample = torch.randn(4, 3, 8, 8)
    assert choose_engine(TeacherConfig(model="m"), Branches(), sample, QUIET) == "torch"
    assert choose_engine(TeacherConfig(model="m", engine="torch"), Branches(), sample, QUIET) == "torch"
    with pytest.raises(ConfigError, match=r"teacher\.engine: OpenVINO does not take this teacher"):
        choose_engine(TeacherConfig(model="m", engine="openvino"), Branches(), sample, QUIET)
