"""Regressions learn values of any unit, and models keep answering in it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgedistill.config.schema import Config
from edgedistill.config.training import DistillConfig, TrainingConfig
from edgedistill.data.views import plain_views
from edgedistill.distill.label_scale import (
    Probe,
    probe_labels,
    report_unscaled,
    standardized,
    standardized_copy,
    standardized_head,
)
from edgedistill.distill.settings import TeacherSettings, declare_plan, declare_teacher
from edgedistill.distill.teacher import build_teacher
from edgedistill.kits.kits import find_kits
from edgedistill.losses.batch import Batch
from edgedistill.pipeline.checks import dataset_of
from edgedistill.pipeline.pipeline import Plan, run_pipeline
from edgedistill.quantize.calibration import calibration_batches, example_input
from edgedistill.quantize.prepare import calibrate, prepare
from edgedistill.records.stages import StudentRecord, TeacherRecord
from edgedistill.runtime.folder import Run, require_record
from edgedistill.runtime.progress import QUIET
from tests.support.learning import config_of, sources_of
from tests.support.listener import Listener

NETS = """
import torch
from torch import nn

def linear(classes):
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, classes))

def fixed():
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1))

def convolution(classes):
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Unflatten(1, (32, 1)), nn.Conv1d(32, classes, 1), nn.Flatten())

def positive(classes):
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, classes), nn.ReLU())

def bounded(classes):
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, classes), nn.Sigmoid())

class Two(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body, self.head, self.other = nn.Linear(6, 32), nn.Linear(32, classes), nn.Linear(32, 3)

    def forward(self, x):
        x = torch.relu(self.body(x))
        return {"other": self.other(x), "logits": self.head(x)}

def two(classes):
    return Two(classes)

def normalized(classes):
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.utils.parametrizations.weight_norm(nn.Linear(32, classes)))

class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)

def doubled(classes):
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), Doubled(32, classes))

class Tied(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, classes)
        self.other = nn.Linear(6, classes)
        self.other.weight = self.last.weight

    def forward(self, x):
        return self.last(self.first(x) + self.other(x).sum(1, keepdim=True))

def tied(classes):
    return Tied(classes)
"""
TRAINING = {"epochs": 12, "optimizer": "adamw", "lr": 0.01, "batch_size": 32}


def config_in(folder: Path, mean: Any, std: Any, net: str = "linear", **keys: Any) -> Config:
    """Return a configuration of a regression whose labels have a mean and a deviation."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(6, np.size(mean)))
    for name, count in (("train", 300), ("val", 100), ("test", 100)):
        inputs = rng.normal(size=(count, 6)).astype(np.float32)
        values = np.tanh(inputs @ weights)
        labels = values / 0.7 * std + mean
        np.savez(folder / f"{name}.npz", inputs=inputs, labels=labels.astype(np.float32))
    (folder / "nets.py").write_text(NETS)
    tables: dict[str, Any] = {
        "data": {"train": "train.npz", "val": "val.npz", "test": "test.npz", "kind": "features", "task": "regression", "augment": []},
        "teacher": TRAINING | {"model": f"nets:{net}"}, "student": {"model": f"nets:{net}"},
        "distill": TRAINING | {"loss": "mse", "views": 1, "hard_weight": 0.5}, "target": [{"name": "pc", "kit": "ort"}],
    }  # fmt: skip
    return config_of(
        folder,
        **{name: table | keys.get(name, {}) if isinstance(table, dict) else table for name, table in tables.items()},
    )


def settings_in(folder: Path, mean: Any, std: Any, net: str = "linear") -> TeacherSettings:
    config = config_in(folder, mean, std, net)
    return declare_teacher(sources_of(config, dataset_of(sources_of(config)).record))


def model_of(settings: TeacherSettings) -> nn.Module:
    return build_teacher(settings, 0)


def probe_of(settings: TeacherSettings) -> Probe | None:
    return probe_labels(settings, settings.dataset(), TrainingConfig())


def inputs_of(settings: TeacherSettings) -> Tensor:
    train = settings.dataset().train
    rows = np.arange(len(train))
    return next(iter(plain_views(train, settings.data, settings.views).batch(rows, rows * 0).values()))


@torch.no_grad()
def answer(model: nn.Module, inputs: Tensor) -> Tensor:
    returned = model.eval()(inputs)
    found: Tensor = returned["logits"] if isinstance(returned, dict) else returned
    return found


@pytest.mark.parametrize(
    ("mean", "std"),
    [(0, 1), (1000, 10), (0.002, 0.001), (2.5e5, 4e4), ((1000, 0.5), (10, 0.001))],
    ids=["standard", "offset", "small", "large", "two units"],
)
def test_teacher_and_student_learn_values_of_any_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mean: Any, std: Any
) -> None:
    monkeypatch.setenv("EDGEDISTILL_CACHE", str(tmp_path / "cache"))
    run = Run(tmp_path / "run")
    run_pipeline(config_in(tmp_path, mean, std), run, find_kits(()), QUIET, Plan("distill"))
    found = require_record(run, TeacherRecord).val_accuracy, require_record(run, StudentRecord).student.val_accuracy
    assert None not in found
    assert min(one for one in found if one is not None) > 0.8


