"""Checks that torch can export the models of a configuration and prepare the student for int8, made before any training."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

from torch import nn

from edgedistill.data.views import plain_views
from edgedistill.distill.loading import build_student
from edgedistill.distill.settings import DistillPlan, declare_plan
from edgedistill.export.student_graph import exported_graph
from edgedistill.models.build import build_model
from edgedistill.models.source import ModelSource
from edgedistill.pipeline.run_checks import attempt
from edgedistill.quantize.calibration import example_input
from edgedistill.quantize.onnx_graph import OnnxGraph
from edgedistill.quantize.placement import place
from edgedistill.quantize.prepare import prepare
from edgedistill.quantize.settings import GraphPlan
from edgedistill.records.finding import Finding
from edgedistill.stages.stage import Sources

UNKNOWN: Final = frozenset({"function", "timm"})
"""The sources of models that edgedistill's own tests do not export; an export takes seconds, so the others are not tried."""


def find_unexportable(sources: Sources) -> Iterator[Finding]:
    """Yield why torch cannot export the first teacher or the student; `sources` have the record of the data."""
    plan = declare_plan(sources)
    teacher, student = plan.teachers[0].source, plan.student.model
    if _is_unknown(teacher):
        model = build_model(teacher, plan.interface, plan.seed)
        yield from attempt(partial(exported_graph, plan, model, _graph_plan(sources)), "teacher.model")
    if student is not None and student.spec != teacher.spec and _is_unknown(student):
        yield from attempt(partial(exported_graph, plan, _student(plan), _graph_plan(sources)), "student.model")


def find_unquantizable(sources: Sources) -> Iterator[Finding]:
    """Yield why the student cannot be prepared for int8, and names in `quantize.skip` that it does not have."""
    config, skip = sources.config, sources.config.quantize.skip
    if config.quantize.mode == "none" or not any("int8" in target.precisions for target in config.target):
        return
    plan = declare_plan(sources)
    if plan.interface.kind.varies:  # such a student is only quantized as a graph
        if skip:
            graph = exported_graph(plan, _student(plan), _graph_plan(sources))
            yield from attempt(partial(place, OnnxGraph(graph).graph, skip), "quantize.skip")
    elif skip or _is_unknown(plan.student.model):
        inputs = example_input(plain_views(plan.dataset().train, plan.data, plan.views))
        yield from attempt(partial(prepare, _student(plan), inputs, skip), "quantize")


def _graph_plan(sources: Sources) -> GraphPlan:
    """Return how models are exported: in the lowest opset of the targets, unless the configuration sets one."""
    export = sources.config.export
    forms = (form for target in sources.config.target for form in sources.kits[target.kit].forms())
    return GraphPlan(bake=export.bake, opset=export.opset or min(form.opset for form in forms))


def _is_unknown(source: ModelSource | None) -> bool:
    return source is not None and source.spec.source in UNKNOWN


def _student(plan: DistillPlan) -> nn.Module:
    return build_student(plan.student, plan.interface, plan.seed).eval()
