import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from edgedistill.config.training import TrainingConfig
from edgedistill.distill.bfloat16 import uses_bf16
from edgedistill.distill.fine_tuning import FineTuning
from edgedistill.distill.training import (
    Resume,
    Training,
    build_optimizer,
    build_schedule,
    ema_decay,
    fit,
    warmed_average,
)
from edgedistill.errors import ConfigError
from edgedistill.losses.batch import Batch
from edgedistill.runtime.progress import Reporter
from tests.support.damage import DAMAGES
from tests.support.listener import Listener

QUIET = Reporter(quiet=True)


class Rings:
    """Two rings in the plane, to be told apart; the same batches for the same epoch."""

    def __init__(self, stop_in: int | None = None) -> None:
        self.stop_in = stop_in

    def __len__(self) -> int:
        return 5

    def epoch(self, number: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(number)
        for step in range(len(self)):
            if number == self.stop_in and step == 2:
                raise KeyboardInterrupt
            points = torch.randn(64, 2, generator=generator)
            yield Batch({"input": points}, (points.norm(dim=1) > 1.2).long())


def accuracy(model: nn.Module) -> float:
    points = torch.randn(500, 2, generator=torch.Generator().manual_seed(99))
    model.eval()
    with torch.no_grad():
        return float((model(points).argmax(1) == (points.norm(dim=1) > 1.2)).float().mean())


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 2))


def training(folder: Path, feed: Rings, **plan: object) -> Training:
    config = TrainingConfig(**({"epochs": 8, "lr": 0.1, "precision": "fp32"} | plan))
    loss = lambda logits, batch: functional.cross_entropy(logits, batch.labels)  # noqa: E731
    return Training("test", config, feed, loss, accuracy, Resume(folder / "resume.pt", "key"), 3)


@pytest.mark.parametrize("plan", [{}, {"optimizer": "adamw", "lr": 0.05}, {"schedule": "cosine"}, {"ema": 0.9}])
def test_fit_learns_and_keeps_the_best_epoch(tmp_path: Path, plan: dict[str, object]) -> None:
    model = network()
    history = fit(model, training(tmp_path, Rings(), **plan), QUIET)
    assert [epoch.epoch for epoch in history] == list(range(1, 9))
    best = max(epoch.val_accuracy or 0 for epoch in history)
    assert best > 0.85
    assert accuracy(model) == best
    assert history[-1].loss < history[0].loss


@pytest.mark.parametrize("plan", [{}, {"ema": 0.9}, {"ema": 0.999}, {"optimizer": "adamw", "lr": 0.01}])
def test_a_broken_training_ends_where_an_unbroken_one_does(tmp_path: Path, plan: dict[str, object]) -> None:
    whole = network()
    fit(whole, training(tmp_path / "whole", Rings(), **plan), QUIET)
    with pytest.raises(KeyboardInterrupt):
        fit(network(), training(tmp_path / "broken", Rings(stop_in=5), **plan), QUIET)
    resumed = network()
    torch.manual_seed(2)  # dropout depends on the seed and the epoch, not on what this process did before
    history = fit(resumed, training(tmp_path / "broken", Rings(), **plan), QUIET)
    assert len(history) == 8
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def tuned(model: nn.Module, epochs: int | None, scale: float = 1.0) -> FineTuning:
    """Freeze the first layer and its batch norm, and let all but the last layer learn at `scale` times the rate."""
    first, norm, *_ = model
    frozen = (*first.parameters(), *norm.parameters())
    return FineTuning(frozen, (norm,), epochs, frozenset(map(id, frozen)), scale)


def states_of(model: nn.Module, folder: Path, feed: Rings, epochs: int | None, total: int) -> tuple[list[bool], ...]:
    """Train, and return for each epoch which of the first layer, its norm's statistics, and the last layer changed."""
    before, changed = copy.deepcopy(model.state_dict()), []

    def validate(trained: nn.Module) -> float:
        now = trained.state_dict()
        names = ("0.weight", "1.weight", "1.running_mean", "1.num_batches_tracked", "4.weight")
        changed.append([not torch.equal(now[name], before[name]) for name in names])
        before.update(copy.deepcopy(now))
        return accuracy(trained)

    plan = dataclasses.replace(training(folder, feed, epochs=total), validate=validate, tuning=tuned(model, epochs))
    fit(model, plan, QUIET)
    return tuple(changed)


def test_what_is_frozen_keeps_weights_and_statistics_until_it_is_released(tmp_path: Path) -> None:
    frozen, free = [False, False, False, False, True], [True] * 5
    assert states_of(network(), tmp_path / "always", Rings(), None, 3) == (frozen, frozen, frozen)
    assert states_of(network(), tmp_path / "later", Rings(), 2, 4) == (frozen, frozen, free, free)


@pytest.mark.parametrize(("plan", "stop_in"), [({}, 1), ({"optimizer": "adamw", "lr": 0.05}, 4)])
def test_a_broken_training_with_frozen_weights_ends_where_an_unbroken_one_does(
    tmp_path: Path, plan: dict[str, object], stop_in: int
) -> None:
    def trained(folder: Path, feed: Rings) -> nn.Module:
        model = network()
        fit(model, dataclasses.replace(training(folder, feed, epochs=6, **plan), tuning=tuned(model, 2, 0.2)), QUIET)
        return model

    whole = trained(tmp_path / "whole", Rings())
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "broken", Rings(stop_in=stop_in))
    resumed = trained(tmp_path / "broken", Rings())
    assert all(parameter.requires_grad for parameter in resumed.parameters())
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("schedule", ["onecycle", "cosine"])
def test_the_rate_of_the_start_is_scaled_throughout_the_schedule(optimizer: str, schedule: str) -> None:
    model = network()
    plan = TrainingConfig(epochs=2, lr=0.1, optimizer=optimizer, schedule=schedule)
    built = build_optimizer(model, plan, tuned(model, None, 0.25))
    slow = {id(one) for one in tuned(model, None).frozen}
    scheduler = build_schedule(built, plan, 5)
    for _ in range(10):
        rates = {id(one) in slow: group["lr"] for group in built.param_groups for one in group["params"]}
        assert rates[True] == pytest.approx(0.25 * rates[False])
        built.step()
        scheduler.step()


