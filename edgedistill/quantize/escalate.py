"""Quantization attempts, in order: post-training int8, sensitive layers in float, fine-tuning, and both."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import nn

from edgedistill.data.sources import Array
from edgedistill.data.views import Views, plain_views
from edgedistill.distill.predictors import Scorer, predict_all, scorer_of, torch_predictor
from edgedistill.quantize import payoff
from edgedistill.quantize.calibration import calibration_batches, example_input
from edgedistill.quantize.capture import capture
from edgedistill.quantize.drops import Judge
from edgedistill.quantize.layer_timing import time_layers
from edgedistill.quantize.payoff import SpeedKept
from edgedistill.quantize.prepare import Prepared, calibrate, prepare
from edgedistill.quantize.qat import finetune
from edgedistill.quantize.ranking import by_time, by_weight, layer_counts
from edgedistill.quantize.sensitivity import Outputs, int8_layers, layer_sensitivity
from edgedistill.quantize.settings import Int8Target, QuantizeSettings
from edgedistill.quantize.timers import KEPT, StudentForm, StudentTimer, Timers
from edgedistill.records.base import Ranges
from edgedistill.records.quantize_steps import Int8Speed, LayerSensitivity, QuantizeMethod, QuantizeStep
from edgedistill.records.training import Epoch
from edgedistill.runtime import processes
from edgedistill.stages.stage import Workspace
from edgedistill.tasks.chance import find_problem

SAMPLES = 1000
"""The number of validation samples that measure the sensitivity of each layer."""
REQUESTS = 8
"""The number of validation samples that the students' speed is measured with."""
GAIN_KEPT = 0.5
"""The least fraction of int8's gain that a mixed model keeps; below it, fine-tuning comes next."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """The record of a quantization step, the model that the step produced, and whether its outputs are of use at all."""

    step: QuantizeStep
    model: Prepared
    useful: bool = True

    @property
    def gains(self) -> bool:
        """Whether a mixed model keeps enough of int8's gain: in speed, or in size where speed is not known or cannot tell."""
        step, (low, high) = self.step, self.step.speed_kept_ci95 or (0.0, 0.0)
        undecided = step.speed_kept is None or low < GAIN_KEPT <= high
        kept = step.size_kept if undecided else step.speed_kept
        return kept is None or kept >= GAIN_KEPT

    @property
    def suffices(self) -> bool:
        """Whether "auto" stops here: the drop is accepted, and enough of int8's gain is left."""
        return self.step.holds and self.gains


