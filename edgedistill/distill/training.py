"""The training loop for teachers, students and controls."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from edgedistill.config.training import TrainingConfig
from edgedistill.distill.bfloat16 import autocast
from edgedistill.distill.fine_tuning import FineTuning
from edgedistill.distill.tracking import TrackingFolder, log_epoch, tracked
from edgedistill.errors import ConfigError
from edgedistill.losses.batch import Batch, Loss, Tensors
from edgedistill.models.outputs import as_float, call
from edgedistill.records.training import Epoch
from edgedistill.runtime import processes
from edgedistill.runtime.files import read_sealed, write_sealed
from edgedistill.runtime.progress import Advance, Reporter, in_words


class TeacherLogits(NamedTuple):
    """A teacher's logits (B, D) or, with `classes` (B, K), the K + 1 logits of `Batch.teacher_classes`, and its other outputs."""

    logits: Tensor
    classes: Tensor | None = None
    others: Tensors | None = None


class Feed(Protocol):
    """The batches of each epoch, which only depend on the number of the epoch."""

    def __len__(self) -> int:
        """Count the batches of an epoch."""

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of an epoch; `number` counts from 0."""


MANY_EPOCHS = 1_000_000
Validate = Callable[[nn.Module], float]
Weights = tuple[Tensor, ...] | list[Tensor]


@dataclass(frozen=True, slots=True)
class Resume:
    """The file for the state of a training after each epoch, and the key that must match to resume from it."""

    path: Path
    key: str


@dataclass(frozen=True, slots=True)
class Training:
    """The arguments of a training besides the model; `validate` returns the metric of a model (1 is perfect).

    `tuning` is None if all weights learn alike.
    """

    label: str
    plan: TrainingConfig
    feed: Feed
    loss: Loss
    validate: Validate
    resume: Resume
    seed: int
    metric: str = "accuracy"
    tracking: TrackingFolder | None = None
    tuning: FineTuning | None = None


def fit(model: nn.Module, training: Training, report: Reporter) -> tuple[Epoch, ...]:
    """Train `model` in place and load the weights of the epoch with the best validation metric.

    With `plan.ema`, the moving average of the weights is validated and kept; its decay warms up. State is written to `resume.path` after each
    epoch; a training with the same key resumes from it and ends with the same weights, bit for bit, as without an
    interruption. Raises ConfigError if the loss is not finite.
    """
    tuning = training.tuning
    thaws = tuning is not None and tuning.thaws
    try:
        with tracked(training.tracking, training.label, training.plan, varies=thaws) as accelerator:
            return _fit(model, training, report, accelerator)
    finally:
        if tuning is not None:
            tuning.release()


def _fit(model: nn.Module, training: Training, report: Reporter, accelerator: Any) -> tuple[Epoch, ...]:
    plan, label = training.plan, training.label
    state = _begin(model, training, accelerator)
    history, best = state.load(training, report)
    todo = range(len(history), plan.epochs)
    with report.track(label, len(todo) * len(training.feed)) as advance:
        for number in todo:
            epoch = _run_epoch(state, training, number, accelerator, advance)
            history += (epoch,)
            log_epoch(accelerator, epoch)
            if best is None or epoch.val_accuracy >= best[0]:
                best = (epoch.val_accuracy, copy.deepcopy(state.kept.state_dict()))
            if processes.is_main_process():
                state.save(training.resume, history, best)
            summary = f"loss {epoch.loss:.4f}, validation {training.metric} {epoch.val_accuracy:.2%}"
            report.log_step(f"{label}: epoch {number + 1} of {plan.epochs}, {summary}{_left(history, plan.epochs)}")
            advance(0, f"epoch {number + 1}, {summary}")
    report.info(f"{label}: {plan.epochs} epochs, best validation {training.metric} {best[0]:.2%}")
    model.load_state_dict(best[1])
    model.eval()
    return history


def _left(history: Sequence[Epoch], epochs: int) -> str:
    """Say how long the other epochs will take, by the last of them, which are of this process."""
    recent = [epoch.seconds for epoch in history[-3:]]
    seconds = (epochs - len(history)) * sum(recent) / len(recent)
    return f", about {in_words(seconds)} left" if seconds >= 1 else ""


def _begin(model: nn.Module, training: Training, accelerator: Any) -> _State:
    """Return the state of a training before its first epoch."""
    plan = training.plan
    optimizer = build_optimizer(model, plan, training.tuning)
    if training.tuning is not None and not training.tuning.thaws:
        training.tuning.apply(0)  # before the processes agree on which weights they share the gradients of
    scheduler = build_schedule(optimizer, plan, len(training.feed))
    wrapped, prepared_optimizer = accelerator.prepare(model, optimizer)
    ema = AveragedModel(model, multi_avg_fn=warmed_average(plan.ema), use_buffers=True) if plan.ema else None
    return _State(wrapped, model, prepared_optimizer.optimizer, scheduler, ema)


def time_epoch(model: nn.Module, training: Training) -> Callable[[Feed], float]:
    """Return a function that trains `model` in place on all batches of a feed, as `fit` does, and returns the seconds."""
    from accelerate import Accelerator

    accelerator = Accelerator()
    endless = training.plan.model_copy(update={"epochs": MANY_EPOCHS})  # a schedule refuses steps after its end
    state = _begin(model, replace(training, plan=endless), accelerator)

    def seconds(feed: Feed) -> float:
        start = time.perf_counter()
        _train_epoch(state, replace(training, feed=feed), 0, accelerator, lambda _, __: None)
        return time.perf_counter() - start

    return seconds


def _run_epoch(state: _State, training: Training, number: int, accelerator: Any, advance: Advance) -> Epoch:
    """Train one epoch and validate its weights."""
    start = time.monotonic()
    loss = _train_epoch(state, training, number, accelerator, advance)
    if not math.isfinite(loss):
        rate = training.plan.peak_lr
        raise ConfigError(f"{training.label}: the loss is {loss} in epoch {number + 1}; lower lr ({rate})")
    accuracy = processes.broadcast_from_rank0(training.validate(state.kept) if processes.is_main_process() else 0.0)
    rate, seconds = float(state.scheduler.get_last_lr()[0]), time.monotonic() - start
    return Epoch(epoch=number + 1, loss=loss, lr=rate, val_accuracy=accuracy, seconds=seconds)


def _train_epoch(state: _State, training: Training, number: int, accelerator: Any, advance: Advance) -> float:
    # Dropout only depends on the epoch and the process.
    torch.manual_seed((training.seed + number * 0x9E3779B9 + processes.rank() * 0x85EBCA6B) % 2**63)
    state.wrapped.train()
    if training.tuning is not None:
        training.tuning.apply(number)
    total = torch.zeros((), dtype=torch.float64)
    count = 0
    for batch in training.feed.epoch(number):
        total += _backward(state, training, batch, accelerator)
        state.optimizer.step()
        state.scheduler.step()
        state.optimizer.zero_grad(set_to_none=True)
        if state.average is not None:
            state.average.update_parameters(state.model)
        count += 1
        advance(1, "")
    mean: Tensor = accelerator.reduce(total.to(accelerator.device) / max(count, 1), "mean")
    return float(mean)


def _backward(state: _State, training: Training, batch: Batch, accelerator: Any) -> Tensor:
    """Accumulate the gradients of a batch in `plan.accumulate` parts, and return its loss."""
    device = accelerator.device
    parts = _parts(batch, training.plan.accumulate)
    total = torch.zeros((), dtype=torch.float64)
    for place, part in enumerate(parts):
        moved = part.map(lambda tensor: tensor.to(device, non_blocking=True))
        last = place == len(parts) - 1
        with nullcontext() if last else accelerator.no_sync(state.wrapped):
            with autocast(device, training.plan.precision):
                answer = call(state.wrapped, moved.inputs)
            value = training.loss(as_float(answer), moved) * (len(part.labels) / len(batch.labels))
            accelerator.backward(value)
        total += value.detach().cpu()
    return total


def _parts(batch: Batch, count: int) -> list[Batch]:
    if count == 1:
        return [batch]
    number = len(batch.labels.chunk(count))
    return [batch.map(lambda tensor, place=place: tensor.chunk(count)[place]) for place in range(number)]  # type: ignore[misc]  # a default binds the place


def ema_decay(ema: float, number: int) -> float:
    """Return the decay of the moving average at update `number`, which counts from 0.

    The decay rises to `ema`, as in TensorFlow's ExponentialMovingAverage: an average of few updates forgets the untrained
    weights.
    """
    return min(ema, (1 + number) / (10 + number))


def warmed_average(ema: float) -> Callable[[Weights, Weights, Tensor | int], None]:
    """Return the update of a moving average for AveragedModel, which counts the updates and copies the weights of the first."""

    def update(averages: Weights, weights: Weights, number: Tensor | int) -> None:
        get_ema_multi_avg_fn(ema_decay(ema, int(number)))(averages, weights, number)  # type: ignore[no-untyped-call]  # torch's

    return update


def build_optimizer(model: nn.Module, plan: TrainingConfig, tuning: FineTuning | None = None) -> torch.optim.Optimizer:
    """Build SGD with Nesterov momentum or AdamW, without weight decay for norms and biases (He et al. 2019, "Bag of Tricks").

    AdamW changes every parameter by about its learning rate, independent of its size. The learning rate of a scalar, such as
    the scale of a quantizer, is therefore relative to its size.
    """
    slow, scale = (frozenset[int](), 1.0) if tuning is None else (tuning.slow, tuning.scale)
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = _groups([p for p in trainable if id(p) not in slow], plan, 1.0)
    groups += _groups([p for p in trainable if id(p) in slow], plan, scale) if slow else []
    if plan.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=plan.peak_lr)
    return torch.optim.SGD(groups, lr=plan.peak_lr, momentum=0.9, nesterov=True)


def _groups(parameters: list[nn.Parameter], plan: TrainingConfig, scale: float) -> list[dict[str, Any]]:
    """Return groups of parameters with their weight decay, at `scale` times the learning rate of the plan."""
    rate = plan.peak_lr * scale
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": plan.weight_decay, "lr": rate},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0, "lr": rate},
    ]
    scalars = [p for p in parameters if p.ndim == 0]
    if plan.optimizer == "adamw":
        sizes = [abs(float(p.detach())) for p in scalars]
        return groups + [
            {"params": [p], "weight_decay": 0.0, "lr": rate * size or rate}
            for p, size in zip(scalars, sizes, strict=True)
        ]
    return groups + ([{"params": scalars, "weight_decay": 0.0, "lr": rate}] if scalars else [])


def build_schedule(optimizer: torch.optim.Optimizer, plan: TrainingConfig, steps_per_epoch: int) -> LRScheduler:
    """Build the learning rate schedule: one-cycle (Smith 2018), or cosine decay after a warm-up of 5 %."""
    total = plan.epochs * steps_per_epoch
    if plan.schedule == "onecycle":
        peaks = [group["lr"] for group in optimizer.param_groups]
        rise = max(0.25, 2 / (total + 1))  # at least a step: torch divides by the steps of the rise
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, peaks, total_steps=total + 1, pct_start=rise, cycle_momentum=False
        )
    warmup = max(1, total // 20)
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            (step + 1) / warmup
            if step < warmup
            else 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
        ),
    )


@dataclass(frozen=True, slots=True)
class _State:
    """The mutable state of a training; `wrapped` is the model prepared by accelerate, which synchronises processes."""

    wrapped: nn.Module
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler
    average: AveragedModel | None

    @property
    def kept(self) -> nn.Module:
        """The model with the weights to validate and keep: their moving average if there is one."""
        return self.model if self.average is None else self.average.module

    def save(self, resume: Resume, history: tuple[Epoch, ...], best: Any) -> None:
        content = {
            "key": resume.key,
            "parts": [part.state_dict() if part is not None else None for part in self._parts()],
            "history": [epoch.model_dump() for epoch in history],
            "best": best,
        }
        write_sealed(resume.path, lambda file: torch.save(content, file))

    def load(self, training: Training, report: Reporter) -> tuple[tuple[Epoch, ...], Any]:
        resume = training.resume
        if not resume.path.exists():
            return (), None
        sealed = read_sealed(resume.path)
        if sealed is None:  # the first epoch replaces the file
            report.info(f"{training.label}: {resume.path} is damaged; the training starts again")
            return (), None
        content = torch.load(sealed, map_location="cpu", weights_only=True)  # each part moves it to its own device
        if content["key"] != resume.key:  # written by another configuration
            return (), None
        for part, state in zip(self._parts(), content["parts"], strict=True):
            if part is not None:
                part.load_state_dict(state)
        return tuple(Epoch.model_validate(epoch) for epoch in content["history"]), content["best"]

    def _parts(self) -> tuple[Any, ...]:
        return self.model, self.optimizer, self.scheduler, self.average
