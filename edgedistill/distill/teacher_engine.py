"""The engine that runs a torch teacher over the soft labels: the faster of torch and OpenVINO, found by trying both."""

from __future__ import annotations

import time
import warnings
from typing import Literal

import torch
from torch import Tensor, nn

from edgedistill.config.training import TeacherConfig
from edgedistill.distill.predictors import Predict, torch_predictor
from edgedistill.distill.training import bf16_wanted
from edgedistill.errors import ConfigError
from edgedistill.runtime.progress import Reporter
from edgedistill.tasks.tasks import TASKS, TaskName, agreement_of

EngineName = Literal["torch", "openvino"]
# OpenVINO ran the CNNs and transformers tried 1.4 to 3.4 times as fast. It is taken unless torch is clearly faster, so
# that noise does not decide, and a second run decides alike.
TORCH_MUST_WIN_BY = 1.25
TRIALS = 4
MIN_AGREEMENT = 0.98


def choose_engine(
    plan: TeacherConfig, model: nn.Module, sample: Tensor, report: Reporter, task: TaskName = "classification"
) -> EngineName:
    """Return "torch" or "openvino": as `plan.engine` asks, or for "auto" the one that runs the sample batch faster.

    Raises ConfigError when OpenVINO was asked for and does not take the model.
    """
    wanted, precision = plan.engine, plan.precision
    if wanted == "torch" or (wanted == "auto" and torch.cuda.is_available()):
        return "torch"
    by_torch = torch_predictor(model, precision)
    try:
        by_openvino = openvino_predictor(model, sample, precision)
        agreement = agreement_of(task, by_openvino(sample).numpy(), by_torch(sample).numpy())
    except (RuntimeError, TypeError) as error:  # OpenVINO's conversion and compilation errors derive from these
        reason = str(error).strip().splitlines()[0]
        if wanted == "openvino":
            raise ConfigError(f"teacher.engine: OpenVINO does not take this teacher: {reason}") from error
        report.line(f"soft labels: teacher runs in torch; OpenVINO does not take it: {reason}")
        return "torch"
    if wanted == "openvino":
        return "openvino"
    seconds = _seconds({"torch": by_torch, "openvino": by_openvino}, sample)
    slower = seconds["openvino"] > TORCH_MUST_WIN_BY * seconds["torch"]
    chosen: EngineName = "torch" if slower or agreement < MIN_AGREEMENT else "openvino"
    rates = ", ".join(f"{name} {len(sample) / taken:,.0f}" for name, taken in seconds.items())
    agree = f"on {agreement:.1%} of a batch" if task == "classification" else f"by {agreement:.1%} {TASKS[task].shown}"
    report.line(f"soft labels: teacher runs in {chosen}; samples per second: {rates}; the two agree {agree}")
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


def _seconds(predicts: dict[str, Predict], sample: Tensor) -> dict[str, float]:
    """Return the least time of a few trials of each, taken in turns; both have run once before."""
    taken: dict[str, list[float]] = {name: [] for name in predicts}
    for _ in range(TRIALS):
        for name, predict in predicts.items():
            start = time.perf_counter()
            predict(sample)
            taken[name].append(time.perf_counter() - start)
    return {name: min(times) for name, times in taken.items()}
