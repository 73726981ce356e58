"""Features of named layers, and every loss from configuration to student on real digits."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from edgedistill.config.load import parse_config
from edgedistill.config.schema import Config
from edgedistill.config.training import CLASS_LOSSES, FEATURE_LOSSES, DistillConfig
from edgedistill.distill.features import (
    FeatureStudent,
    FeatureTeacher,
    WithFeatures,
    channel_axis,
    feature_loss,
    feature_student,
    run_with_features,
)
from edgedistill.distill.losses import main_loss
from edgedistill.distill.training import Resume, Training, fit
from edgedistill.errors import ConfigError
from edgedistill.kits.kits import find_kits
from edgedistill.losses.batch import Batch, Loss
from edgedistill.losses.terms import kd
from edgedistill.models.build import build_model
from edgedistill.pipeline.pipeline import Plan, run_pipeline
from edgedistill.runtime.folder import Run
from edgedistill.runtime.progress import Reporter
from edgedistill.tasks.table import find_task
from tests.support.learning import interface
from tests.support.learning import model as named

QUIET = Reporter(quiet=True)
PAIR = {"student_layers": ["blocks.1", "blocks.2"], "teacher_layers": ["layer2", "layer3"], "views": 0}


def images(count: int = 6, channels: int = 1) -> torch.Tensor:
    return torch.randn(count, channels, 8, 8, generator=torch.Generator().manual_seed(0))


def zoo(name: str, width: float, kind: str = "image", shape: tuple[int, ...] = (8, 8)) -> nn.Module:
    return build_model(named(f"zoo:{name}", width), interface(kind, shape), 0)


def student() -> nn.Module:
    return zoo("mlperf-resnet8", 0.25)


def teacher(layers: tuple[str, ...] = ("layer2", "layer3")) -> FeatureTeacher:
    return FeatureTeacher(zoo("resnet20", 0.5), layers, "fp32")


def given(x: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"input": x}


def loss_of(keys: DistillConfig, frozen: FeatureTeacher) -> Loss:
    on_logits = main_loss(find_task("classification").distillation_loss(keys, None), None)
    return feature_loss(keys, on_logits, frozen, None)


def plan(**keys: object) -> DistillConfig:
    own = {"relation_heads": 4} if keys.get("loss") == "relations" else {}
    return DistillConfig.model_validate(PAIR | {"loss": "hint"} | own | keys)


def test_an_answer_is_the_logits_and_what_the_named_layers_gave() -> None:
    model, x = student().eval(), images()
    answer = run_with_features(model, ("blocks.1", "stem"), given(x))
    torch.testing.assert_close(answer.returned, model(x))
    torch.testing.assert_close(answer.features[1], model.get_submodule("stem")(x))
    assert answer.features[0].shape == (6, 8, 4, 4)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_feature_is_what_its_layer_gave_though_the_next_works_in_place() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(inplace=True), nn.Linear(5, 3))
    answer = run_with_features(model, ("1", "2"), given(images()))
    assert (answer.features[0] < 0).any()
    torch.testing.assert_close(answer.features[0].relu(), answer.features[1])
    answer.features[0].sum().backward()
    assert model[1].weight.grad is not None


def test_channels_come_first_whatever_the_layer() -> None:
    sequence = zoo("transformer", 1.0)
    tokens = run_with_features(sequence, ("layers.1", "embed"), given(images()))
    assert tokens.features[0].shape == (6, 64, 64)
    assert channel_axis(sequence.get_submodule("layers.1")) == -1
    assert channel_axis(sequence.get_submodule("embed")) == 1
    assert channel_axis(nn.ReLU()) == 1
    signals = run_with_features(zoo("cnn1d", 1.0, "signal", (40, 2)), ("features.6",), given(torch.randn(4, 2, 40)))
    assert signals.features[0].shape == (4, 64, 10)


def test_hint_gets_regressors_to_the_teachers_channels_and_others_do_not() -> None:
    for loss in FEATURE_LOSSES:
        joined = feature_student(plan(loss=loss), student(), teacher(), given(images()), 0)
        answer = joined.train()(images())
        channels = [feature.shape[1] for feature in answer.features]
        needs_same = loss in ("hint", "cwd-features")
        assert channels == ([16, 32] if needs_same else [8, 16])
        assert bool(list(joined.regressors.parameters())) == needs_same
    alike = plan(teacher_layers=["blocks.1", "blocks.2"])
    same = feature_student(
        alike, student(), FeatureTeacher(student(), ("blocks.1", "blocks.2"), "fp32"), given(images()), 0
    )
    assert not list(same.regressors.parameters())
    first, second = (feature_student(plan(), student(), teacher(), given(images()), 3).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_in_evaluation_a_feature_student_answers_as_the_student() -> None:
    model = student()
    joined = feature_student(plan(), model, teacher(), given(images()), 0).eval()
    assert torch.equal(joined(images()), model(images()))


def test_a_teacher_gives_no_gradient_and_keeps_its_statistics() -> None:
    frozen = teacher()
    before = {key: value.clone() for key, value in frozen.model.state_dict().items()}
    answer = frozen(given(images()))
    assert not answer.returned.requires_grad
    assert not any(feature.requires_grad for feature in answer.features)
    assert all(torch.equal(value, frozen.model.state_dict()[key]) for key, value in before.items())


def test_a_teacher_in_bfloat16_answers_in_float32() -> None:
    frozen = teacher()
    half = FeatureTeacher(frozen.model, frozen.layers, "bf16")(given(images()))
    whole = frozen(given(images()))
    for a, b in zip((half.returned, *half.features), (whole.returned, *whole.features), strict=True):
        assert a.dtype == torch.float32
        assert 0 < float((a - b).abs().max()) < 0.1 * float(b.abs().max())


@pytest.mark.parametrize("weight", [None, 3.0])
def test_the_feature_term_is_added_to_that_on_logits(weight: float | None) -> None:
    keys = plan(feature_weight=weight, hard_weight=0.25)
    frozen, x, labels = teacher(), images(), torch.arange(6)
    theirs = frozen(given(x))
    ours = WithFeatures(torch.randn(6, 10), tuple(torch.randn_like(feature) for feature in theirs.features))
    on_features = sum(float((a - b).square().mean()) for a, b in zip(ours.features, theirs.features, strict=True))
    on_labels = float(nn.functional.cross_entropy(ours.returned, labels))
    expected = 0.25 * on_labels + 0.75 * float(kd(ours.returned, theirs.returned, 4.0)) + (weight or 1) * on_features
    assert float(loss_of(keys, frozen)(ours, Batch(given(x), labels))) == pytest.approx(expected, rel=1e-5)


MISTAKES = {
    "a near miss": ({"student_layers": ["block.1", "blocks.2"]}, r"distill.student_layers: no layer 'block.1'; perhaps 'blocks.1'\?"),
    "a list that fits": ({"teacher_layers": ["layer2", "zzz"]}, r"no layer 'zzz'; the layers are conv1, bn1, layer1, layer1.0.*and \d+ within"),
    "nothing to map": ({"loss": "at", "student_layers": ["fc", "blocks.2"], "teacher_layers": ["linear", "layer3"]}, "compares spatial maps"),
    "other axes": ({"student_layers": ["fc", "blocks.2"]}, r"cannot compare 'fc' \(6, 10\) and 'layer2' \(6, 16, 4, 4\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_layers_that_cannot_be_compared(case: str) -> None:
    keys, message = MISTAKES[case]
    wanted = plan(**keys)
    with pytest.raises(ConfigError, match=message):
        feature_student(wanted, student(), teacher(wanted.teacher_layers), given(images()), 0)


def test_layers_that_give_no_feature() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair, self.unused, self.shared, self.fc = (
                nn.LSTM(8, 3),
                nn.Linear(1, 1),
                nn.Identity(),
                nn.Linear(3, 3),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.shared(self.shared(self.pair(x[:, 0])[0])).mean(1))

    for name, message in (("pair", "returns tuple"), ("unused", "runs 0 times"), ("shared", "runs 2 times")):
        with pytest.raises(ConfigError, match=f"layer '{name}' {message}"):
            run_with_features(Odd(), (name,), given(images()))


CONFIGURATIONS = {
    "an unknown loss": ({"loss": "kdd"}, r"distill\.loss: no loss 'kdd'.*perhaps 'kd'\?"),
    "a malformed function": ({"loss": "my file:f"}, r"distill\.loss: no loss 'my file:f'; name your own as package.module:function"),
    "cached views": ({"loss": "hint", "student_layers": ["a"], "teacher_layers": ["b"]}, r"features, which are not cached \(views = 8\); set views = 0"),
    "no layers": ({"loss": "at", "views": 0}, "student_layers names 0 and teacher_layers 0"),
    "unlike numbers": ({"loss": "rkd", "views": 0, "student_layers": ["a"], "teacher_layers": ["b", "c"]}, "names 1 and teacher_layers 2"),
    "a key of another loss": ({"dkd_beta": 8.0}, "loss 'kd' does not use 'dkd_beta'; it applies to: dkd"),
    "layers of logits": ({"loss": "dkd", "student_layers": ["a"]}, "does not use 'student_layers'"),
    "standardized squares": ({"loss": "mse", "standardize": True}, "loss 'mse' does not use 'standardize'"),
    "a temperature of one's own": ({"loss": "a:b", "temperature": 2.0}, "loss 'a:b' does not use 'temperature'"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_a_configuration_that_cannot_be_meant(case: str) -> None:
    distill, message = CONFIGURATIONS[case]
    with pytest.raises(ConfigError, match=message) as caught:
        digits(Path(), distill)
    assert len(str(caught.value).splitlines()) == 1
    assert "{" not in str(caught.value)


def test_what_does_nothing_may_be_spelt_out_at_its_default() -> None:
    assert DistillConfig(loss="mse", temperature=4.0, standardize=False).loss == "mse"


class Feed:
    """Two batches of noise an epoch, the same for the same epoch."""

    def __init__(self, stop_in: int | None = None) -> None:
        self.stop_in = stop_in

    def __len__(self) -> int:
        return 2

    def epoch(self, number: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(number)
        for step in range(2):
            if number == self.stop_in and step == 1:
                raise KeyboardInterrupt
            yield Batch(given(torch.randn(16, 1, 8, 8, generator=generator)), torch.arange(16) % 10)


def logits_of_one_class(model: nn.Module) -> float:
    """Something to choose an epoch by."""
    return float(model.eval()(images())[:, 0].mean().detach())


def train(folder: Path, feed: Feed, keys: DistillConfig) -> FeatureStudent:
    frozen = teacher()
    joined = feature_student(keys, student(), frozen, given(images()), 0)
    resume = Resume(folder / "resume.pt", "key")
    training = Training("test", keys, feed, loss_of(keys, frozen), logits_of_one_class, resume, 0)
    fit(joined, training, QUIET)
    return joined


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_broken_training_resumes_with_its_regressors_bit_for_bit(tmp_path: Path, ema: float) -> None:
    keys = plan(epochs=4, lr=0.01, ema=ema, precision="fp32")
    whole = train(tmp_path / "whole", Feed(), keys)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken", Feed(stop_in=2), keys)
    resumed = train(tmp_path / "broken", Feed(), keys)
    assert len(list(whole.regressors.parameters())) == 4
    untrained = feature_student(keys, student(), teacher(), given(images()), 0).state_dict()
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
        if key.startswith("regressors"):
            assert not torch.equal(value, untrained[key]), key


def digits(folder: Path, distill: dict[str, object], model: str = "zoo:resnet20") -> Config:
    return parse_config(
        {
            "name": "digits",
            "data": {"train": "edgedistill.data.digits:train", "test": "edgedistill.data.digits:test"},
            "teacher": {"model": model, "width": 0.5, "epochs": 3, "batch_size": 32},
            "student": {"model": "zoo:mlperf-resnet8", "width": 0.25},
            "distill": distill,
            "target": [{"name": "pc", "kit": "ort"}],
        },
        folder,
        "test.toml",
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("losses")
    (found / "huber_of_logits.py").write_text(
        "from torch.nn import functional\n"
        "def loss(student_logits, teacher_logits, labels):\n"
        "    return functional.smooth_l1_loss(student_logits, teacher_logits)\n"
        "def wrong(student_logits, teacher_logits, labels):\n"
        "    return student_logits - teacher_logits\n"
    )
    return found


def distilled(folder: Path, distill: dict[str, object]) -> dict:
    config = digits(folder, {"epochs": 4, "batch_size": 32, "views": 1, "lr": 0.05} | distill)
    run_pipeline(config, Run(folder / "run"), find_kits(()), QUIET, Plan(until="distill"))
    return json.loads((folder / "run" / "manifest.json").read_text())["stages"]


FAST = ("kd", "at", "huber_of_logits:loss")
"""A loss of logits, one of features and one of the user's own; the others are slow tests."""
EACH_LOSS = [
    pytest.param(loss, marks=() if loss in FAST else pytest.mark.slow, id=loss)
    for loss in (*CLASS_LOSSES, *FEATURE_LOSSES, "huber_of_logits:loss")
]


