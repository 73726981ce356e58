"""The engine that runs a torch teacher over the soft labels: the faster of torch and OpenVINO, found by trying both."""

from __future__ import annotations

import time
import warnings
from typing import Literal

import torch
from torch import Tensor, nn

from edgedistill.config import TeacherConfig
from edgedistill.distill.predictors import Predict, torch_predictor
from edgedistill.distill.training import bf16_wanted
from edgedistill.errors import ConfigError
from edgedistill.progress import Reporter

EngineName = Literal["torch", "openvino"]
WORTH_IT = 1.2  # another engine must win clearly, so that noise does not decide and a second run decides alike
TRIALS = 3
MIN_AGREEMENT = 0.98


def choose_engine(plan: TeacherConfig, model: nn.Module, sample: Tensor, report: Reporter) -> EngineName:
    """Return "torch" or "openvino": as `plan.engine` asks, or for "auto" the one that runs the sample batch faster.

    Raises ConfigError when OpenVINO was asked for and does not take the model.
    """
    wanted, precision = plan.engine, plan.precision
    if wanted == "torch" or (wanted == "auto" and torch.cuda.is_available()):
        return "torch"
    by_torch = torch_predictor(model, precision)
    try:
        by_openvino = openvino_predictor(model, sample, precision)
        agreement = float((by_openvino(sample).argmax(1) == by_torch(sample).argmax(1)).float().mean())
    except (RuntimeError, TypeError) as error:  # OpenVINO's conversion and compilation errors derive from these
        reason = str(error).strip().splitlines()[0]
        if wanted == "openvino":
            raise ConfigError(f"teacher.engine: OpenVINO does not take this teacher: {reason}") from error
        report.line(f"soft labels: teacher runs in torch; OpenVINO does not take it: {reason}")
        return "torch"
    if wanted == "openvino":
        return "openvino"
    seconds = {"torch": _seconds(by_torch, sample), "openvino": _seconds(by_openvino, sample)}
    wins = seconds["torch"] > WORTH_IT * seconds["openvino"] and agreement >= MIN_AGREEMENT
    chosen: EngineName = "openvino" if wins else "torch"
    rates = ", ".join(f"{name} {len(sample) / taken:,.0f}" for name, taken in seconds.items())
    report.line(
        f"soft labels: teacher runs in {chosen}; samples per second: {rates}; the two agree on {agreement:.1%} of a batch"
    )
    return chosen


def openvino_predictor(model: nn.Module, sample: Tensor, precision: str) -> Predict:
    """Compile a torch model with OpenVINO for batches of any size, in bfloat16 or float32 as `precision` says."""
    import openvino

    sizes = ({0: torch.export.Dim.AUTO},)
    with warnings.catch_warnings():
        # torch copies its own module call graph with a class that it has deprecated.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated", category=FutureWarning)
        program = torch.export.export(model.eval(), (sample[:2].contiguous(),), dynamic_shapes=sizes)
        converted = openvino.convert_model(program)
    hints = {
        "INFERENCE_PRECISION_HINT": "bf16" if bf16_wanted(precision) else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = openvino.Core().compile_model(converted, "CPU", hints).create_infer_request()

    def predict(inputs: Tensor) -> Tensor:
        (logits,) = request.infer([inputs.contiguous().numpy()]).values()
        return torch.from_numpy(logits.copy()).float()

    return predict


def _seconds(predict: Predict, sample: Tensor) -> float:
    """Return the least time of a few trials, after one to warm up."""
    predict(sample)
    taken = []
    for _ in range(TRIALS):
        start = time.perf_counter()
        predict(sample)
        taken.append(time.perf_counter() - start)
    return min(taken)
