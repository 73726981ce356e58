import sys

import pytest
import torch
from torch import Tensor, nn

from edgedistill.distill.predictors import torch_predictor
from edgedistill.distill.teacher_engine import EngineChoice, openvino_predictor
from edgedistill.errors import ConfigError
from edgedistill.models.build import build_model
from edgedistill.runtime.progress import Reporter
from edgedistill.tasks.table import find_task
from tests.support.learning import interface, only
from tests.support.learning import model as named
from tests.support.listener import Listener

QUIET = Reporter(quiet=True)
IMAGES = interface("image", (32, 32, 3))


def choose(engine: str, model: nn.Module, sample: Tensor, report: Reporter = QUIET, inputs: int = 10**9) -> str:
    choice = EngineChoice(find_task("classification"), IMAGES, report)
    return choice.choose((engine, "auto"), model, {"input": sample}, inputs)


def test_openvino_answers_as_torch_does_for_any_batch() -> None:
    model = build_model(named("zoo:resnet20"), IMAGES, 0).eval()
    images = torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(
        memory_format=torch.channels_last
    )
    predict = openvino_predictor(model, {"input": images}, "fp32")
    expected = only(torch_predictor(model, "fp32")({"input": images}))
    torch.testing.assert_close(only(predict({"input": images})), expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(only(predict({"input": images[:7]})), expected[:7], rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_the_choice_is_one_of_the_two_and_says_so() -> None:
    heard, model = Listener(), build_model(named("zoo:resnet20"), IMAGES, 0).eval()
    engine = choose("auto", model, torch.randn(64, 3, 32, 32), heard)
    assert f"teacher runs in {engine}; samples per second: torch" in heard.said[0]


def test_openvino_is_not_tried_for_work_that_is_shorter_than_the_trial() -> None:
    heard, model = Listener(), nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    assert choose("auto", model, torch.randn(64, 3, 8, 8), heard, inputs=64) == "torch"
    assert heard.said[0].startswith(
        "soft labels: teacher runs in torch, which takes about 0.0 s; OpenVINO is not tried"
    )


def test_without_openvino_the_teacher_runs_in_torch_unless_openvino_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # Python then finds no such package
    heard, model, sample = Listener(), nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), torch.randn(4, 3, 8, 8)
    assert choose("auto", model, sample, heard) == "torch"
    assert heard.said[0].endswith("is not installed: pip install 'edgedistill[openvino]'")
    with pytest.raises(ModuleNotFoundError):
        choose("openvino", model, sample)


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :10] if float(x.sum()) > 0 else x.flatten(1)[:, 10:20]


def test_a_model_that_cannot_be_captured_runs_in_torch_unless_openvino_was_asked_for() -> None:
    sample = torch.randn(4, 3, 8, 8)
    assert choose("auto", Branches(), sample) == "torch"
    assert choose("torch", Branches(), sample) == "torch"
    with pytest.raises(ConfigError, match=r"teacher\.engine: OpenVINO cannot convert this teacher"):
        choose("openvino", Branches(), sample)
