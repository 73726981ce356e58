"""Judge whether an int8 student is still useful: its outputs on validation data are finite, not constant, better than chance."""

from __future__ import annotations

from torch import nn

from edgedistill.data.sources import Array
from edgedistill.distill.predictors import scorer_of, torch_predictor
from edgedistill.errors import AccuracyError
from edgedistill.quantize.settings import QuantizeSettings
from edgedistill.records.finding import Finding
from edgedistill.records.stages import QuantizedRecord
from edgedistill.stages.stage import Workspace
from edgedistill.tasks.chance import Problem, find_problem


def require_useful(
    settings: QuantizeSettings, workspace: Workspace, model: nn.Module, int8: nn.Module
) -> tuple[Finding, ...]:
    """Return and print what is wrong with an int8 student whose float model has the same problem.

    Raises AccuracyError if int8 alone made the outputs constant, not finite, or no better than chance.
    """
    scorer = scorer_of(settings, settings.labelled_data(workspace).val)
    problem = scorer.problem(torch_predictor(int8, "fp32"))
    if problem is None:
        return ()
    finding = _shared(settings, problem, scorer.problem(torch_predictor(model, "fp32")))
    workspace.report.info(str(finding))
    return (finding,)


def judge_usefulness(settings: QuantizeSettings, int8: Array, floats: Array, labels: Array) -> Finding | None:
    """Return what is wrong with an int8 student's answers (N, ...) if those of the float student have the same problem.

    Raises AccuracyError if int8 alone made them constant, not finite, or no better than chance.
    """
    problem = find_problem(settings.task, int8, labels)
    return None if problem is None else _shared(settings, problem, find_problem(settings.task, floats, labels))


def _shared(settings: QuantizeSettings, problem: Problem, of_float: Problem | None) -> Finding:
    text = f"the int8 student {problem.text}"
    if of_float is None:
        has_more = settings.quantize.mode != "auto" and not settings.varies
        auto = 'set [quantize] mode = "auto", ' if has_more else ""
        raise AccuracyError(
            f"quantize: {text}, and the float student is useful; {auto}keep layers in float with skip, "
            'calibrate with more samples, or deploy the float model (mode = "none")'
        )
    return Finding(
        severity="warning", subject=QuantizedRecord.stage, text=f"{text}; the float student has the same problem"
    )