@pytest.mark.parametrize("loss", EACH_LOSS)
def test_every_loss_trains_a_student(folder: Path, loss: str) -> None:
    own = {"temperature": 1.0} if loss == "dist" else PAIR if loss in FEATURE_LOSSES else {}
    own = own | ({"relation_heads": 4} if loss == "relations" else {})
    stages = distilled(folder, {"loss": loss, "control": loss == "hint"} | own)
    record, control = (stages["distill"]["record"][name] for name in ("student", "control"))
    assert record["parent"] == stages["soft_labels"]["key"]
    assert (control is not None) == (loss == "hint")
    assert record["val_accuracy"] > 0.5, record  # by chance: 0.1
    assert stages["distill"]["config"]["distill"]["loss"] == loss
    kept = load_file(folder / "run" / record["file"]["path"])
    expected = student().state_dict()
    assert {key: value.shape for key, value in kept.items()} == {key: value.shape for key, value in expected.items()}
    assert record["parameters"] == sum(p.numel() for p in student().parameters())


def test_a_changed_loss_of_ones_own_is_another_student(folder: Path) -> None:
    before = distilled(folder, {"loss": "huber_of_logits:loss", "epochs": 1})["distill"]["key"]
    source = folder / "huber_of_logits.py"
    source.write_text(source.read_text() + "# changed\n")
    assert distilled(folder, {"loss": "huber_of_logits:loss", "epochs": 1})["distill"]["key"] != before


MISTAKEN_RUNS = (
    ({"loss": "huber_of_logits:wrong"}, r"'huber_of_logits:wrong' returns a tensor of shape \(16, 10\)"),
    ({"loss": "huber_of_logits:los"}, "has no 'los'"),
    ({"loss": "not_there:loss"}, "no module 'not_there'"),
    ({"loss": "hint", **PAIR, "student_layers": ["blocks.1", "blocks.3"]}, "perhaps 'blocks.[12]'"),
)


@pytest.mark.parametrize(("distill", "message"), MISTAKEN_RUNS)
def test_mistakes_are_found_before_anything_is_written(folder: Path, distill: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_pipeline(digits(folder, distill), Run(folder / "none"), find_kits(()), QUIET, Plan(until="distill"))
    assert not (folder / "none").exists()


@pytest.mark.parametrize("model", ["teacher.onnx", "logits.npy"])
def test_a_teacher_without_layers_has_no_features(model: str) -> None:
    with pytest.raises(ConfigError, match=f"loss 'at' needs the layers of a torch teacher, but {model} has none"):
        digits(Path(), {"loss": "at", **PAIR}, model)
