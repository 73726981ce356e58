"""Quantization attempts, in order: post-training int8, sensitive layers in float, fine-tuning, and both."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from torch import fx, nn

from edgedistill.data.views import Views, plain_views
from edgedistill.distill.predictors import Scorer, predict_all, torch_predictor
from edgedistill.models.outputs import main_name
from edgedistill.quantize.calibration import calibration_batches, example_input
from edgedistill.quantize.capture import capture
from edgedistill.quantize.prepare import Prepared, calibrate, prepare
from edgedistill.quantize.qat import finetune
from edgedistill.quantize.sensitivity import Outputs, layer_sensitivity
from edgedistill.quantize.settings import LayerTiming, QuantizeSettings
from edgedistill.records.base import Activations
from edgedistill.records.stages import Epoch, LayerSensitivity, QuantizeMethod, QuantizeStep
from edgedistill.runtime import processes
from edgedistill.stages.stage import Workspace

LayerTimer = Callable[[fx.GraphModule, list[LayerSensitivity], LayerTiming, Activations], Iterator[LayerSensitivity]]
"""Yields the layers of a captured model with each layer's own latency, in float and in int8."""
SAMPLES = 1000
"""The number of validation samples that measure the sensitivity of each layer."""
SPEED_KEPT = 0.5
"""The least fraction of int8's time saving that a mixed model keeps; below it, fine-tuning comes first."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """The record of a quantization step, and the model that the step produced."""

    step: QuantizeStep
    model: Prepared


@dataclass(frozen=True)
class Escalation:
    """The quantization attempts for one float student, computed lazily."""

    settings: QuantizeSettings
    workspace: Workspace
    student: nn.Module
    time_layers: LayerTimer

    def attempts(self) -> Iterator[Attempt]:
        """Yield the attempts of the configured mode; with "auto", the caller stops at the first within max_drop."""
        mode, skip = self.settings.quantize.mode, self.settings.quantize.skip
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

    @cached_property
    def _validation(self) -> Views:
        split = self.settings.labelled_data(self.workspace).val
        return plain_views(split, self.settings.data, self.settings.views)

    @cached_property
    def _training(self) -> Views:
        return plain_views(self.settings.dataset().train, self.settings.data, self.settings.views)

    def _scorer(self, views: Views) -> Scorer:
        return Scorer(self.settings.task, views, self.settings.data.output)

    def sensitivity(self, prepared: Prepared) -> list[LayerSensitivity]:
        """Return the error and the time saving of each int8 layer, the largest error per microsecond saved first."""
        if "layers" not in self._measured:
            whole = self._validation
            some = Views(whole.split.first(SAMPLES), whole.preprocess, whole.ops, whole.seed)
            scorer = self._scorer(some)

            def outputs(model: nn.Module) -> Outputs:
                return predict_all(torch_predictor(model, "fp32"), some)

            def score(answers: Outputs) -> float:
                return scorer.score_outputs(answers[main_name(tuple(answers), scorer.output)])

            layers = layer_sensitivity(prepared, outputs(self.student), outputs, score)
            self._measured["layers"] = processes.broadcast_from_rank0(
                self._timed(layers) if processes.is_main_process() else layers
            )
        return self._measured["layers"]

    @cached_property
    def _measured(self) -> dict[str, list[LayerSensitivity]]:
        return {}

    def measured_sensitivity(self) -> tuple[LayerSensitivity, ...]:
        """Return the layers' sensitivity, or an empty tuple if no attempt measured it."""
        return tuple(self._measured.get("layers", ()))

    def _timed(self, layers: list[LayerSensitivity]) -> list[LayerSensitivity]:
        timing = self.settings.timing
        assert timing is not None
        graph, timed = capture(self.student, example_input(self._training)), []
        with self.workspace.report.track("layers", len(layers)) as advance:
            for one in self.time_layers(graph, layers, timing, self.settings.quantize.activations):
                timed.append(one)
                advance(1, one.layer)
        return sorted(timed, key=_error_per_us, reverse=True)

    def _post_training(self, method: QuantizeMethod, skip: tuple[str, ...]) -> Attempt:
        start = time.monotonic()
        return self._attempt(method, self._prepared(skip), skip, start, ())

    def _mixed(self, prepared: Prepared) -> Iterator[Attempt]:
        """Yield attempts with more and more sensitive layers in float, down to SPEED_KEPT of int8's time saving."""
        layers, skip = self.sensitivity(prepared), self.settings.quantize.skip
        total = sum(max(0.0, one.saved_us or 0.0) for one in layers)
        for count in layer_counts(len(layers)):
            lost = sum(max(0.0, one.saved_us or 0.0) for one in layers[:count])
            kept = 1.0 - lost / total if total else None
            if kept is not None and kept < SPEED_KEPT:
                return
            attempt = self._post_training("mixed", (*skip, *(one.layer for one in layers[:count])))
            yield Attempt(attempt.step.model_copy(update={"speed_kept": kept}), attempt.model)

    def _fine_tuned(self, method: QuantizeMethod, prepared: Prepared, skip: tuple[str, ...]) -> Attempt:
        start = time.monotonic()
        model = copy.deepcopy(prepared)
        scorer = self._scorer(self._validation)
        history = finetune(self.settings, self.workspace, (self.student, model), method, scorer)
        return self._attempt(method, model, skip, start, history)

    def _prepared(self, skip: tuple[str, ...]) -> Prepared:
        quantize = self.settings.quantize
        prepared = prepare(self.student, example_input(self._training), skip, quantize.activations)
        batches = calibration_batches(self._training, quantize.samples, self.settings.seed)
        calibrate(prepared, batches, quantize.ranges)
        return prepared

    def _attempt(
        self, method: QuantizeMethod, model: Prepared, skip: tuple[str, ...], start: float, history: tuple[Epoch, ...]
    ) -> Attempt:
        accuracy, limit = self._score(model), self.settings.quantize.max_drop
        drop = 100 * (self.float_accuracy - accuracy)
        shown = f"validation {self.settings.task.metric_title} {accuracy:.2%}, float {self.float_accuracy:.2%}"
        layers = f", {len(skip)} layers in float" if skip else ""
        self.workspace.report.info(f"quantize: {method}{layers}: {shown}, drop {drop:+.2f} points, max_drop {limit:g}")
        step = QuantizeStep(
            method=method, float_layers=skip, val_accuracy=accuracy, drop=drop, holds=drop <= limit,
            seconds=round(time.monotonic() - start, 3), history=history,
        )  # fmt: skip
        return Attempt(step, model)

    def _score(self, model: nn.Module) -> float:
        score = self._scorer(self._validation).score(torch_predictor(model, "fp32"))
        return processes.broadcast_from_rank0(score)


def choose(attempts: list[Attempt], mode: str) -> Attempt:
    """Return the chosen attempt: the last one; with "auto", the most accurate if the last one exceeds max_drop."""
    if mode != "auto" or attempts[-1].step.holds:
        return attempts[-1]
    return max(attempts, key=lambda attempt: attempt.step.val_accuracy)


def layer_counts(layers: int) -> Iterator[int]:
    """Yield 1, 2, 3, 4, 6, 8, 12, 16, 24, ... below the number of layers."""
    count = 1
    while count < layers:
        yield count
        # The next number of the form 2^k or 1.5 * 2^k: each step adds between a third and a half.
        count = count + 1 if count < 4 else (count * 3 // 2 if count & (count - 1) == 0 else count * 4 // 3)


def _error_per_us(one: LayerSensitivity) -> float:
    """Return a layer's error per microsecond saved; infinite if int8 saves none, the error itself without timings."""
    if one.saved_us is None:
        return one.output_error
    return one.output_error / one.saved_us if one.saved_us > 0 else float("inf")
