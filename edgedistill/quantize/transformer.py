"""Quantize a transformer after training, as an ONNX graph: each kit gets the form that was measured to be fastest on its targets.

Scales of activations are static or found in each inference, or only weights are int8. In all forms, outlier channels are moved behind
normalisations, and the tables of embeddings are int8.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import onnx
from torch import nn

from edgedistill.data.dataset import Split
from edgedistill.data.sources import Array
from edgedistill.distill.predictors import Scorer, scorer_of, torch_predictor
from edgedistill.errors import AccuracyError, ConfigError
from edgedistill.graphs.encodings import encode
from edgedistill.graphs.run import run_each, stacked
from edgedistill.kits.scheme import FORMS
from edgedistill.quantize import payoff
from edgedistill.quantize.calibration import calibration_rows
from edgedistill.quantize.drops import Judge
from edgedistill.quantize.onnx_file import quantize_onnx
from edgedistill.quantize.settings import QuantizeSettings
from edgedistill.quantize.smoothing import smoothed
from edgedistill.quantize.timers import Services
from edgedistill.quantize.usefulness import judge_usefulness
from edgedistill.records.base import Encoding
from edgedistill.records.finding import Finding
from edgedistill.records.quantize_steps import Int8Speed, QuantizeMethod, QuantizeStep
from edgedistill.records.stages import QuantizedRecord
from edgedistill.runtime import processes
from edgedistill.runtime.files import write_atomic
from edgedistill.stages.stage import Workspace

SMOOTHED: Final = 32
"""The number of samples that show the largest value of each channel."""
TIMED: Final = 8
"""The number of validation samples that forms are timed with; texts are the shortest, the longest, and others spread between."""


@dataclass(frozen=True, slots=True)
class GraphForm:
    """A form of the int8 graph, its outputs on the validation data, and the step that judges them."""

    method: QuantizeMethod
    step: QuantizeStep
    answers: Array


def is_transformer(student: nn.Module) -> bool:
    """Return whether a module normalises layers, whose outlier channels and dynamic scales need a graph."""
    return any(isinstance(module, nn.LayerNorm) for module in student.modules())


def quantize_transformer(
    settings: QuantizeSettings, workspace: Workspace, student: nn.Module, services: Services
) -> QuantizedRecord:
    """Quantize a student after training in each form, and return the fastest form within `max_drop` for each kit.

    A kit without such a form gets the most accurate one. If int8 alone made the outputs useless, the record does not hold, or AccuracyError
    is raised if the inputs vary in length.
    """
    made = _Transformer(settings, workspace, student, services).record() if processes.is_main_process() else None
    record = processes.broadcast_from_rank0(made)
    assert record is not None
    return record


def judged_graph(int8: onnx.ModelProto, encoding: Encoding | None) -> onnx.ModelProto:
    """Return the form of a canonical int8 graph that is judged on the host: an encoding without static scales, or static scales.

    Static scales are in the encoding that ONNX Runtime has integer kernels for here, if biases fit.
    """
    try:
        return encode(int8, encoding or "u8-i32")
    except ConfigError:
        return int8


class _Transformer:
    """The int8 forms of one student; the student is exported and calibrated once."""

    def __init__(
        self, settings: QuantizeSettings, workspace: Workspace, student: nn.Module, services: Services
    ) -> None:
        self.settings, self.workspace, self.student = settings, workspace, student
        self._timers, self._graph = services.timers, services.graphs(settings, student)
        self._targets = {target.name: target for target in settings.targets}
        self.seconds: dict[str, float] = {}

    def record(self) -> QuantizedRecord:
        """Quantize, judge and time the forms, and write the int8 graph."""
        forms = [self._judged(method) for method in self._methods]
        speeds = self._speeds()
        kits = dict.fromkeys(target.kit.name for target in self.settings.targets)
        chosen = {kit: self._choice(kit, forms, speeds) for kit in kits}
        findings, useful = self._judge_usefulness(list(chosen.values()))
        unpaid = self._unpaid(chosen, speeds) if useful else []
        does_not_pay = len(unpaid) == len(self._targets)
        if unpaid:
            findings += (_warning(unpaid, does_not_pay=does_not_pay),)
            self.workspace.report.info(str(findings[-1]))
        if useful:
            self._conclude(chosen)
        file = self.workspace.folder("quantized") / "model.onnx"
        write_atomic(file, self._int8[0].SerializeToString(deterministic=True))
        worst = min(chosen.values(), key=lambda form: form.step.val_accuracy)
        quantize = self.settings.quantize
        return QuantizedRecord(
            file=self.workspace.describe(file), mode="ptq", val_accuracy=worst.step.val_accuracy,
            float_val_accuracy=self._float_accuracy, calibration_samples=min(quantize.samples, self.settings.data.train),
            layers=self._int8[1], activations=quantize.scheme.activations, weights=quantize.scheme.weights,
            forms={kit: form.method for kit, form in chosen.items()}, skip=quantize.skip, max_drop=quantize.max_drop,
            holds=useful and all(form.step.holds for form in chosen.values()),
            outcome="does not pay" if does_not_pay else worst.step.verdict, speeds=tuple(speeds), seconds=self.seconds,
            steps=tuple(form.step for form in forms), parent=self.settings.float_student.student.file.sha256, findings=findings,
        )  # fmt: skip

    @cached_property
    def _methods(self) -> list[QuantizeMethod]:
        """The forms that a target's kit runs."""
        taken = {encoding for target in self.settings.targets for encoding in target.kit.alternatives}
        return ["static", *(method for method, encoding in FORMS.items() if encoding in taken)]

    @cached_property
    def _val(self) -> Split:
        return self.settings.labelled_data(self.workspace).val

    @cached_property
    def _scorer(self) -> Scorer:
        return scorer_of(self.settings, self._val)

    @cached_property
    def _judge(self) -> Judge:
        floats = self._scorer.answers(torch_predictor(self.student, "fp32"))
        return Judge(self.settings.task, floats, self._val.labels, self.settings.quantize.max_drop)

    @cached_property
    def _float_accuracy(self) -> float:
        return self._scorer.score_answers(self._judge.floats)

    @cached_property
    def _int8(self) -> tuple[onnx.ModelProto, dict[str, str]]:
        """The canonical int8 graph, and the form of each layer."""
        quantize, train = self.settings.quantize, self.settings.dataset().train
        some = train.take(calibration_rows(len(train), quantize.samples, self.settings.seed))
        source, moved = smoothed(self._graph.model, self._graph.requests(some.first(SMOOTHED)))
        self.workspace.report.info(
            f"quantize: outlier channels of {moved} normalisations are moved into the weights behind them"
        )
        with self.workspace.report.track("samples for calibration", len(some)) as advance:
            return quantize_onnx(
                source, self._graph.requests(some), quantize.skip, quantize.first_ranges, quantize.scheme, advance
            )

    def _judged(self, method: QuantizeMethod) -> GraphForm:
        """Run a form on the validation data, and compare it with the float student."""
        int8, start, report = self._int8[0], time.monotonic(), self.workspace.report
        model = judged_graph(int8, FORMS.get(method))
        outputs = []
        with report.track(f"validation samples, {method}", len(self._val)) as advance:
            for one in run_each(model.SerializeToString(), self._graph.requests(self._val), optimise=True):
                outputs.append(one)
                advance(1, "")
        answers = self._scorer.answers_in({name: values[:, 0] for name, values in stacked(outputs).items()})
        accuracy, drop, seconds = (
            self._scorer.score_answers(answers),
            self._judge.drop_of(answers),
            time.monotonic() - start,
        )
        report.info(
            f"quantize: {method}: validation {self.settings.task.metric_title} {accuracy:.2%}, float "
            f"{self._float_accuracy:.2%}, {drop.describe(self.settings.quantize.max_drop)} [{seconds:.1f} s]"
        )
        step = QuantizeStep(
            method=method, float_layers=self.settings.quantize.skip, val_accuracy=accuracy, drop=drop.points,
            drop_ci95=drop.interval, samples=drop.samples, verdict=drop.verdict, samples_needed=drop.needed,
            holds=self._judge.accepts(drop), seconds=round(seconds, 3),
        )  # fmt: skip
        return GraphForm(method, step, answers)

    def _speeds(self) -> list[Int8Speed]:
        """Measure the forms of each target's kit beside the float student, in turns."""
        start, report, found = time.monotonic(), self.workspace.report, list[Int8Speed]()
        timer = self._timers(self._graph.requests(self._val.take(self._timed_rows())), self.workspace)
        with report.track("int8 against float", len(self._targets)) as advance:
            for target in self._targets.values():
                found += payoff.form_speeds(timer, target, self._graph.model, self._int8[0])
                advance(1, target.name)
        for one in found:
            report.info(f"quantize: {payoff.describe(one)}")
        self.seconds["speed"] = round(time.monotonic() - start, 3)
        return found

    def _timed_rows(self) -> Array:
        """Return the positions of validation samples to time forms with."""
        count = min(TIMED, len(self._val))
        return payoff.spread_rows(self._graph.requests(self._val), count) if self.settings.varies else np.arange(count)

    def _choice(self, kit: str, forms: Sequence[GraphForm], speeds: Sequence[Int8Speed]) -> GraphForm:
        """Return the fastest form within max_drop on the targets of a kit; static scales if no speed is known."""
        own = [one for one in speeds if self._targets[one.target].kit.name == kit]
        taken = [form for form in forms if form.method in {one.method for one in own}]
        held = [form for form in taken if form.step.holds]
        if not held:
            return max(taken, key=lambda form: form.step.val_accuracy)
        return min(held, key=lambda form: payoff.cost([one for one in own if one.method == form.method]))

    def _unpaid(self, chosen: dict[str, GraphForm], speeds: Sequence[Int8Speed]) -> list[list[Int8Speed]]:
        """Return the speeds of the forms on each target where the chosen form is not faster than float."""
        slow = []
        for target in self._targets.values():
            own = [one for one in speeds if one.target == target.name and one.verdict is not None]
            if any(one.method == chosen[target.kit.name].method and one.verdict != "faster" for one in own):
                slow.append(own)
        return slow

    def _judge_usefulness(self, chosen: Sequence[GraphForm]) -> tuple[tuple[Finding, ...], bool]:
        """Return and print what is wrong with the outputs of a form, if the float student has the same problem, and whether int8 is useful.

        Raises AccuracyError if int8 is not, unless "auto" has other methods.
        """
        for form in chosen:
            try:
                finding = judge_usefulness(self.settings, form.answers, self._judge.floats, self._val.labels)
            except AccuracyError as error:
                if self.settings.varies:
                    raise
                self.workspace.report.info(f"{str(error).partition(';')[0]}; auto tries its other methods")
                return (), False
            if finding is not None:
                self.workspace.report.info(str(finding))
                return (finding,), True
        return (), True

    def _conclude(self, chosen: dict[str, GraphForm]) -> None:
        """Print the form of each kit, and what to do if it loses too much."""
        limit = self.settings.quantize.max_drop
        for kit, form in chosen.items():
            lost = "" if form.step.holds else (
                f", which loses {form.step.drop:+.2f} points on validation data, and max_drop is {limit:g}: raise max_drop, or ship the "
                "float model"
            )  # fmt: skip
            self.workspace.report.info(f"quantize: {kit} gets {form.method}{lost}")


def _warning(unpaid: Sequence[Sequence[Int8Speed]], *, does_not_pay: bool) -> Finding:
    """Return the warning that int8 is faster than float on no target, or on some targets not."""
    measured = "; ".join(
        f"{speeds[0].target}: " + ", ".join(f"{one.method} {one.latency_ratio:.2f}" for one in speeds)
        for speeds in unpaid
    )
    where = "on every target with int8" if does_not_pay else "on " + ", ".join(speeds[0].target for speeds in unpaid)
    text = f"int8 does not pay {where}: no form within max_drop is faster than float (times its latency: {measured}); ship the float model there"
    return Finding(severity="warning", subject=QuantizedRecord.stage, text=text)
