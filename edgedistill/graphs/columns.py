"""Reorder or select the columns of an output of an ONNX graph."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from edgedistill.graphs.index import Names


def select_columns(model: onnx.ModelProto, output: str, columns: list[int]) -> None:
    """Replace, in place, an output (N, D) by its given columns; the output keeps its name."""
    graph, names = model.graph, Names.of(model.graph)
    whole, chosen = names.new(f"{output}_whole"), names.new(f"{output}_columns")
    for node in graph.node:
        for tensors in (node.input, node.output):
            for place, name in enumerate(tensors):
                if name == output:
                    tensors[place] = whole
    graph.initializer.append(numpy_helper.from_array(np.array(columns, np.int64), chosen))
    graph.node.append(
        onnx.helper.make_node("Gather", [whole, chosen], [output], name=names.new("select_columns"), axis=1)
    )
    (value,) = (one for one in graph.output if one.name == output)
    value.type.tensor_type.shape.dim[1].dim_value = len(columns)
