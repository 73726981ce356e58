import sys

import numpy as np
from onnx import TensorProto, helper

from edgedistill.graphs.run import run_onnx
from edgedistill.graphs.slim import fold_constants, slim
from tests.support.small_onnx import requests_for, text_model


def test_a_graph_deeper_than_python_s_recursion_is_simplified():
    depth = sys.getrecursionlimit()
    nodes = [helper.make_node("Sin", [f"t{i}"], [f"t{i + 1}"]) for i in range(depth)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("t0", f"t{depth}")]
    graph = helper.make_graph(nodes, "deep", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    simplified = slim(model)
    assert sys.getrecursionlimit() == depth
    requests = {"t0": np.ones((1, 1, 2), np.float32)}
    before, after = (run_onnx(each.SerializeToString(), requests)[f"t{depth}"] for each in (model, simplified))
    np.testing.assert_array_equal(before, after)


def test_operators_on_stored_tensors_are_computed_where_onnxslim_needs_their_results():
    stored = np.arange(6, dtype=np.float32).reshape(2, 3)
    model = text_model(
        "(float[1, 2] x) => (float[1, 3] y, float[3, 2] kept) { t = Transpose(w) back = Transpose(t) kept = Transpose(w)"
        " y = MatMul(x, back) }", w=stored,
    )  # fmt: skip
    folded = fold_constants(model)
    assert [node.op_type for node in folded.graph.node] == ["Transpose", "MatMul"]
    before, after = (run_onnx(each.SerializeToString(), requests_for(model)) for each in (model, folded))
    for name, values in before.items():
        np.testing.assert_allclose(values, after[name], rtol=1e-6)
