"""From post-training int8 towards float: sensitive layers left out, fine-tuning, both; each try with its figures."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import nn

from edgedistill.data.dataset import Split
from edgedistill.data.sources import Array
from edgedistill.data.views import plain_views
from edgedistill.deploy.onnx_file import BenchOptions
from edgedistill.distill.predictors import predict_split, torch_predictor
from edgedistill.quantize.calibration import calibration_batches, example_inputs
from edgedistill.quantize.capture import capture
from edgedistill.quantize.layer_timing import time_layers
from edgedistill.quantize.prepare import Prepared, calibrate, prepare
from edgedistill.quantize.qat import finetune
from edgedistill.quantize.sensitivity import layer_sensitivity
from edgedistill.records.stages import Epoch, LayerSensitivity, QuantizeMethod, QuantizeStep
from edgedistill.runtime import processes
from edgedistill.runtime.job import Job
from edgedistill.tasks.tasks import TASKS

SAMPLES = 1000
"""Validation samples on which each layer is tried alone."""
SPEED_KEPT = 0.5
"""A mixed model that keeps less of what int8 wins is not worth having before fine-tuning was tried."""


@dataclass(frozen=True, slots=True)
class Try:
    """A step and the model that it ended with."""

    step: QuantizeStep
    model: Prepared


@dataclass(frozen=True)
class Escalation:
    """The tries for one float student, made when they are asked for."""

    job: Job
    student: nn.Module

    def tries(self) -> Iterator[Try]:
        """Yield what the mode names, one after the other; "auto" is asked for the next while none holds."""
        mode, skip = self.job.config.quantize.mode, self.job.config.quantize.skip
        first = self._post_training("ptq", skip)
        yield first
        if mode == "ptq":
            return
        sensitive = skip
        if mode == "auto":
            for mixed in self._mixed(first.model):
                sensitive = mixed.step.float_layers
                yield mixed
        yield self._fine_tuned("qat", first.model, skip)
        if sensitive != skip:
            yield self._fine_tuned("mixed-qat", self._prepared(sensitive), sensitive)

    @cached_property
    def float_accuracy(self) -> float:
        """The float student's metric on validation data, computed in float32."""
        return self._score(self.student)

    def sensitivity(self, prepared: Prepared) -> list[LayerSensitivity]:
        """Return what each int8 layer costs and wins, most error per microsecond won first."""
        if "layers" not in self._found:
            val = self.job.dataset.val
            some = Split(val.inputs, val.rows[:SAMPLES], val.labels[:SAMPLES])
            found = layer_sensitivity(
                prepared, self._outputs(self.student, some), lambda model: self._outputs(model, some),
                lambda outputs: TASKS[self.job.data.task].score(outputs, some.labels),
            )  # fmt: skip
            self._found["layers"] = processes.as_the_first_says(self._timed(found) if processes.is_first() else found)
        return self._found["layers"]

    @cached_property
    def _found(self) -> dict[str, list[LayerSensitivity]]:
        return {}

    def measured_sensitivity(self) -> tuple[LayerSensitivity, ...]:
        """Return the layers' sensitivity where a try asked for it."""
        return tuple(self._found.get("layers", ()))

    def _timed(self, found: list[LayerSensitivity]) -> list[LayerSensitivity]:
        target = next(target for target in self.job.config.target if "int8" in target.precisions)
        kit, graph = self.job.kits[target.kit], capture(self.student, example_inputs(self.job))
        options = BenchOptions(device=target.device, threads=target.threads, processes=1, seconds=0.3, passes=())
        timed = []
        with self.job.report.track("layers", len(found)) as advance:
            for one in time_layers(graph, found, kit, self.job.config.quantize.activations, options):
                timed.append(one)
                advance(1, one.layer)
        return sorted(timed, key=_error_per_us, reverse=True)

    def _post_training(self, method: QuantizeMethod, skip: tuple[str, ...]) -> Try:
        start = time.monotonic()
        return self._tried(method, self._prepared(skip), skip, start, ())

    def _mixed(self, prepared: Prepared) -> Iterator[Try]:
        """Yield models with ever more of the sensitive layers in float, as long as half of the speed is left."""
        layers, skip = self.sensitivity(prepared), self.job.config.quantize.skip
        total = sum(max(0.0, one.won_us or 0.0) for one in layers)
        for count in growing(len(layers)):
            lost = sum(max(0.0, one.won_us or 0.0) for one in layers[:count])
            kept = 1.0 - lost / total if total else None
            if kept is not None and kept < SPEED_KEPT:
                return
            tried = self._post_training("mixed", (*skip, *(one.layer for one in layers[:count])))
            yield Try(tried.step.model_copy(update={"speed_kept": kept}), tried.model)

    def _fine_tuned(self, method: QuantizeMethod, prepared: Prepared, skip: tuple[str, ...]) -> Try:
        start = time.monotonic()
        model = copy.deepcopy(prepared)
        history = finetune(self.job, self.student, model, method)
        return self._tried(method, model, skip, start, history)

    def _prepared(self, skip: tuple[str, ...]) -> Prepared:
        quantize = self.job.config.quantize
        prepared = prepare(self.student, example_inputs(self.job), skip, quantize.activations)
        calibrate(prepared, calibration_batches(self.job), quantize.ranges)
        return prepared

    def _tried(
        self, method: QuantizeMethod, model: Prepared, skip: tuple[str, ...], start: float, history: tuple[Epoch, ...]
    ) -> Try:
        accuracy, limit = self._score(model), self.job.config.quantize.max_drop
        drop = 100 * (self.float_accuracy - accuracy)
        shown = f"validation {TASKS[self.job.data.task].shown} {accuracy:.2%}, float {self.float_accuracy:.2%}"
        layers = f", {len(skip)} layers in float" if skip else ""
        self.job.report.line(f"quantize: {method}{layers}: {shown}, drop {drop:+.2f} of at most {limit:g} points")
        step = QuantizeStep(
            method=method, float_layers=skip, val_accuracy=accuracy, drop=drop, holds=drop <= limit,
            seconds=round(time.monotonic() - start, 3), history=history,
        )  # fmt: skip
        return Try(step, model)

    def _score(self, model: nn.Module) -> float:
        val = self.job.dataset.val
        score = TASKS[self.job.data.task].score(self._outputs(model, val), val.labels)
        return processes.as_the_first_says(score)

    def _outputs(self, model: nn.Module, split: Split) -> Array:
        views = plain_views(split, self.job.data, self.job.config)
        return np.asarray(predict_split(torch_predictor(model, "fp32"), views))


def choose(tries: list[Try], mode: str) -> Try:
    """Return the try to ship: what the mode names; with "auto" the one that holds, or else the most accurate."""
    if mode != "auto" or tries[-1].step.holds:
        return tries[-1]
    return max(tries, key=lambda tried: tried.step.val_accuracy)


def growing(layers: int) -> Iterator[int]:
    """Yield 1, 2, 3, 4, 6, 8, 12, 16, 24, ... below the number of layers."""
    count = 1
    while count < layers:
        yield count
        # The next of 2^k and 1.5 * 2^k: each adds between a third and a half.
        count = count + 1 if count < 4 else (count * 3 // 2 if count & (count - 1) == 0 else count * 4 // 3)


def _error_per_us(one: LayerSensitivity) -> float:
    """Return the error that a layer costs for each microsecond that it wins; one that wins nothing goes first."""
    if one.won_us is None:
        return one.output_error
    return one.output_error / one.won_us if one.won_us > 0 else float("inf")
