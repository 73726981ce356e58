"""The float student as an ONNX model, and samples as its inputs: what the quantize stage rounds for a transformer."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import onnx
from torch import nn

from edgedistill.data.dataset import Split
from edgedistill.data.views import plain_views
from edgedistill.distill.predictors import spatial_size
from edgedistill.distill.settings import LearningSettings
from edgedistill.export.baked import Baking, at_their_length, examples_of
from edgedistill.export.onnx_export import export_onnx
from edgedistill.graphs.index import lift_constants, name_nodes
from edgedistill.graphs.run import Requests
from edgedistill.models.outputs import labelled_names, run
from edgedistill.quantize.settings import GraphPlan, QuantizeSettings

LENGTH = "length"
"""The name of the axis of texts that varies."""


class StudentGraph:
    """A float student as the export stage writes it, in the opset of the plan."""

    def __init__(self, settings: QuantizeSettings, student: nn.Module) -> None:
        assert settings.graph is not None
        self._settings, self._student = settings, student
        self._baking = Baking(settings.data, settings.views, settings.graph.bake)

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The model, whose nodes have names; the length of texts varies."""
        assert self._settings.graph is not None
        return exported_graph(self._settings, self._student, self._settings.graph)

    def requests(self, split: Split) -> Requests:
        """Return the samples of a split as inputs of the model: arrays (N, 1, ...), or texts at their own length."""
        inputs = self._baking.inputs(split)
        return at_their_length(inputs) if self._settings.varies else inputs


def exported_graph(settings: LearningSettings, model: nn.Module, plan: GraphPlan) -> onnx.ModelProto:
    """Return a float model as the export stage writes it; its nodes have names, and the length of texts varies."""
    split, baking = settings.dataset().train.first(1), Baking(settings.data, settings.views, plan.bake)
    views, inputs = plain_views(split, settings.data, settings.views), baking.inputs(split)
    whole = settings.task.exported(model.eval(), spatial_size(views)).eval()
    first = np.zeros(1, np.int64)
    outputs = run(whole, views.batch(first, first))
    main = labelled_names(tuple(outputs), settings.task.exported_output or settings.data.output, "student")[0]
    names = baking.names(outputs)
    module = baking.module(whole, names, main).eval()
    length = LENGTH if settings.interface.kind.varies else None
    graph = export_onnx(module, examples_of(inputs), plan.opset, tuple(inputs), tuple(names.values()), length)
    lift_constants(graph.graph)
    name_nodes(graph.graph)
    return graph