@pytest.mark.parametrize("net", ["linear", "fixed", "convolution", "two"])
def test_an_untrained_model_answers_near_the_labels_and_keeps_its_answers(tmp_path: Path, net: str) -> None:
    settings = settings_in(tmp_path, 1000, 10, net)
    model, inputs = model_of(settings), inputs_of(settings)
    plain = answer(model, inputs)
    with standardized_head(model, probe_of(settings)):
        within = answer(model, inputs)
        torch.testing.assert_close(within, plain * 10.0 + 1000, rtol=0.001, atol=2)
    torch.testing.assert_close(answer(model, inputs), within, rtol=1e-6, atol=1e-3)


def test_a_trained_model_keeps_its_answers(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, 1000, 10)
    model, inputs = model_of(settings), inputs_of(settings)
    with torch.no_grad():
        model.get_parameter("2.bias").fill_(1007)
    plain = answer(model, inputs)
    with standardized_head(model, probe_of(settings)):
        assert model.get_parameter("2.bias").item() == pytest.approx(0.7, abs=0.2)
        torch.testing.assert_close(answer(model, inputs), plain, rtol=1e-6, atol=1e-3)
    torch.testing.assert_close(answer(model, inputs), plain, rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("net", ["normalized", "doubled", "tied"])
def test_a_last_layer_that_computes_with_more_than_a_weight_and_a_bias_is_left_as_it_is(
    tmp_path: Path, net: str
) -> None:
    settings = settings_in(tmp_path, 1000, 10, net)
    model, inputs = model_of(settings), inputs_of(settings)
    plain = answer(model, inputs)
    with standardized_head(model, probe_of(settings)) as scale:
        assert torch.equal(answer(model, inputs), plain)
    assert scale is None
    assert torch.equal(answer(model, inputs), plain)


@pytest.mark.parametrize(("mean", "std", "is_said"), [(1000, 10, True), (0, 0.001, True), (2, 1, False)])
def test_a_model_with_another_end_learns_values_as_they_are_and_that_is_said(
    tmp_path: Path, mean: float, std: float, is_said: bool
) -> None:
    settings, listener = settings_in(tmp_path, mean, std, "bounded"), Listener()
    model, inputs = model_of(settings), inputs_of(settings)
    plain = answer(model, inputs)
    probe = probe_of(settings)
    with standardized_head(model, probe) as scale:
        report_unscaled(settings, probe, scale, "teacher", listener)
        assert torch.equal(answer(model, inputs), plain)
    assert scale is None
    assert torch.equal(answer(model, inputs), plain)
    (*said,) = listener.said
    assert len(said) == is_said
    if is_said:
        assert said[0].startswith("teacher: the labels have a mean of ")
        assert "the model does not end in a linear layer with a bias" in said[0]


def test_the_loss_is_that_of_standardized_values(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, (1000, 0.5), (10, 0.001))
    probe = probe_of(settings)
    scale, task = probe.scale, settings.task
    on_labels = standardized(task.label_loss(TrainingConfig()), scale)
    labels = torch.from_numpy(settings.dataset().train.labels[:8])
    assert float(on_labels(scale.mean.expand(8, 2), Batch({}, labels))) == pytest.approx(1, abs=0.5)
    outputs, teacher = labels + scale.std, labels + scale.std * torch.tensor([0.5, -1.0])
    batch = Batch({}, labels, teacher)
    assert float(on_labels(outputs, batch)) == pytest.approx(1, rel=0.01)
    mixed = batch._replace(partner_labels=labels, share=torch.full((8,), 0.3))
    assert float(on_labels(outputs, mixed)) == pytest.approx(1, rel=0.01)
    plan = DistillConfig(loss="mse", hard_weight=0.0)
    on_teacher = standardized(task.distillation_loss(plan, None), scale)
    assert float(on_teacher(outputs, batch)) == pytest.approx((0.25 + 4) / 2, rel=0.01)
    unlabelled = batch._replace(labels=torch.zeros(8, 0))
    assert float(on_teacher(outputs, unlabelled)) == pytest.approx((0.25 + 4) / 2, rel=0.01)


@pytest.mark.parametrize(
    ("keys", "is_scaled"),
    [
        ({"loss": "mse"}, True),
        ({"loss": "hint", "student_layers": ("2",), "teacher_layers": ("2",), "views": 0}, True),
        ({"loss": "cosine"}, False),
        ({"loss": "losses:own"}, False),
    ],
    ids=lambda one: one["loss"] if isinstance(one, dict) else "",
)
def test_the_cosine_and_functions_of_the_user_get_values_as_they_are(
    tmp_path: Path, keys: dict[str, Any], is_scaled: bool
) -> None:
    settings = settings_in(tmp_path, (1000, 0.5), (10, 0.001))
    assert (probe_labels(settings, settings.dataset(), DistillConfig(**keys)) is not None) is is_scaled


@pytest.mark.parametrize(("net", "is_standardized"), [("linear", True), ("two", True), ("positive", False)])
def test_the_int8_form_keeps_its_answers_and_learns_standardized_values(
    tmp_path: Path, net: str, is_standardized: bool
) -> None:
    settings = settings_in(tmp_path, 0.002, 0.001, net)
    model, inputs = model_of(settings), inputs_of(settings)
    with torch.no_grad():
        last = model.get_submodule("head" if net == "two" else "2")
        last.get_parameter("weight").mul_(0.001)
        last.get_parameter("bias").fill_(
            0.0022
        )  # all answers are above 0, so that a ReLU behind the layer does not show
    views = plain_views(settings.dataset().train, settings.data, settings.views)
    prepared = prepare(model.eval(), example_input(views))
    calibrate(prepared, calibration_batches(views, 64, 0))
    plain, layer = answer(prepared, inputs), prepared.graph.get_submodule("head" if net == "two" else "2")
    bias = layer.get_parameter("bias").clone()
    with standardized_copy(model, prepared, prepared.graph, probe_of(settings)) as scale:
        assert (scale is not None) is is_standardized
        torch.testing.assert_close(answer(prepared, inputs), plain, rtol=0, atol=5e-5)
        assert torch.equal(layer.get_parameter("bias"), bias) is not is_standardized
    torch.testing.assert_close(answer(prepared, inputs), plain, rtol=0, atol=5e-5)


def embedding_in(folder: Path, weights: Path | None = None) -> Config:
    """Return a configuration of embeddings of length 1, whose values have different deviations; with weights, without labels."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(6, 64)) * np.linspace(0.1, 1, 64)
    for name, count in (("train", 300), ("val", 100), ("test", 100)):
        inputs = rng.normal(size=(count, 6)).astype(np.float32)
        vectors = np.tanh(inputs @ hidden) + 0.2
        labels = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        np.savez(folder / f"{name}.npz", inputs=inputs, **({"labels": labels} if weights is None else {}))
    (folder / "nets.py").write_text(NETS)
    tables: dict[str, Any] = {
        "data": {"train": "train.npz", "val": "val.npz", "test": "test.npz", "kind": "features", "task": "embedding", "augment": []},
        "teacher": {"model": "nets:linear", "epochs": 10, "batch_size": 32}, "student": {"model": "nets:linear"},
        "distill": {"epochs": 10, "batch_size": 32, "loss": "mse", "views": 1}, "target": [{"name": "pc", "kit": "ort"}],
    }  # fmt: skip
    if weights is not None:
        tables["data"]["dimensions"], tables["distill"]["hard_weight"] = 64, 0.0
        tables["teacher"] = {"model": "nets:linear", "weights": str(weights)}
    return config_of(folder, **tables)


def test_embeddings_of_length_1_are_learnt_with_and_without_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEDISTILL_CACHE", str(tmp_path / "cache"))
    run, without = Run(tmp_path / "run"), Run(tmp_path / "without")
    run_pipeline(embedding_in(tmp_path), run, find_kits(()), QUIET, Plan("distill"))
    weights = tmp_path / "run" / "teacher" / "model.safetensors"
    run_pipeline(embedding_in(tmp_path, weights), without, find_kits(()), QUIET, Plan("distill"))
    trained = [
        require_record(run, TeacherRecord),
        *(require_record(one, StudentRecord).student for one in (run, without)),
    ]
    cosines = [one.val_accuracy or 0.0 for one in trained]
    assert min(cosines[:2]) > 0.8  # as they are, the teacher learns to 0.44, and the student to 0.25
    assert cosines[2] > 0.98  # and to 0.96


def test_embeddings_have_one_deviation_which_keeps_directions(tmp_path: Path) -> None:
    config = embedding_in(tmp_path)
    probe = probe_of(declare_teacher(sources_of(config, dataset_of(sources_of(config)).record)))
    assert probe is not None
    assert float(probe.scale.std.min()) == float(probe.scale.std.max()) < 0.2
    assert float(probe.labels.std(0).max()) > 2 * float(probe.labels.std(0).min())


def test_other_tasks_have_no_scale_and_compute_as_before(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", inputs=np.eye(60, 6, dtype=np.float32), labels=np.arange(60) % 2)
    config = config_of(tmp_path, data={"train": "train.npz", "test": "train.npz", "kind": "features"})
    settings = declare_teacher(sources_of(config, dataset_of(sources_of(config)).record))
    assert probe_of(settings) is None
    assert settings.teachers[0].training.precision == "auto"


@pytest.mark.parametrize(("wanted", "precision"), [("auto", "fp32"), ("bf16", "bf16"), ("fp32", "fp32")])
def test_regressions_compute_in_float32_unless_bfloat16_is_asked_for(
    tmp_path: Path, wanted: str, precision: str
) -> None:
    config = config_in(tmp_path, 0, 1, teacher={"precision": wanted}, distill={"precision": wanted})
    sources = sources_of(config, dataset_of(sources_of(config)).record)
    plan = declare_plan(sources)
    found = declare_teacher(sources).teachers[0].training.precision
    assert {found, plan.distill.precision, plan.teachers[0].precision} == {precision}