def test_a_slow_average_keeps_the_accuracy_of_a_short_training(tmp_path: Path) -> None:
    plain, averaged = network(), network()
    fit(plain, training(tmp_path / "plain", Rings()), QUIET)
    fit(averaged, training(tmp_path / "averaged", Rings(), ema=0.9999), QUIET)
    assert accuracy(averaged) > accuracy(plain) - 0.05


def test_the_decay_of_the_average_warms_up() -> None:
    assert ema_decay(0.999, 0) == 0.1
    assert ema_decay(0.999, 90) == 0.91
    assert ema_decay(0.999, 10_000) == 0.999
    assert ema_decay(0.5, 90) == 0.5
    model = nn.Linear(1, 1)
    average = AveragedModel(model, multi_avg_fn=warmed_average(0.999))
    expected = 0.0
    for number in range(5):
        model.weight.data.fill_(number)
        average.update_parameters(model)
        decay = ema_decay(0.999, number) if number else 0  # the first update copies the weights
        expected = decay * expected + (1 - decay) * number
        assert average.module.weight.item() == pytest.approx(expected)


def test_another_configurations_state_is_not_taken_up(tmp_path: Path) -> None:
    fit(network(), training(tmp_path, Rings()), QUIET)
    other = training(tmp_path, Rings())
    other = dataclasses.replace(other, resume=Resume(tmp_path / "resume.pt", "another"))
    heard = Listener()
    fit(network(), other, heard)
    assert len(heard.said) == 9  # eight epochs, and the best


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_training_begun_on_a_gpu_goes_on_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    whole, resumed, plan = network(), network(), {"ema": 0.9, "optimizer": optimizer, "lr": 0.01}
    fit(whole, training(tmp_path / "whole", Rings(), **plan), QUIET)
    with monkeypatch.context() as gpu:
        gpu.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")  # what torch writes for weights on a GPU
        with pytest.raises(KeyboardInterrupt):
            fit(network(), training(tmp_path / "broken", Rings(stop_in=5), **plan), QUIET)
    fit(resumed, training(tmp_path / "broken", Rings(), **plan), QUIET)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_a_damaged_state_is_named_and_the_training_starts_again(tmp_path: Path, damage: str) -> None:
    whole, redone = network(), network()
    fit(whole, training(tmp_path / "whole", Rings()), QUIET)
    with pytest.raises(KeyboardInterrupt):
        fit(network(), training(tmp_path / "broken", Rings(stop_in=5)), QUIET)
    state = tmp_path / "broken" / "resume.pt"
    state.write_bytes(DAMAGES[damage](state.read_bytes()))
    heard = Listener()
    fit(redone, training(tmp_path / "broken", Rings()), heard)
    assert heard.said[0] == f"test: {state} is damaged; the training starts again"
    assert all(torch.equal(value, redone.state_dict()[name]) for name, value in whole.state_dict().items())


def test_a_diverging_loss_is_an_error_that_names_the_rate(tmp_path: Path) -> None:
    plan = training(tmp_path, Rings(), lr=1e30)
    with pytest.raises(ConfigError, match=r"epoch 1; lower lr \(1e\+30\)"):
        fit(network(), plan, QUIET)


def test_norms_and_biases_are_not_decayed() -> None:
    decayed, free = build_optimizer(network(), TrainingConfig(weight_decay=0.1)).param_groups
    assert {p.ndim for p in decayed["params"]} == {2}
    assert decayed["weight_decay"] == 0.1
    assert {p.ndim for p in free["params"]} == {1}
    assert free["weight_decay"] == 0


@pytest.mark.parametrize("schedule", ["onecycle", "cosine"])
def test_schedules_rise_to_the_peak_and_fall_to_nothing(schedule: str) -> None:
    plan = TrainingConfig(epochs=10, lr=0.4, schedule=schedule)
    optimizer = build_optimizer(network(), plan)
    scheduler = build_schedule(optimizer, plan, 20)
    rates = []
    for _ in range(200):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert max(rates) == pytest.approx(0.4, rel=0.01)
    assert rates[0] < 0.1
    assert rates[-1] < 0.001


@pytest.mark.parametrize("schedule", ["onecycle", "cosine"])
@pytest.mark.parametrize("steps", range(1, 9))
def test_schedules_of_a_few_steps_rise_and_fall_too(schedule: str, steps: int) -> None:
    plan = TrainingConfig(epochs=1, lr=0.4, schedule=schedule)
    optimizer = build_optimizer(network(), plan)
    scheduler = build_schedule(optimizer, plan, steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert all(0 < rate <= 0.4 for rate in rates)
    assert optimizer.param_groups[0]["lr"] <= max(rates) or steps == 1


def test_precision_as_asked() -> None:
    assert uses_bf16("bf16", torch.device("cpu"))
    assert not uses_bf16("fp32", torch.device("cpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_precision_is_that_of_the_device_and_not_of_another_one() -> None:
    supported = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert uses_bf16("auto", torch.device("cpu")) == supported
    assert not uses_bf16("auto", torch.device("cuda"))
