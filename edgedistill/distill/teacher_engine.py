"""Choose the engine that computes soft labels with a torch teacher: the faster of torch and OpenVINO."""

from __future__ import annotations

import importlib.util
import time
import warnings
from typing import Any, Literal

import torch
from torch import nn

from edgedistill.distill.bfloat16 import uses_bf16
from edgedistill.distill.predictors import Predict, split_outputs, torch_predictor
from edgedistill.errors import ConfigError
from edgedistill.losses.batch import Tensors
from edgedistill.models.interface import Interface
from edgedistill.models.outputs import run
from edgedistill.runtime import processes
from edgedistill.runtime.progress import Reporter, in_words
from edgedistill.tasks.task import Task

EngineName = Literal["torch", "openvino"]
# OpenVINO ran the tested CNNs and transformers 1.4 to 3.4 times as fast. torch must be clearly faster to be chosen: noise
# then does not change the choice between runs.
TORCH_MUST_WIN_BY = 1.25
TRIALS = 4
WORTH_TRYING_S = 5.0
"""OpenVINO takes about this long to convert, compile and try a teacher; a teacher that needs less in torch runs in torch."""
MIN_AGREEMENT = 0.98


class EngineChoice:
    """Chooses engines for teachers of one task and interface."""

    def __init__(self, task: Task, interface: Interface, report: Reporter) -> None:
        self.task, self.interface, self.report = task, interface, report

    def choose(self, requested: tuple[str, str], model: nn.Module, sample: Tensors, inputs: int) -> EngineName:
        """Return "torch" or "openvino" for a teacher: as requested, or for "auto" the faster engine on the sample batch.

        `requested` is the engine and the precision of the configuration, `inputs` is the number of inputs to answer. "auto" tries
        OpenVINO only if torch would take longer than the trial. Raises ConfigError if OpenVINO is requested but cannot
        convert the model.
        """
        wanted, precision = requested
        if self.interface.kind.varies:  # texts vary in length, which only torch is used for
            return "torch"
        if wanted == "torch" or (wanted == "auto" and processes.device().type != "cpu"):
            return "torch"
        by_torch = torch_predictor(model, precision)
        if wanted == "auto" and not self._is_worth_trying(by_torch, sample, inputs):
            return "torch"
        try:
            by_openvino = openvino_predictor(model, sample, precision)
            agreement = self._agreement(by_openvino(sample), by_torch(sample))
        except (RuntimeError, TypeError) as error:  # OpenVINO's conversion and compilation errors derive from these
            reason = str(error).strip().splitlines()[0]
            if wanted == "openvino":
                raise ConfigError(f"teacher.engine: OpenVINO cannot convert this teacher: {reason}") from error
            self.report.info(f"soft labels: teacher runs in torch; OpenVINO cannot convert it: {reason}")
            return "torch"
        if wanted == "openvino":
            return "openvino"
        return self._faster({"torch": by_torch, "openvino": by_openvino}, sample, agreement)

    def _is_worth_trying(self, by_torch: Predict, sample: Tensors, inputs: int) -> bool:
        """Return whether OpenVINO is installed and torch would take longer than the trial; report why not."""
        seconds = _seconds({"torch": by_torch}, sample, 2)["torch"] * inputs / len(next(iter(sample.values())))
        if seconds < WORTH_TRYING_S:
            self.report.info(
                f"soft labels: teacher runs in torch, which takes about {seconds:.1f} s; OpenVINO is not tried"
            )
            return False
        if not has_openvino():
            self.report.info(
                f"soft labels: teacher runs in torch, which takes about {in_words(seconds)}; OpenVINO, which may be faster, is not "
                "installed: pip install 'edgedistill[openvino]'"
            )
            return False
        return True

    def _faster(self, predicts: dict[EngineName, Predict], sample: Tensors, agreement: float) -> EngineName:
        seconds = _seconds(predicts, sample)
        slower = seconds["openvino"] > TORCH_MUST_WIN_BY * seconds["torch"]
        chosen: EngineName = "torch" if slower or agreement < MIN_AGREEMENT else "openvino"
        count = len(next(iter(sample.values())))
        rates = ", ".join(f"{name} {count / taken:,.0f}" for name, taken in seconds.items())
        self.report.info(
            f"soft labels: teacher runs in {chosen}; samples per second: {rates}; "
            f"the two agree: {self.task.metric_title} {agreement:.1%} on a batch"
        )
        return chosen

    def _agreement(self, outputs: Tensors, reference: Tensors) -> float:
        ours, theirs = (split_outputs(one, self.interface.output).main.numpy() for one in (outputs, reference))
        size = self.interface.kind.spatial(self.interface.first.shape)
        return self.task.agreement(*(self.task.answers(one, size, self.interface.values) for one in (ours, theirs)))


def has_openvino() -> bool:
    """Return whether OpenVINO is installed; it is in an extra."""
    return importlib.util.find_spec("openvino") is not None


def openvino_predictor(model: nn.Module, sample: Tensors, precision: str) -> Predict:
    """Compile a torch model with OpenVINO for any batch size; `precision` is that of the configuration."""
    import openvino

    with torch.no_grad():
        names = tuple(run(model.eval(), {name: x[:2] for name, x in sample.items()}))
    example = tuple(x[:2].contiguous() for x in sample.values())
    sizes = tuple({0: torch.export.Dim.AUTO} for _ in example)
    with warnings.catch_warnings():
        # torch copies its own module call graph with a class that it has deprecated.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated", category=FutureWarning)
        program = torch.export.export(model.eval(), example, dynamic_shapes=_sizes_of(model, sizes))
        converted = openvino.convert_model(program)
    hints = {
        "INFERENCE_PRECISION_HINT": "bf16" if uses_bf16(precision, torch.device("cpu")) else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = openvino.Core().compile_model(converted, "CPU", hints).create_infer_request()

    def predict(inputs: Tensors) -> Tensors:
        values = request.infer([x.contiguous().numpy() for x in inputs.values()]).values()
        return {name: torch.from_numpy(value.copy()).float() for name, value in zip(names, values, strict=True)}

    return predict


def _sizes_of(model: nn.Module, sizes: tuple[dict[int, Any], ...]) -> tuple[Any, ...]:
    """Return dynamic shapes for torch.export, which needs them in a nested tuple if forward takes *inputs."""
    import inspect

    kinds = [parameter.kind for parameter in inspect.signature(model.forward).parameters.values()]
    return (sizes,) if kinds[:1] == [inspect.Parameter.VAR_POSITIONAL] else sizes


def _seconds(predicts: dict[EngineName, Predict], sample: Tensors, trials: int = TRIALS) -> dict[EngineName, float]:
    """Return the shortest time of each engine over a few alternating trials, after one warm-up run."""
    taken: dict[EngineName, list[float]] = {name: [] for name in predicts}
    for _ in range(trials):
        for name, predict in predicts.items():
            start = time.perf_counter()
            predict(sample)
            taken[name].append(time.perf_counter() - start)
    return {name: min(times) for name, times in taken.items()}