class Escalation:
    """The quantization attempts for one float student; `speeds`, `sensitivity` and `seconds` are what "auto" had to measure.

    `does_not_pay` is whether "auto" stopped because int8 is slower than float on every target.
    """

    def __init__(self, settings: QuantizeSettings, workspace: Workspace, student: nn.Module, timers: Timers) -> None:
        self.settings, self.workspace, self.student, self._timers = settings, workspace, student, timers
        self._ranges: Ranges = settings.quantize.first_ranges
        self.speeds: tuple[Int8Speed, ...] = ()
        self.does_not_pay = False
        self.sensitivity: tuple[LayerSensitivity, ...] = ()
        self.seconds: dict[str, float] = {}

    def attempts(self) -> Iterator[Attempt]:
        """Yield the attempts of the configured mode; "auto" stops at the first that suffices, or if int8 does not pay."""
        mode, skip = self.settings.quantize.mode, self.settings.quantize.skip
        first = self._post_training("ptq", skip)
        yield first
        if self.settings.quantize.ranges == "auto" and not first.step.holds:
            self._ranges = "minmax"
            second = self._post_training("ptq", skip)
            yield second
            first = max(first, second, key=lambda attempt: attempt.step.val_accuracy)
            self._ranges = first.step.ranges
        if mode == "ptq" or (mode == "auto" and (first.suffices or self._stops(first))):
            return
        sensitive = skip
        if mode == "auto" and not self._needs_int8():
            for mixed in self._mixed(first.model):
                yield mixed
                if mixed.suffices:
                    return
                if mixed.gains:
                    sensitive = mixed.step.float_layers
        tuned = self._fine_tuned("qat", first.model, skip)
        yield tuned
        if sensitive != skip and not tuned.suffices:
            yield self._fine_tuned("mixed-qat", self._prepared(sensitive), sensitive)

    @cached_property
    def float_accuracy(self) -> float:
        """The float student's metric on validation data, computed in float32."""
        return processes.broadcast_from_rank0(self._scorer.score_answers(self._judge.floats))

    @cached_property
    def _judge(self) -> Judge:
        floats = self._scorer.answers(torch_predictor(self.student, "fp32"))
        return Judge(self.settings.task, floats, self._validation.split.labels, self.settings.quantize.max_drop)

    @cached_property
    def _validation(self) -> Views:
        split = self.settings.labelled_data(self.workspace).val
        return plain_views(split, self.settings.data, self.settings.views)

    @cached_property
    def _training(self) -> Views:
        return plain_views(self.settings.dataset().train, self.settings.data, self.settings.views)

    @cached_property
    def _scorer(self) -> Scorer:
        return scorer_of(self.settings, self._validation.split)

    @cached_property
    def _timer(self) -> StudentTimer:
        rows = np.arange(min(REQUESTS, len(self._validation.split)))
        batch = self._validation.batch(rows, rows * 0)
        return self._timers({name: value.numpy()[:, None] for name, value in batch.items()}, self.workspace)

    def _forms(self, int8: Prepared) -> tuple[StudentForm, StudentForm]:
        """Return the float student and the post-training int8 model."""
        return StudentForm("float", self.student, int8=False), StudentForm("int8", int8, int8=True)

    def _stops(self, first: Attempt) -> bool:
        """Measure int8 against float on every target, and return whether "auto" stops because int8 does not pay."""
        start, report = time.monotonic(), self.workspace.report
        found: list[Int8Speed] = []
        kept = self.workspace.root / KEPT
        if kept.exists():
            report.info(
                f"quantize: the latencies that an earlier run measured are used, from {kept}; delete the folder to measure again"
            )
        if processes.is_main_process():
            with report.track("int8 against float", len(self.settings.targets)) as advance:
                for target in self.settings.targets:
                    found.append(payoff.int8_speed(self._timer, target, *self._forms(first.model)))
                    report.info(f"quantize: {payoff.describe(found[-1])}")
                    advance(1, target.name)
        self.speeds = processes.broadcast_from_rank0(tuple(found))
        self._note_seconds("speed", start)
        if not payoff.does_not_pay(self.speeds):
            return False
        if not first.useful:  # as the result, it would end the run
            report.info(
                "quantize: int8 is slower than float on every target; auto tries its other methods all the same, because the "
                "answers of this int8 student are constant or no better than chance"
            )
        self.does_not_pay = first.useful
        return self.does_not_pay

    def _needs_int8(self) -> bool:
        """Return whether a target takes int8 only, as an accelerator without float does: then no layer may stay in float."""
        needing = [target.name for target in self.settings.targets if target.float_precision is None]
        if needing:
            self.workspace.report.info(
                f"quantize: {', '.join(needing)} takes int8 only (its precisions list no float), so auto leaves no layer in "
                "float, and fine-tunes the student"
            )
        return bool(needing)

    def _note_seconds(self, work: str, start: float) -> None:
        self.seconds[work] = round(time.monotonic() - start, 3)

    @property
    def _reference(self) -> Int8Target | None:
        """The first target on which int8 is faster than float."""
        faster = [one.target for one in self.speeds if one.verdict == "faster"]
        return next((target for target in self.settings.targets if target.name in faster), None)

    def _ranked(self, prepared: Prepared) -> tuple[LayerSensitivity, ...]:
        """Return the int8 layers in the order in which they go to float."""
        start = time.monotonic()
        whole = self._validation
        some = Views(whole.split.first(SAMPLES), whole.preprocess, whole.ops, whole.seed)
        scorer = scorer_of(self.settings, some.split)

        def outputs(model: nn.Module) -> Outputs:
            return predict_all(torch_predictor(model, "fp32"), some)

        def score(answers: Outputs) -> float:
            return scorer.score_answers(scorer.answers_in(answers))

        layers = []
        with self.workspace.report.track("errors of layers", len(int8_layers(prepared))) as advance:
            for one in layer_sensitivity(prepared, outputs(self.student), outputs, score):
                layers.append(one)
                advance(1, one.layer)
        if self._reference is None:
            found = by_weight(layers)
        else:
            timed = self._timed(layers, self._reference) if processes.is_main_process() else layers
            found = list(by_time(processes.broadcast_from_rank0(timed)))
        self._note_seconds("ranking", start)
        self.workspace.report.info(f"quantize: {len(found)} layers ranked in {self.seconds['ranking']:.1f} s")
        return tuple(found)

    def _timed(self, layers: list[LayerSensitivity], target: Int8Target) -> list[LayerSensitivity]:
        graph, timed = capture(self.student, example_input(self._training)), []
        scheme = self.settings.quantize.scheme
        with self.workspace.report.track("speed of layers", len(layers)) as advance:
            for one in time_layers(graph, layers, target, scheme, lambda inputs: self._timers(inputs, self.workspace)):
                timed.append(one)
                advance(1, one.layer)
        return timed

    def _post_training(self, method: QuantizeMethod, skip: tuple[str, ...]) -> Attempt:
        start = time.monotonic()
        return self._attempt(method, self._prepared(skip), skip, start, ())

    def _mixed(self, int8: Prepared) -> Iterator[Attempt]:
        """Yield attempts with more and more sensitive layers in float, down to GAIN_KEPT of int8's gain."""
        self.sensitivity, skip = self._ranked(int8), self.settings.quantize.skip
        weights = sum(one.weights or 0 for one in self.sensitivity)
        for count in layer_counts(len(self.sensitivity)):
            start = time.monotonic()
            attempt = self._post_training("mixed", (*skip, *(one.layer for one in self.sensitivity[:count])))
            kept = self._speed_kept(int8, attempt.model, f"mixed-{count}")
            known = (
                {"reasons": {"speed_kept": kept}}
                if isinstance(kept, str)
                else {"speed_kept": kept.value, "speed_kept_ci95": kept.ci95}
            )
            size_kept = sum(one.weights or 0 for one in self.sensitivity[count:]) / weights
            seconds = round(time.monotonic() - start, 3)
            update = {**known, "size_kept": size_kept, "seconds": seconds}
            attempt = Attempt(attempt.step.model_copy(update=update), attempt.model)
            yield attempt
            if not attempt.gains:
                return

    def _speed_kept(self, int8: Prepared, mixed: Prepared, name: str) -> SpeedKept | str:
        """Return the fraction of int8's time saving that a mixed model keeps, or why it is not known."""
        target = self._reference
        if target is None:
            return "not measured: int8 is faster than float on no target"
        found: SpeedKept | str = ""
        if processes.is_main_process():
            found = payoff.speed_kept(self._timer, target, self._forms(int8), StudentForm(name, mixed, int8=True))
        found = processes.broadcast_from_rank0(found)
        shown = (
            found if isinstance(found, str) else f"keeps {found.value:.0%} of the time that int8 saves on {target.name}"
        )
        self.workspace.report.info(f"quantize: mixed: {shown}")
        return found

    def _fine_tuned(self, method: QuantizeMethod, prepared: Prepared, skip: tuple[str, ...]) -> Attempt:
        start = time.monotonic()
        model = copy.deepcopy(prepared)
        history = finetune(self.settings, self.workspace, (self.student, model), method, self._scorer)
        return self._attempt(method, model, skip, start, history)

    def _prepared(self, skip: tuple[str, ...]) -> Prepared:
        quantize = self.settings.quantize
        prepared = prepare(self.student, example_input(self._training), skip, quantize.scheme)
        batches = calibration_batches(self._training, quantize.samples, self.settings.seed)
        calibrate(prepared, batches, self._ranges)
        return prepared

    def _attempt(
        self, method: QuantizeMethod, model: Prepared, skip: tuple[str, ...], start: float, history: tuple[Epoch, ...]
    ) -> Attempt:
        answers: Array = self._scorer.answers(torch_predictor(model, "fp32"))
        accuracy = self._scorer.score_answers(answers)
        accuracy, drop = processes.broadcast_from_rank0((accuracy, self._judge.drop_of(answers)))
        layers, seconds = f", {len(skip)} layers in float" if skip else "", time.monotonic() - start
        ranges = ", minmax ranges" if self._ranges == "minmax" else ""
        self.workspace.report.info(
            f"quantize: {method}{ranges}{layers}: validation {self.settings.task.metric_title} {accuracy:.2%}, float "
            f"{self.float_accuracy:.2%}, {drop.describe(self.settings.quantize.max_drop)} [{seconds:.1f} s]"
        )
        step = QuantizeStep(
            method=method, ranges=self._ranges, float_layers=skip, val_accuracy=accuracy, drop=drop.points, drop_ci95=drop.interval,
            samples=drop.samples, verdict=drop.verdict, samples_needed=drop.needed, holds=self._judge.accepts(drop),
            seconds=round(seconds, 3), history=history,
        )  # fmt: skip
        useful = find_problem(self.settings.task, answers, self._validation.split.labels) is None
        return Attempt(step, model, useful)


def choose(attempts: list[Attempt], mode: str) -> Attempt:
    """Return the chosen attempt: in the mode "qat" the last one, else the last whose drop is accepted, or the most accurate."""
    accepted = [attempt for attempt in attempts if attempt.step.holds]
    if mode == "qat":
        return attempts[-1]
    if accepted:
        return accepted[-1]
    return max(attempts, key=lambda attempt: attempt.step.val_accuracy)
